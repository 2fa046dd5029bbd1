"""What a person may ask wrongly of fine-tuning: one line, exit code 2, and the folder is as it was."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch import export, finetune, prepare, sample, study
from llama_scale.checkpoint.export import export_checkpoint
from tests.conftest import ROOT
from tests.launch.inputs import outcome
from tests.llama_scale.helpers import write_gpt2, write_model, write_pairs

pytest.importorskip("peft")
pytest.importorskip("tree_sitter")

TUNE = ["--base=base", "--train=train.jsonl", "--device=cpu", "--threads=1"]
STUDY = {
    "kind": "finetune", "name": "toy", "question": "rank", "base": {"model": "base"}, "pairs": {"python": "pairs"},
    "arms": [{"name": "a"}], "test": 4, "rates": {"pairs": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tiny_data, tmp_path_factory):
    """A folder with bases, pairs, an adapter and files that are wrong; the working directory."""
    folder, before = tmp_path_factory.mktemp("inputs"), os.getcwd()
    os.chdir(folder)
    write_model(Path("base"), tiny_data)
    write_model(Path("wide"), tiny_data, d_model=32)
    export_checkpoint(Path("base"), Path("twin"))
    write_gpt2(Path("gpt2"), Path("twin"))
    shutil.copytree("twin", "mute")
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        Path("mute", name).unlink(missing_ok=True)
    write_pairs(Path("train.jsonl"))
    write_pairs(Path("held_out.jsonl"), 4, first=100)
    write_pairs(Path("signature.jsonl"), 4, first=200, format="signature")
    for part, first in (("train", 0), ("test", 1000)):
        Path("pairs").mkdir(exist_ok=True)
        write_pairs(Path("pairs", f"{part}.jsonl"), 12, first=first)
    rows = Path("train.jsonl").read_text().splitlines()
    one = json.loads(rows[0])
    texts = {
        "empty.jsonl": "", "blank.jsonl": "\n\n", "list.jsonl": "[1]\n", "torn.jsonl": rows[0][:40],
        "no_id.jsonl": json.dumps({k: v for k, v in one.items() if k != "id"}) + "\n",
        "number.jsonl": json.dumps(one | {"completion": 3}) + "\n",
        "nothing.jsonl": json.dumps(one | {"completion": ""}) + "\n",
        "twice.jsonl": f"{rows[0]}\n{rows[0]}\n",
        "mixed.jsonl": f"{rows[0]}\n{json.dumps(one | {'id': 'b', 'format': 'task'})}\n",
        "long.jsonl": json.dumps(one | {"id": "long", "completion": "x = 1\n" * 400}) + "\n",
        "rates.json": '{"lr": "fast"}', "broken.yaml": "a: [1,\n", "listed.yaml": "- 1\n", "broken.gguf": "GGUF",
        "a_file": "text\n", "half.jsonl": json.dumps(one | {"prompt": "x\ud83dy"}) + "\n",
    }  # fmt: skip
    for name, text in texts.items():
        Path(name).write_text(text)
    fields = json.loads(Path("twin", "config.json").read_text())
    shutil.copytree("twin", "piped")
    Path("piped", "model.safetensors").unlink()
    os.mkfifo("piped/model.safetensors")
    for name, value in {
        "null": None,
        "list": [1],
        "rope": fields | {"rope_parameters": 3},
        "theta": fields | {"rope_theta": [1], "rope_parameters": None},
        "tied": fields | {"tie_word_embeddings": 3},
        "width": fields | {"hidden_size": True},
        "type": fields | {"model_type": 3},
        "heads": fields | {"num_key_value_heads": "x"},
    }.items():
        shutil.copytree("twin", f"odd_{name}")
        Path(f"odd_{name}", "config.json").write_text(json.dumps(value))
    finetune.main([*TUNE, "--run=adapter", "--steps=1", "--batch=2"])
    shutil.copytree("base", "other")
    finetune.main([*TUNE, "--base=other", "--run=moved", "--steps=1", "--batch=2"])
    shutil.rmtree("other")
    shutil.copytree("wide", "other")
    yield folder
    os.chdir(before)


def contents() -> dict[str, int]:
    """Every file below the working directory, with when it was written."""
    return {str(path): path.lstat().st_mtime_ns for path in Path().rglob("*") if not path.is_dir()}


def refused(command, argv, capfd) -> str:
    """Run a command; assert that it refused in one line and wrote nothing, and return the line."""
    before = contents()
    capfd.readouterr()
    code = outcome(command, argv)
    said = capfd.readouterr().err.splitlines()
    problems = [line for line in said if line.startswith("command: error: ")]
    assert code == 2 and said and problems == said[-1:], (code, said)
    assert contents() == before
    return problems[0]


BARS = {
    "rank 0": (["--lora.rank=0"], r"lora.rank: expected at least 1, found 0"),
    "unknown target": (["--lora.targets=query"], r"lora.targets: no layer 'query'.*there are .*q_proj"),
    "no tokenizer": (["--base=mute"], r"mute.*tokenizer"),
    "an adapter as base": (
        ["--base=adapter"],
        r"base: adapter is an adapter; merge it first: launch/export.py adapter",
    ),
    "tied head": (["--lora.targets=lm_head"], r"lora.targets: lm_head cannot be adapted: .* are one matrix"),
    "empty data": (["--train=empty.jsonl"], r"empty.jsonl: no pairs in it"),
    "too long": (["--train=long.jsonl"], r"long.jsonl: every pair is longer than 128 tokens \(the shortest has \d+\)"),
    "mixed formats": (["--train=mixed.jsonl"], r"mixed.jsonl: pairs of the formats seed and task; never mix them"),
}


@pytest.mark.parametrize("name", BARS)
def test_the_bars_of_fine_tuning(root, capfd, name):
    flags, message = BARS[name]
    assert re.search(message, refused(finetune, [*TUNE, *flags], capfd))


@pytest.mark.slow
@pytest.mark.parametrize("name", BARS)
def test_the_same_from_a_shell(root, name):
    flags, message = BARS[name]
    before = contents()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "launch" / "finetune.py"), *TUNE, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert re.search(message, line)
    assert contents() == before


@pytest.mark.parametrize("command", [[export, "--to=hf", "--out=out"], [sample, "--prompt=x", "--device=cpu"]])
def test_an_adapter_is_never_put_on_another_base(root, capfd, command):
    script, *flags = command
    assert re.search(r"moved.*an adapter of another base than .*other", refused(script, ["moved", *flags], capfd))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lora.targets=embed_tokens", "embed_tokens cannot be adapted"),
        ("--lora.targets=", "lora.targets"),
        ("--lora.alpha=0", "lora.alpha: expected"),
        ("--lora.dropout=1.5", "lora.dropout: expected"),
        ("--lora.dropout=-0.1", "lora.dropout: expected"),
        ("--lora.rang=4", r"lora.rang.*lora.rank"),
        ("--lora.rank=4.5", "lora.rank"),
        ("--lora.rank=", "lora.rank"),
        ("--train=none.jsonl", "none.jsonl: no such file; make pairs with launch/prepare.py"),
        ("--train=pairs", "pairs"),
        ("--train=blank.jsonl", "blank.jsonl: no pairs in it"),
        ("--train=list.jsonl", "list.jsonl: line 1 is list, not an object with id, prompt, completion"),
        ("--train=torn.jsonl", "torn.jsonl"),
        ("--train=no_id.jsonl", "no_id.jsonl: line 1: id should be text, found null"),
        ("--train=number.jsonl", "number.jsonl: line 1: completion should be text, found 3"),
        ("--train=nothing.jsonl", "nothing.jsonl: line 1: the completion is empty; leave the pair out"),
        ("--train=half.jsonl", r"half.jsonl: line 1: prompt has .ud83d, half of a character"),
        ("--validation=half.jsonl", r"half.jsonl: line 1: prompt has"),
        ("--train=twice.jsonl", "twice.jsonl: line 2: the id 'pair-0' is there before"),
        ("--train=base/checkpoints/step-00000001/model.safetensors", "model.safetensors"),
        ("--validation=train.jsonl", "validation: 'pair-0' of train.jsonl is trained on too; hold it out"),
        ("--validation=signature.jsonl", "train.jsonl and signature.jsonl: pairs of the formats seed and signature"),
        ("--validation=long.jsonl", "long.jsonl: every pair is longer"),
        ("--only.third=low", r"only.third: no pair of train.jsonl has \['low'\]; they have None \(20\)"),
        ("--only=low", "only"),
        ("--examples=0", "examples: expected at least 1"),
        ("--examples=21", "examples: 21 asked for and there are 20 that fit"),
        ("--draw=-1", "draw: expected at least 0"),
        ("--epochs=0", "epochs: expected at least 1"),
        ("--steps=0", "steps: expected at least 1"),
        ("--batch=0", "batch: expected at least 1"),
        ("--micro_batch=0", "micro_batch: expected at least 1"),
        ("--max_tokens=0", "max_tokens: expected at least 1"),
        ("--max_tokens=3", "train.jsonl: every pair is longer than 3 tokens"),
        ("--max_tokens=1000", "max_tokens: 1000 asked for and the base's context is 128"),
        ("--seed=-1", "seed: expected a whole number from 0"),
        ("--optim.lr=-1", "optim.lr: expected"),
        ("--optim.lr=0", "optim.lr: expected"),
        ("--optim.lr=nan", "optim.lr"),
        ("--optim.lr=fast", "optim.lr"),
        ("--precision=fp16", "precision"),
        ("--device=cuda", "device|cuda"),
        ("--device=tpu", "device"),
        ("--order=simple_first", "train.jsonl: 'pair-.*' has no number as its complexity"),
        ("--order=simplest", "order"),
        ("--method=dora", "method"),
        ("--base=nowhere/else/x", "nowhere/else/x"),
        ("--base=pairs", "pairs"),
        ("--base=a_file", "a_file"),
        ("--base=broken.gguf", "broken.gguf"),
        ("--base=piped", "piped/model.safetensors: .*a pipe, not a regular file"),
        *(
            (f"--base=odd_{name}", f"odd_{name}")
            for name in ("null", "list", "rope", "theta", "tied", "width", "type", "heads")
        ),
        ("--base=", "base"),
        ("--retain=pairs", "retain|pairs"),
        ("--retain=nowhere", "retain|nowhere"),
        ("--run=a_file", "a_file"),
        ("--run=a_file/below", "a_file"),
        ("--run=adapter", "adapter"),
        ("--rate_from=none.json", "none.json"),
        ("--rate_from=rates.json", "rates.json: lr is 'fast', no rate; search again"),
        ("--rate_from=a_file", "a_file"),
        ("--mfu=0 --dry-run", "mfu"),
        ("--config=none.yaml", "none.yaml"),
        ("--config=broken.yaml", "broken.yaml"),
        ("--config=listed.yaml", "listed.yaml"),
        ("--config=train.jsonl", "train.jsonl"),
        ("--lots=1", "lots"),
    ],
)
def test_what_launch_finetune_refuses(root, capfd, flags, message):
    assert re.search(message, refused(finetune, [*TUNE, *flags.split(" ")], capfd))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "base"),
        (["search", *TUNE], "validation: a search needs held-out pairs"),
        (["search", *TUNE, "--validation=held_out.jsonl", "--most=1"], "most: expected at least 3"),
        (["search", *TUNE, "--validation=held_out.jsonl", "--factor=1"], "factor: expected a ratio above 1"),
        (["search", *TUNE, "--validation=held_out.jsonl", "--start=-1"], "start: expected a positive number"),
        (["compare", "nowhere"], "nowhere"),
        (["compare", "pairs"], "study.yaml"),
        (["report", "pairs"], "comparison.json"),
        (["forecast", "pairs"], "study.yaml"),
        (["split", "--out=out", "--folders.python=nowhere"], "nowhere"),
        (["split", "--out=out", "--folders.python=pairs"], r"pairs: 12 pairs to train on and 12 held out of .*600"),
        (["split", "--out=out", "--folders.python=pairs", "--test=2", "--tune=2", "--examples=13"], "trains on 13"),
        (["shots", "--base=base", "--pool=none.jsonl", "--test=held_out.jsonl", "--out=out"], "none.jsonl"),
        (["shots", "--base=base", "--pool=train.jsonl", "--test=held_out.jsonl", "--out=out", "--shots=0"], "shots"),
        (
            ["shots", "--base=base", "--pool=train.jsonl", "--test=empty.jsonl", "--out=out"],
            "empty.jsonl: no pairs in it",
        ),
        (
            ["shots", "--base=base", "--pool=number.jsonl", "--test=held_out.jsonl", "--out=out"],
            "completion should be text",
        ),
        (["shots", "--base=base", "--pool=half.jsonl", "--test=held_out.jsonl", "--out=out"], "prompt has .ud83d"),
        (
            ["shots", "--base=base", "--pool=train.jsonl", "--test=no_id.jsonl", "--out=out"],
            "id should be text, found null",
        ),
    ],
)
def test_what_the_steps_of_a_study_refuse(root, capfd, argv, message):
    assert re.search(message, refused(finetune, argv, capfd))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": []}, "arms: the list is empty"),
        ({"arms": [{"name": "a", "ranks": [0]}]}, "lora.rank: expected at least 1, found 0"),
        ({"arms": [{"name": "a", "ranks": [4, 4]}]}, "ranks: 4 is listed twice"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "a-r16 is asked for twice"),
        ({"arms": [{"name": "a/b"}]}, "name"),
        ({"arms": [{"name": "a", "rnks": [4]}]}, "rnks"),
        ({"arms": [{"name": "a", "train": {"lora.dropout": 2}}]}, "lora.dropout"),
        ({"arms": "a"}, "arms"),
        ({"name": "a/b"}, "name"),
        ({"name": None}, "name"),
        ({"kind": "finetuning"}, "kind: 'finetuning' is none; set finetune"),
        ({"question": "why"}, "question"),
        ({"pairs": {"java": "pairs"}}, "there are no pairs in python"),
        ({"pairs": {"python": 3}}, "pairs.python"),
        ({"pairs": {"python": "nowhere"}}, "pairs.python: nowhere"),
        ({"pairs": {"python": {"source": "wikipedia"}}}, "pairs.python: .*source"),
        ({"pairs": {"python": {"fromat": "seed"}}}, "pairs.python: .*fromat"),
        ({"base": {}}, "base: neither a model nor"),
        ({"base": {"train": {"tokens": 0}, "data": "configs/data/finetune.yaml"}}, "base"),
        ({"test": 0}, "test: expected at least 1"),
        ({"shots": -1}, "shots: expected at least 0"),
        ({"rates": {"pairs": 0}}, "rates.pairs"),
        ({"rates": {"most": 2}}, "rates.most"),
        ({"suites": ["humanevil"]}, "suites: no suite 'humanevil'.*humaneval"),
        ({"evaluate": {"pairs": {"sampling": {"temperature": -1}}}}, "evaluate: .*temperature"),
        ({"train": {"batch": 0}}, "batch: expected at least 1"),
        ({"train": {"optim.lr": 1}}, "train.optim.lr: the study sets it"),
        ({"profile": "seed"}, "profile: seed asked for and this study has no published"),
        ({"profile": "sed"}, "profile"),
        ({"parallel": 0}, "parallel"),
    ],
)
def test_what_launch_study_refuses(root, capfd, change, message):
    Path("toy.yaml").write_text(yaml.safe_dump(STUDY | change))
    try:
        for flags in ([], ["--dry-run"]):
            assert re.search(message, refused(study, ["toy.yaml", *flags], capfd))
    finally:
        Path("toy.yaml").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": {"model": "./nowhere"}}, r"base.model: base: no ./nowhere; name a run, a transformers folder"),
        ({"base": {"model": "mute"}}, "base.model: mute: no tokenizer.json"),
        ({"base": {"model": "adapter"}}, "base.model: base: adapter is an adapter; merge it first"),
        ({"pairs": {"python": {"source": "mbxp", "path": "nowhere", "format": "task"}}}, "pairs.python: .*nowhere"),
        ({"suites": ["mbxp"], "evaluate": {"mbxp": {"data": "nowhere"}}}, "evaluate.mbxp-python: mbxp.data: nowhere"),
        ({"pairs": {"python": {"source": "npm", "path": "nowhere"}}}, "pairs.python: .*nowhere"),
        ({"pairs": {"python": {"source": "jdk", "path": "nowhere"}}}, "pairs.python: path: nowhere has no"),
        ({"pairs": {"python": {"packages": ["nothing-is-called-so"]}}}, "pairs.python: packages: 'nothing-is-called"),
        ({"pairs": {"python": {"source": "codexglue-code-to-text", "path": "nowhere"}}}, "pairs.python: path: no nowh"),
    ],
)
def test_what_a_study_lacks_is_told_before_anything_runs(root, capfd, change, message):
    """A dry run plans all the same, for another machine, and lists it."""
    Path("toy.yaml").write_text(yaml.safe_dump(STUDY | change))
    try:
        assert re.search(message, refused(study, ["toy.yaml"], capfd))
        before = contents()
        study.main(["toy.yaml", "--dry-run"])
        shown = capfd.readouterr().out
        assert re.search(f"^missing: {message}", shown, re.M) and "finetune-a-r16-draw4: " in shown
        assert contents() == before
    finally:
        Path("toy.yaml").unlink()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--source=wikipedia", "source"),
        ("--source=jdk --language=javascript", "language: jdk is in java, not javascript"),
        ("--source=jdk --path=nowhere", "nowhere"),
        ("--source=npm --path=nowhere", "nowhere"),
        ("--source=mbxp", "path: no folder is set"),
        ("--source=mbxp --path=pairs", "pairs"),
        ("--source=mbpp --path=a_file", "a_file"),
        ("--source=codexglue-code-to-text --path=nowhere", "nowhere"),
        ("--format=task", "format: task is of the sources mbpp and mbxp"),
        ("--format=chat", "format"),
        ("--packages=[nothing-is-called-so]", "nothing-is-called-so"),
        ("--name=a/b", "name"),
        ("--longest=0", "longest: expected at least 1"),
        ("--test=0", "test: expected at least 1"),
        ("--least_complexity=9 --most_complexity=3", "most_complexity: 3 is below least_complexity, 9"),
        ("--thirds=[lowest]", "thirds"),
        ("--balance=lines", "balance"),
        ("--mbpp=none.jsonl --packages=[tree-sitter]", "none.jsonl"),
        ("--out=a_file", "a_file"),
        ("--out=. --name=pairs", "pairs: is there already and has no"),
        ("--config=none", "none"),
    ],
)
def test_what_launch_prepare_pairs_refuses(root, capfd, flags, message):
    assert re.search(message, refused(prepare, ["pairs", *flags.split(" ")], capfd))
