"""Fine-tuning from pairs to an opened model: what is trained, what is saved, how it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import llama_scale
from evals.perplexity import reference_bits_per_byte
from launch.finetune import main
from llama_scale.checkpoint.base import find_base
from llama_scale.checkpoint.export import export_checkpoint
from llama_scale.checkpoint.folder import load_model, newest
from llama_scale.checkpoint.opened import open_model
from llama_scale.config import FinetuneConfig
from llama_scale.data.examples import ExampleBatch, read_pairs
from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl, sha256
from llama_scale.generation.config import SamplingConfig
from llama_scale.model.lora import adapt, merge
from llama_scale.training.finetune import Finetuning, completion_loss
from llama_scale.training.finetune_plan import plan_finetune, tuning_lr
from tests.conftest import ROOT, run_script
from tests.llama_scale.helpers import write_gpt2, write_model, write_pairs

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def here(tiny_data, tmp_path_factory):
    """A folder with a run as base, its twin, a GPT-2, training and held-out pairs; the working directory."""
    folder = tmp_path_factory.mktemp("tuning")
    write_model(folder / "base", tiny_data)
    export_checkpoint(folder / "base", folder / "twin")
    write_gpt2(folder / "gpt2", folder / "twin")
    write_pairs(folder / "train.jsonl", 20)
    write_pairs(folder / "val.jsonl", 6, first=100)
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def flags(run, *more, base="base"):
    fixed = ["--train=train.jsonl", "--validation=val.jsonl", "--device=cpu", "--threads=1", "--log_every=1"]
    return [f"--base={base}", f"--run={run}", *fixed, "--epochs=1", *more]


def tune(run, *more, **options):
    main(flags(run, *more, **options))
    return read_json(f"{run}/result.json")


def test_adapters_learn_and_open_everywhere(here, capsys):
    base = tune("base-scored", "--method=base")
    assert "held-out" in capsys.readouterr().out
    found = tune("lora", "--epochs=12", "--lora.rank=8", "--optim.lr=0.02")
    assert found["val_bits_per_byte"] < base["val_bits_per_byte"] - 0.5
    assert found["val_end_nats"] < base["val_end_nats"]
    assert found["trainable_params"] == sum(
        p.numel() for p in load_file(newest("lora") / "adapter_model.safetensors").values()
    )
    model, tokenizer = llama_scale.load("lora")
    scores = read_jsonl("lora/references.jsonl")
    pairs = [(pair.prompt, pair.completion) for pair in read_pairs("val.jsonl")]
    again = reference_bits_per_byte(model, tokenizer, pairs)
    assert [s["nats"] for s in scores] == pytest.approx([task.nats for task in again.tasks], rel=1e-4)
    assert again.total.bits_per_byte == pytest.approx(found["val_bits_per_byte"], rel=1e-4)
    text = next(llama_scale.generate(model, tokenizer, [pairs[0][0]], SamplingConfig(temperature=0, max_new_tokens=8)))
    assert len(text.tokens) > 0
    apart, tokens = open_model("lora", merged=False).double(), torch.arange(20)[None]
    exact = apart(tokens)  # float32 itself rounds these logits by some 1e-5, merged or not
    torch.testing.assert_close(model(tokens).double(), exact, atol=1e-4, rtol=0)
    merge(apart)
    torch.testing.assert_close(apart(tokens), exact, atol=1e-10, rtol=0)
    export_checkpoint("lora", "merged")
    twin = find_base("merged").load().eval()
    torch.testing.assert_close(twin(tokens), model(tokens), atol=0, rtol=0)
    assert not torch.allclose(load_model("base")(tokens), model(tokens), atol=1e-2)


def test_whole_weights_are_a_checkpoint_of_ours(here):
    found = tune(
        "full", "--method=full", "--optim.lr=1e-3", "--retain=" + str(read_data("base")), "--retain_tokens=1000"
    )
    assert found["trainable_params"] == found["n_params"]
    assert found["completion_tokens"] < found["tokens"] and found["retained_bits_per_byte"] > 0
    assert not torch.equal(load_model("full").head.weight, load_model("base").head.weight)
    assert tune("of-full", "--steps=1", base="full")["base_kind"] == "run"


def read_data(run):
    return read_json(newest(run) / "manifest.json")["meta"]["data"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_transformers_model_takes_the_same_way(here, method):
    rate = "--optim.lr=1e-2"
    found = tune(f"gpt2-{method}", f"--method={method}", "--lora.targets=c_attn", rate, base="gpt2")
    base = tune("gpt2-base", "--method=base", base="gpt2") if method == "lora" else read_json("gpt2-base/result.json")
    assert found["model_type"] == "gpt2" and found["val_loss"] < base["val_loss"]
    from evals.config import EvalConfig
    from evals.models.load import checkpoint_subject

    subject = checkpoint_subject(EvalConfig(f"gpt2-{method}", device="cpu"), f"gpt2-{method}")
    pairs = [(pair.prompt, pair.completion) for pair in read_pairs("val.jsonl")]
    scores = [s["nats"] for s in read_jsonl(f"gpt2-{method}/references.jsonl")]
    model = open_model(f"gpt2-{method}")
    references = subject.load("cpu").score_references(pairs)
    alone = ExampleBatch(*plan_finetune(FinetuneConfig("gpt2", "val.jsonl", device="cpu")).examples.batch([0]))
    assert completion_loss(model, alone).item() > 0
    assert len(references.tasks) == len(scores)
    assert [task.nats for task in references.tasks] == pytest.approx(scores, rel=1e-3)


@pytest.mark.parametrize("fields", [("--method=full",), ("--lora.dropout=0.2",)])
def test_a_run_that_is_stopped_and_continued_ends_with_the_same_bytes(here, fields, monkeypatch):
    name = fields[0].partition(".")[2] or "full"
    settings = (*fields, "--epochs=4", "--checkpoint_every=2", "--val_every=3", "--batch=6", "--micro_batch=2")
    tune(f"unbroken-{name}", *settings)
    taken, step = [], Finetuning.training_step

    def stop_at_seventh(self, batch, index):
        taken.append(index)
        if len(taken) == 20:  # micro-batch 20 of 3 a step: in the seventh
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, index)

    monkeypatch.setattr(Finetuning, "training_step", stop_at_seventh)
    with pytest.raises(SystemExit) as stopped:
        main(flags(f"broken-{name}", *settings))
    assert stopped.value.code == 128 + signal.SIGTERM
    tune(f"broken-{name}", *settings)
    ends = [newest(f"{kind}-{name}") for kind in ("unbroken", "broken")]
    for file in ("adapter_model.safetensors", "model.safetensors", "optimizer.safetensors"):
        if (ends[0] / file).exists():
            assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    rows = [read_jsonl(f"{kind}-{name}/metrics.jsonl") for kind in ("unbroken", "broken")]
    kept = [[{k: v for k, v in r.items() if k not in ("tokens_per_second", "memory")} for r in each] for each in rows]
    assert kept[0] == kept[1] and len(kept[0]) == 16
    assert (here / f"broken-{name}/references.jsonl").read_text() == (
        here / f"unbroken-{name}/references.jsonl"
    ).read_text()


KILLED_AFTER_A_CHECKPOINT = """
import os, signal, sys
from pathlib import Path
from launch.finetune import main
from llama_scale.training.finetune import Finetuning

