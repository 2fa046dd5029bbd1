"""Harmful batches: what is skipped, what is left out, and where a run that met them ends."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evals.validation import Validation
from llama_scale.checkpoint import folder as checkpoint
from llama_scale.cli import parse
from llama_scale.config import OptimConfig, TrainConfig
from llama_scale.data.loader import StepSampler, TokenWindows, batch_number
from llama_scale.data.shards import open_tokens
from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl, write_json
from llama_scale.training import trainer as training
from llama_scale.training.loss_spikes import MIN_ACCEPTED, SIGMAS, WINDOW, SkipLimit, SpikeGuard
from llama_scale.training.optim import build_optimizer
from llama_scale.training.result import write_result
from llama_scale.training.rollback import documents_of, is_undone, read_rollbacks, skipped_batches
from llama_scale.training.run_plan import plan_run
from llama_scale.training.trainer import Pretraining, fit
from tests.conftest import TINY_MODEL

MARK = 0  # <unk>, which no text encodes to
STEPS, BATCH = 160, 8


def skips(guard: SpikeGuard, loss: float, norm: float = 1.0) -> bool:
    return bool(guard.check_step(torch.tensor(loss), torch.tensor(norm)))


def test_guard_equals_six_standard_deviations_by_hand():
    losses = np.random.default_rng(0).normal(3.0, 0.1, 300).astype(np.float32)
    guard, accepted = SpikeGuard(), []
    for i, loss in enumerate(losses):
        if i % 50 == 49:
            loss = np.float32(3.0 + 0.12 * SIGMAS)
        window = np.array(accepted[-WINDOW:])
        spike = len(window) >= MIN_ACCEPTED and loss > window.mean() + SIGMAS * window.std()
        assert skips(guard, loss) == spike, i
        if not spike:
            accepted.append(loss)
    assert int(guard.skipped) == 300 - len(accepted) > 0
    assert int(guard.in_row) == 1 and int(guard.accepted) == len(accepted)


@pytest.mark.parametrize("bad", [(np.nan, 1.0), (np.inf, 1.0), (3.0, np.nan), (3.0, np.inf)])
def test_non_finite_values_are_skipped_from_the_first_step(bad):
    guard = SpikeGuard()
    assert skips(guard, *bad) and skips(guard, *bad) and int(guard.in_row) == 2
    assert not skips(guard, 3.0) and int(guard.in_row) == 0 and int(guard.skipped) == 2


def test_state_round_trip_is_exact():
    guard = SpikeGuard()
    for loss in torch.randn(40).tolist():
        guard.check_step(torch.tensor(loss), torch.tensor(1.0))
    again = SpikeGuard()
    again.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert all(torch.equal(a, b) for a, b in zip(vars(guard).values(), vars(again).values(), strict=True))


def test_a_skipped_step_leaves_weights_and_moments_untouched():
    model = torch.nn.Linear(4, 4)
    optimizer = build_optimizer(model, OptimConfig(), 0.1)
    for skip in (0.0, 1.0):
        before = [p.detach().clone() for p in model.parameters()]
        states = {i: {k: v.clone() for k, v in s.items()} for i, s in
                  optimizer.state_dict()["state"].items()}  # fmt: skip
        model(torch.ones(1, 4)).sum().backward()
        if skip:
            model.weight.grad.fill_(torch.nan)
        optimizer.found_inf = torch.tensor(skip)
        optimizer.step()
        same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert all(same) if skip else not any(same)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][k], v) for i, s in states.items() for k, v in s.items())


def test_batches_left_out_move_the_others_up():
    for skipped in ([], [0], [3], [2, 3, 7], [0, 1, 2]):
        sampler = iter(StepSampler(4, 2, 0, skipped=skipped))
        order = [next(sampler)[0] // 4 for _ in range(20)][::2]
        assert order == [n for n in range(20) if n not in skipped][:10]
        assert [batch_number(step, skipped) for step in range(10)] == order
        late = iter(StepSampler(4, 2, 5, skipped=skipped))
        assert next(late)[0] // 4 == order[5]


@pytest.mark.parametrize(("skipped", "first"), [(range(131, 151), 131), (range(136, 151), None)])
def test_the_last_steps_are_looked_at(skipped, first):
    """150 steps are no multiple of 16: those after the 144th are looked at when the run ends."""
    trainer = SimpleNamespace(max_steps=150, should_stop=False)
    limit, in_row = SkipLimit(16), torch.tensor(0)
    for step in range(1, 151):
        in_row = in_row + 1 if step in skipped else torch.tensor(0)
        limit.take(SimpleNamespace(skips_in_row=in_row))
        limit.on_step(trainer, None, step)
        assert limit.first is None or step == 150
    assert limit.first == first and trainer.should_stop == (first is not None)


def test_a_checkpoint_from_before_a_rollback_is_recognized():
    rollbacks = [{"from_step": 30}, {"from_step": 50}]
    undone = {(30, 0): False, (40, 0): True, (40, 1): False, (60, 1): True, (60, 2): False}
    for (step, known), expected in undone.items():
        assert is_undone({"step": step, "rollbacks": known}, rollbacks) is expected


def test_documents_of_a_batch_by_brute_force(tiny_data, tmp_path):
    tokens = open_tokens(tiny_data, "train")
    everything = tokens.read(0, tokens.n_tokens)
    ends = np.flatnonzero(everything == tokens.eos)
    rows, start = [], 0
    for number, end in enumerate(ends):
        shard = int(np.searchsorted(tokens.ends, start, side="right"))
        offset = start - (int(tokens.ends[shard - 1]) if shard else 0)
        rows.append({"split": "train", "shard": shard, "start": offset, "package": "stdlib",
                     "path": f"{number}.py", "sha256": "0"})  # fmt: skip
        start = int(end) + 1
    val = {"split": "val", "shard": 0, "start": 0}
    path = tiny_data / "documents.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in [val, *rows])
    try:
        windows = TokenWindows(tokens, 64, seed=0)
        samples = np.arange(40, 60)
        found = documents_of(windows, samples)
    finally:
        path.unlink()
    expected = set()
    for begin in windows.starts(samples):
        for position in range(begin, begin + 65):
            expected.add(int(np.searchsorted(ends, position)))
    assert [row["document"] - 1 for row in found] == sorted(expected)
    assert found[0]["path"] == f"{found[0]['document'] - 1}.py"
    assert documents_of(windows, samples) is None


def train(data, run, *more, steps=STEPS):
    argv = [*TINY_MODEL, f"--optim.batch_tokens={BATCH * 64}", "--val_tokens=2000", "--threads=1",
            f"--data={data}", f"--run={run}", f"--tokens={steps * BATCH * 64}",
            "--checkpoint_every=10", "--log_every=4", "--keep_last=4", "--max_skips=4",
            *more]  # fmt: skip
    planned = plan_run(parse(TrainConfig, "Train.", argv))
    fit(planned, scorers=[Validation(planned.config.data, STEPS, 2000)])
    return write_result(planned)


@pytest.fixture(scope="module")
def clean(tiny_data, tmp_path_factory):
    return train(tiny_data, tmp_path_factory.mktemp("clean") / "run")


@pytest.fixture
def poison(monkeypatch):
    """Return a function that turns batches into garbage tokens or their loss into NaN."""

    def poison(batches: set[int], kind: str) -> None:
        read, step = TokenWindows.__getitems__, Pretraining.training_step

        def windows(self, samples):
            rows = read(self, samples)
            if samples[0] // BATCH in batches:
                generator = torch.Generator().manual_seed(samples[0])
                if kind == "garbage":
                    rows = torch.randint(3, 512, rows.shape, generator=generator)
                rows[:, 0] = MARK
            return rows

        def training_step(self, batch, batch_idx):
            loss = step(self, batch, batch_idx)
            if kind == "nan" and batch[0, 0] == MARK:
                self.micro_batch_losses[-1] = self.micro_batch_losses[-1] * torch.nan
                return loss * torch.nan
            return loss

        monkeypatch.setattr(TokenWindows, "__getitems__", windows)
        monkeypatch.setattr(Pretraining, "training_step", training_step)

    return poison


@pytest.mark.parametrize("kind", ["nan", "garbage"])
def test_one_bad_batch_costs_one_step(clean, tiny_data, tmp_path, poison, kind):
    poison({100}, kind)
    result = train(tiny_data, tmp_path / "run")
    assert clean["skips"] == 0
    assert result["skips"] == 1 and not (tmp_path / "run/skipped.jsonl").exists()
    assert result["val_loss"] == pytest.approx(clean["val_loss"], rel=0.005)


@pytest.mark.parametrize("kind", ["nan", "garbage"])
def test_many_bad_batches_are_left_out_after_going_back(clean, tiny_data, tmp_path, poison, kind, capsys):
    bad = set(range(100, 107))
    poison(bad, kind)
    result = train(tiny_data, tmp_path / "run")
    (row,) = read_rollbacks(tmp_path / "run")
    assert "going back to step 90" in capsys.readouterr().out
    assert row["from_step"] == 90 and row["first_step"] == 101
    assert set(row["batches"]) <= bad and len(row["batches"]) >= 4
    assert result["val_loss"] == pytest.approx(clean["val_loss"], rel=0.005)
    rows = read_jsonl(tmp_path / "run/metrics.jsonl")
    assert [r["step"] for r in rows] == list(range(4, STEPS + 1, 4))
    assert all(np.isfinite(r["loss"]) for r in rows if r["loss"] is not None)


def test_a_run_that_always_fails_gives_up(tiny_data, tmp_path, monkeypatch):
    """A rate that no batch survives: three returns to the start, then one line."""
    run, real = tmp_path / "run", training.record_rollback

    def record_rollback(*arguments):
        assert len(read_rollbacks(run)) < 6, "it never gives up"
        return real(*arguments)

    monkeypatch.setattr(training, "record_rollback", record_rollback)
    flags = ["--optim.lr=1e30", "--optim.warmup_steps=0"]
    words = r"run: steps \d+ to \d+ .* step 0 3 times; \d+ batches .* lower optim\.lr"
    with pytest.raises(InputError, match=words):
        train(tiny_data, run, *flags)
    rows = read_rollbacks(run)
    assert [row["from_step"] for row in rows] == [0] * 4
    with pytest.raises(InputError, match=words):  # the same command tries once more
        train(tiny_data, run, *flags)
    assert len(read_rollbacks(run)) == 5


def test_what_a_rollback_undid_is_deleted_after_the_choice(tiny_data, tmp_path, monkeypatch):
    """Other processes may still read the checkpoints while the first chooses its own."""
    run, order = tmp_path / "run", []
    train(tiny_data, run, steps=30)
    (run / "skipped.jsonl").write_text('{"from_step": 10, "batches": [12]}\n')
    choose, discard = training.newest_checkpoint, checkpoint.discard
    monkeypatch.setattr(training, "newest_checkpoint", lambda *a: order.append("choose") or choose(*a))
    monkeypatch.setattr(checkpoint, "discard", lambda folder: order.append(folder.name) or discard(folder))
    monkeypatch.setattr(Pretraining, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny_data, run, steps=30)
    assert order == ["choose", "step-00000030", "step-00000020"]
    assert [p.name for p in checkpoint.list_checkpoints(run)] == ["step-00000010"]


def test_a_kill_between_record_and_deletion_changes_nothing(tiny_data, tmp_path, poison):
    """The checkpoints that a rollback undid are not continued, even where they still lie there."""
    poison(set(range(100, 107)), "nan")
    train(tiny_data, tmp_path / "whole")
    run = tmp_path / "run"
    train(tiny_data, run)
    (run / "result.json").unlink()
    kept = checkpoint.list_checkpoints(run)
    for folder in kept[:-1]:
        manifest = read_json(folder / "manifest.json")
        manifest["meta"]["rollbacks"] = 0
        write_json(folder / "manifest.json", manifest)
    checkpoint.discard(kept[-1])  # what stands is older than the rollback's start: from the start
    train(tiny_data, run)
    ends = [checkpoint.newest(r) / "model.safetensors" for r in (run, tmp_path / "whole")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert skipped_batches(read_rollbacks(run)) == skipped_batches(read_rollbacks(tmp_path / "whole"))
