"""Whatever stands in the place of a file that a command reads: one line and exit code 2, or it does not matter."""

import shutil
from pathlib import Path

import pytest

from launch import collect, export, sample, study, track, train
from llama_scale.files import read_json
from tests.launch.inputs import KINDS, outcome, spoil

FIXTURE = Path(__file__).parent.parent / "fixtures" / "version_0_1"
RUN, STOPPED = "runs/old/Q1-8k-seed0", "runs/stopped"
NEWEST, BEFORE = f"{RUN}/checkpoints/step-00000016", f"{STOPPED}/checkpoints/step-00000008"
WEIGHTS = ("manifest.json", "model.safetensors", "tokenizer.model")
TRAIN = read_json(FIXTURE / STOPPED / "provenance.json")["command"][1:]
FROM_HF = ["exported", "--from", "hf", "--out", "back"]

# Of each command its arguments and the files that it reads.
COMMANDS = {
    "train": (train, [*TRAIN, "--device", "cpu"], [
        "data/old/manifest.json", "data/old/tokenizer.model", "data/old/train-00000.bin", "data/old/val-00000.bin",
        f"{STOPPED}/config.yaml", f"{STOPPED}/provenance.json", f"{STOPPED}/metrics.jsonl", f"{STOPPED}/.lock",
        *(f"{BEFORE}/{name}" for name in (*WEIGHTS, "optimizer.safetensors", "trainer.json")),
    ]),
    "train --config": (train, ["--config", "study.yaml"], ["study.yaml"]),
    "train --dry-run": (train, [*TRAIN, "--dry-run"], ["data/old/manifest.json"]),
    "sample": (sample, [RUN, "--prompt", "x", "--max_new_tokens", "2", "--device", "cpu"],
               [f"{NEWEST}/{name}" for name in WEIGHTS]),
    "export": (export, [RUN, "--to", "hf", "--out", "out"], [f"{NEWEST}/{name}" for name in WEIGHTS]),
    "export --from hf": (export, FROM_HF, [f"exported/{name}" for name in ("config.json", *WEIGHTS[1:])]),
    "collect": (collect, ["studies/old"], [
        "studies/old/study.yaml", f"{RUN}/result.json", f"{RUN}/config.yaml",
        f"{RUN}/evals/step-00000016/perplexity.json", f"{RUN}/evals/step-00000016/humaneval.json",
    ]),
    "study": (study, ["study.yaml", "--dry-run"], ["study.yaml", "data.yaml", "eval.yaml"]),
    "track": (track, ["studies/old", "--mode", "offline"], [
        "studies/old/points.csv", "studies/old/laws.json", f"{RUN}/result.json", f"{RUN}/metrics.jsonl",
        f"{RUN}/evals/step-00000016/humaneval.json",
    ]),
}  # fmt: skip
CASES = [(name, file) for name, (_, _, files) in COMMANDS.items() for file in files]
EACH = [(*case, kind) for case in CASES for kind in KINDS]
TURNS = len(KINDS)
QUICK = {(*case, list(KINDS)[(3 * i + j) % TURNS]) for i, case in enumerate(CASES) for j in range(3)}
MARKED = [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in EACH]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    from llama_scale.checkpoint.export import export_checkpoint

    folder = tmp_path_factory.mktemp("hf") / "exported"
    export_checkpoint(FIXTURE / RUN, folder)
    return folder


@pytest.fixture
def workplace(exported, tmp_path, monkeypatch) -> Path:
    root = Path(shutil.copytree(FIXTURE, tmp_path / "work", symlinks=True))
    shutil.copytree(exported, root / "exported")
    (root / STOPPED / ".lock").write_text("1\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("llama_scale.files.LOCK_PATIENCE", 0.1)
    return root


@pytest.mark.parametrize(("name", "file", "kind"), MARKED, ids=lambda value: str(value).replace("/", "_"))
def test_a_spoiled_file_is_one_line(workplace, capfd, name, file, kind):
    command, argv, _ = COMMANDS[name]
    before = {path.name for path in (workplace / NEWEST).parent.iterdir()}
    spoil(workplace / file, kind)
    code = outcome(command, argv)
    said = capfd.readouterr().err.splitlines()
    assert code in (0, 2), said
    problems = [line for line in said if line.startswith("command: error: ")]
    assert len(problems) == (code == 2), said
    if code:
        assert said[-1] == problems[0]
    assert before == {path.name for path in (workplace / NEWEST).parent.iterdir()}
