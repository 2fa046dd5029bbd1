"""Cooldown branches of a constant-rate trunk."""

import shutil

import pytest
import torch

from evals.validation import Validation
from llama_scale.checkpoint import folder as checkpoint
from llama_scale.cli import parse
from llama_scale.config import TrainConfig
from llama_scale.data.loader import batch_number
from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl, write_json
from llama_scale.training.result import write_result
from llama_scale.training.rollback import read_rollbacks
from llama_scale.training.run_plan import plan_run
from llama_scale.training.trainer import Pretraining, fit
from tests.conftest import TINY_MODEL

BATCH = 512


def plan(data, run, steps, *more):
    argv = [*TINY_MODEL, f"--optim.batch_tokens={BATCH}", "--val_tokens=2000", "--threads=1"]
    argv += [f"--data={data}", f"--run={run}", f"--tokens={steps * BATCH}", "--log_every=1"]
    return plan_run(parse(TrainConfig, "Train.", [*argv, "--checkpoint_every=10", *more]))


def train(*arguments):
    planned = plan(*arguments)
    fit(planned, scorers=[Validation(planned.config.data, 10, 2000)])
    return write_result(planned)


@pytest.fixture(scope="module")
def trunk(tiny_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("trunk") / "run"
    result = train(tiny_data, run, 40, "--optim.schedule=constant", "--keep_every=10")
    assert result["annealed"] is False and result["parent"] is None
    return run


def branch(checkpoint_folder, *more):
    schedule = ["--optim.schedule=cooldown", "--optim.min_lr_ratio=0"]
    return [*schedule, f"--branch_from={checkpoint_folder}", *more]


def test_a_branch_cools_down_and_knows_its_parent(trunk, tiny_data, tmp_path):
    parent = trunk / "checkpoints/step-00000020"
    run = tmp_path / "branch"
    result = train(tiny_data, run, 30, *branch(parent))
    assert result["annealed"] is True and result["parent"] == str(parent)
    assert (result["steps"], result["tokens"]) == (30, 30 * BATCH)
    rows = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl")}
    peak = result["lr"]
    assert [row for row in rows if row <= 20] == []
    for step in range(21, 31):  # linear to zero over the branch's ten steps
        assert rows[step]["lr"] == pytest.approx(peak * (1 - (step - 20) / 10), abs=1e-12)
    trunk_rows = {row["step"]: row for row in read_jsonl(trunk / "metrics.jsonl")}
    assert trunk_rows[30]["lr"] == peak
    # The first loss is before any update of the branch: the trunk's own, on the same batch.
    assert rows[21]["loss"] == trunk_rows[21]["loss"]
    assert rows[22]["loss"] != trunk_rows[22]["loss"]
    meta = checkpoint.load_meta(run / "checkpoints/step-00000030")
    assert meta["parent"] == str(parent)


def test_a_branch_resumes_exactly(trunk, tiny_data, tmp_path):
    arguments = branch(trunk / "checkpoints/step-00000010", "--checkpoint_every=4", "--keep_last=9")
    for name in ("whole", "cut"):
        train(tiny_data, tmp_path / name, 20, *arguments)
    checkpoint.discard(tmp_path / "cut/checkpoints/step-00000020")
    train(tiny_data, tmp_path / "cut", 20, *arguments)
    ends = [tmp_path / n / "checkpoints/step-00000020/model.safetensors" for n in ("whole", "cut")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_a_trunk_that_is_continued_is_the_longer_trunk(trunk, tiny_data, tmp_path):
    parent = trunk / "checkpoints/step-00000020"
    result = train(tiny_data, tmp_path / "on", 40, "--optim.schedule=constant", f"--branch_from={parent}")
    assert result["annealed"] is False and result["parent"] == str(parent)
    assert [row["step"] for row in read_jsonl(tmp_path / "on/metrics.jsonl")] == list(range(21, 41))
    ends = [run / "checkpoints/step-00000040/model.safetensors" for run in (tmp_path / "on", trunk)]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    cooled = [
        train(tiny_data, tmp_path / run.name, 50, *branch(end.parent))
        for run, end in zip((tmp_path / "on-a", tmp_path / "b"), ends, strict=True)
    ]
    assert cooled[0]["val_loss"] == cooled[1]["val_loss"]


def test_a_branch_leaves_out_what_its_trunk_left_out(trunk, tiny_data, tmp_path):
    shutil.copytree(trunk, tmp_path / "trunk")
    folder = tmp_path / "trunk/checkpoints/step-00000020"
    manifest = read_json(folder / "manifest.json")
    manifest["meta"]["skipped"] = [3, 20]
    write_json(folder / "manifest.json", manifest)
    planned = plan(tiny_data, tmp_path / "x", 30, *branch(folder))
    assert planned.recipe.skipped == (3, 20) and planned.recipe.first_step == 20
    assert batch_number(20, list(planned.recipe.skipped)) == 22


def test_a_branch_that_goes_back_past_its_start_begins_again(trunk, tiny_data, tmp_path, monkeypatch, capsys):
    """Bad batches before the branch's first checkpoint: it goes back to its parent's step."""
    step = Pretraining.training_step

    def training_step(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if first <= self.global_step < first + 4 and not read_rollbacks(run):
            self.micro_batch_losses[-1] = self.micro_batch_losses[-1] * torch.nan
        return loss

    monkeypatch.setattr(Pretraining, "training_step", training_step)
    run, parent, first = tmp_path / "run", trunk / "checkpoints/step-00000020", 24
    result = train(tiny_data, run, 40, *branch(parent, "--max_skips=4"))
    (row,) = read_rollbacks(run)
    assert (row["from_step"], row["first_step"], row["batches"]) == (20, 25, [24, 25, 26, 27])
    assert "going back to step 20" in capsys.readouterr().out
    assert [r["step"] for r in read_jsonl(run / "metrics.jsonl")] == list(range(21, 41))
    assert result["skips"] == 0


def test_wrong_branches_are_named(trunk, tiny_data, tmp_path):
    run, parent = tmp_path / "x", trunk / "checkpoints/step-00000020"
    cases = [
        (30, ["--optim.schedule=cooldown"], "branch_from"),
        (30, [f"--branch_from={parent}"], "cooldown, or constant .* and cosine"),
        (20, branch(parent), "20 already"),
        (30, branch(parent, "--seed=1"), "seed = 0"),
        (30, branch(parent, "--optim.lr=0.1"), "lr = "),
        (30, branch(parent, "--model.n_layers=3"), "model"),
        (30, branch(tmp_path / "absent"), "absent"),
    ]
    for steps, flags, words in cases:
        with pytest.raises(InputError, match=words):
            plan(tiny_data, run, steps, *flags)
    train(tiny_data, tmp_path / "cosine", 2)
    with pytest.raises(InputError, match="schedule cosine"):
        plan(tiny_data, run, 30, *branch(tmp_path / "cosine/checkpoints/step-00000002"))
    assert not run.exists()