step = Finetuning.training_step

def die_after_a_checkpoint(self, batch, index):
    if any(Path("killed/checkpoints").glob("step-*")):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)

Finetuning.training_step = die_after_a_checkpoint
main(sys.argv[1:])
"""


def test_a_killed_run_continues(here):
    """SIGKILL once a checkpoint is there; the rerun ends as the whole run did."""
    settings = ("--epochs=30", "--checkpoint_every=20", "--seed=4")
    tune("whole", *settings)
    command = [sys.executable, "-c", KILLED_AFTER_A_CHECKPOINT, *flags("killed", *settings)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    assert not (here / "killed/result.json").exists()
    tune("killed", *settings)
    files = [newest(run) / "adapter_model.safetensors" for run in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_eight_micro_batches_of_one_are_one_of_eight(here):
    gradients = []
    for micro_batch in (8, 1, 3):
        run = plan_finetune(FinetuneConfig("base", "train.jsonl", batch=8, micro_batch=micro_batch, device="cpu"))
        model = run.base.load()
        adapt(model, run.config.lora, 0)
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.data.normal_(std=0.1)
        iterator, total = iter(run.sampler()), 0.0
        for _ in range(run.layout.micro_steps):
            loss = completion_loss(model, run.examples.__getitems__(next(iterator))) / run.layout.micro_steps
            loss.backward()  # as Lightning does
            total += loss.item()
        gradients.append((total, [p.grad for p in model.parameters() if p.requires_grad]))
    for loss, grads in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-6)
        torch.testing.assert_close(grads, gradients[0][1], atol=1e-7, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_are_one(here):
    """20 examples in steps of 7: the two have 4 and 3 of a step, or 3 and 3."""
    alone = tune("alone", "--batch=7", "--seed=1")
    done = run_script("finetune.py", *flags("together", "--batch=7", "--seed=1", "--devices=2"), cwd=here, timeout=600)
    assert done.returncode == 0, done.stderr
    together = read_json("together/result.json")
    assert together["val_loss"] == pytest.approx(alone["val_loss"], abs=1e-6)
    files = [load_file(newest(run) / "adapter_model.safetensors") for run in ("alone", "together")]
    torch.testing.assert_close(files[1], files[0], atol=1e-5, rtol=1e-4)


def test_frozen_weights_have_no_gradient_and_do_not_change(here):
    run = plan_finetune(FinetuneConfig("base", "train.jsonl", device="cpu"))
    model = run.base.load()
    adapt(model, run.config.lora, 0)
    completion_loss(model, run.examples.batch([0, 1])).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, p in model.named_parameters() if ".lora_" in name
    }
    before = dict(load_model("base").state_dict())
    after = open_model("lora", merged=False).state_dict()
    for name, value in before.items():
        assert torch.equal(value, after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))), name


def test_steps_subsets_and_the_dry_run(here, capsys):
    found = tune("steps", "--steps=3", "--examples=7", "--draw=2", "--batch=4", "--order=listed")
    assert (found["steps"], found["examples"], found["epochs"]) == (3, 7, 1.5)
    capsys.readouterr()
    main(flags("none", "--dry-run", "--lora.rank=4"))
    shown = capsys.readouterr().out
    assert "verdict       fits" in shown and "rank 4, all-linear, scale 8" in shown
    assert not (here / "none").exists()
    assert tuning_lr(576, lora=True) == pytest.approx(1.32e-3, rel=0.01)


def test_a_curriculum_reads_the_simple_first(here):
    """In each epoch anew: the order is a pure function of the step, as is the order that a run goes on with."""
    rows = [json.loads(line) for line in (here / "train.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(row | {"complexity": (7 * i) % 20}) + "\n" for i, row in enumerate(rows))
    (here / "graded.jsonl").write_text(text)
    config = FinetuneConfig(base="base", train="graded.jsonl", order="simple_first", batch=8, device="cpu", threads=1)
    expected = [f"pair-{i}" for i in sorted(range(20), key=lambda i: (7 * i) % 20)]
    run = plan_finetune(config)
    sampler = run.sampler()
    assert [run.examples.ids[i] for n in range(3) for i in sampler.step_examples(n)] == expected
    assert [run.examples.ids[i] for i in sampler.step_examples(3)] == expected[:8]
    assert plan_finetune(replace(config, order="complex_first")).examples.ids == expected[::-1]


def test_bad_input_is_told_in_one_line(here, tmp_path):
    def refused(message, *more, base="base"):
        with pytest.raises(InputError, match=message):
            main(flags(tmp_path / "run", *more, base=base))

    refused("lora.rank: expected at least 1, found 0", "--lora.rank=0")
    refused("no layer 'query'", "--lora.targets=query")
    refused("head cannot be adapted", "--lora.targets=q,head")
    refused("base: no ./nowhere; name a run", base="./nowhere")
    refused("train.jsonl is a file and no .gguf", base="train.jsonl")
    refused("base: lora is an adapter; merge it", base="lora")
    refused("every pair is longer than 20 tokens", "--max_tokens=20")
    refused("max_tokens: 1000 asked for and the base's context is 128", "--max_tokens=1000")
    refused("examples: 100 asked for and there are 20", "--examples=100")
    (tmp_path / "empty.jsonl").write_text("")
    refused("empty.jsonl: no pairs in it", f"--train={tmp_path}/empty.jsonl")
    write_pairs(tmp_path / "other.jsonl", 3, first=500, format="signature")
    refused("formats seed and signature", f"--validation={tmp_path}/other.jsonl")
    refused("is trained on too; hold it out", "--validation=train.jsonl")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((here / "twin" / name).read_bytes())
    refused("bare: no tokenizer.json or tokenizer.model in it", base=str(bare))
    tune("settled", "--steps=1")
    refused_again = flags("settled", "--steps=1", "--lora.rank=4")
    with pytest.raises(InputError, match=r"this run has lora.rank = 16, the command asks for 4"):
        main(refused_again)


def test_an_adapter_is_not_put_on_other_weights(here, tiny_data):
    write_model(here / "moved", tiny_data)
    tune("on-moved", "--steps=1", base="moved")
    for file in (here / "moved").rglob("*.safetensors"):
        file.unlink()
    (here / "moved/checkpoints/step-00000001/manifest.json").unlink()
    (here / "moved/checkpoints/step-00000001").rename(here / "moved/away")
    write_model(here / "moved", tiny_data, norm_eps=1e-3, d_ff=64)
    with pytest.raises(InputError, match="an adapter of another base than moved/checkpoints/step-00000001"):
        llama_scale.load("on-moved")


def test_a_base_whose_configuration_changed_is_another_model(here, tmp_path):
    """The same weights with another rope_theta: neither is an adapter put on it, nor does a run go on with it."""
    shutil.copytree("twin", tmp_path / "twin")
    run, base = str(tmp_path / "run"), str(tmp_path / "twin")
    assert tune(run, base=base)["base_config_sha256"] == sha256(tmp_path / "twin/config.json")
    open_model(run)
    config = json.loads((tmp_path / "twin/config.json").read_text())
    config["rope_parameters"]["rope_theta"] = config["rope_theta"] = 9_999.0
    (tmp_path / "twin/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"twin/config.json: has changed since the adapter was trained"):
        open_model(run)
    with pytest.raises(InputError, match=rf"result.json: config.json of {base}, changed since"):
        tune(run, base=base)


def test_the_command_exits_with_two_and_one_line(here):
    done = run_script("finetune.py", *flags("x", base="./nowhere"), cwd=here)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "base: no ./nowhere" in done.stderr
