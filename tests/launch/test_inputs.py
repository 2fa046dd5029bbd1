"""Whatever stands in the place of a file that a command reads: one line and exit code 2, or it does not matter."""

import json
import shutil
from pathlib import Path

import pytest

from launch import benchmark, collect, export, sample, scaling, study, track, train
from llama_scale.files import read_json
from tests.launch.inputs import KINDS, assert_done_or_one_line, outcome, spoil

FIXTURE = Path(__file__).parent.parent / "fixtures" / "version_0_1"
RUN, STOPPED = "runs/old/Q1-8k-seed0", "runs/stopped"
NEWEST, BEFORE = f"{RUN}/checkpoints/step-00000016", f"{STOPPED}/checkpoints/step-00000008"
WEIGHTS = ("manifest.json", "model.safetensors", "tokenizer.model")
TRAIN = read_json(FIXTURE / STOPPED / "provenance.json")["command"][1:]
SCALING = "points.csv", "laws.json"
SHAPE = ["--size=Q1", "--model.vocab_size=384", "--model.context_length=64", "--device=cpu", "--threads=1"]
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
    "fit": (scaling.fit, ["studies/old/points.csv", "--resamples=100"], ["studies/old/points.csv"]),
    "report": (scaling.report, ["studies/old"], [f"studies/old/{name}" for name in SCALING]),
    "recommend": (scaling.recommend, ["studies/old", "--budget=1e15"], ["studies/old/laws.json"]),
    "forecast": (scaling.forecast, ["studies/old", "--runs=1e6:2e7"], ["studies/old/laws.json"]),
    "score": (scaling.score, ["forecast.json", "--points=studies/old/points.csv"],
              ["forecast.json", "studies/old/points.csv"]),
    "sweep": (scaling.sweep, ["studies/old/points.csv"], ["studies/old/points.csv"]),
    "benchmark --config": (benchmark, ["train", "--config=benchmark.yaml"], ["benchmark.yaml"]),
    "benchmark --table": (benchmark, ["train", "--table=table.yaml", "--out=measured"], [
        "table.yaml", "measured.json", "measured.md",
    ]),
    "benchmark generate": (benchmark, ["generate", *SHAPE, f"--checkpoint={RUN}"],
                           [f"{NEWEST}/{name}" for name in WEIGHTS]),
    "benchmark --tokenizer": (benchmark, ["generate", *SHAPE, "--tokenizer=data/old/tokenizer.model"],
                              ["data/old/tokenizer.model"]),
    "benchmark overhead": (benchmark, ["overhead", *SHAPE, "--data=data/old"],
                           ["data/old/manifest.json", "data/old/train-00000.bin"]),
    "benchmark fit": (benchmark, ["fit", "--points=studies/old/points.csv"], ["studies/old/points.csv"]),
    "benchmark fit --rows": (benchmark, ["fit", "--coverage=1", "--rows=rows.jsonl", "--out=fits.json"],
                             ["rows.jsonl", "fits.json"]),
    "benchmark gpu": (benchmark, ["gpu", "--device=cpu", "--only=setup", "--tokens=data/old", "--out=gpu"],
                      ["data/old/manifest.json", "gpu/gpu.json"]),
    **{f"benchmark {mode} --config": (benchmark, [mode, "--config=benchmark.yaml"], ["benchmark.yaml"])
       for mode in benchmark.MODES if mode != "train"},
}  # fmt: skip
FITTED = {"design": "any", "seed": 0, "covered": {}, "errors": {}, "half_width_percent": 1.0}
TABLE = {"device": "any", "precision": "bf16", "versions": {}, "rows": {}}
MEASURED = {"measured.json": json.dumps(TABLE), "measured.md": "# any\n", "rows.jsonl": json.dumps(FITTED) + "\n",
            "fits.json": "{}\n", "gpu/gpu.json": "{}\n"}  # fmt: skip
CASES = [(name, file) for name, (_, _, files) in COMMANDS.items() for file in files]
EACH = [(*case, kind) for case in CASES for kind in KINDS]
TURNS = len(KINDS)
QUICK = {(*case, list(KINDS)[(2 * i + j) % TURNS]) for i, case in enumerate(CASES) for j in range(2)}
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
    shutil.copy(next((root / "studies/old/forecasts").glob("*.json")), root / "forecast.json")
    (root / "benchmark.yaml").write_text("out: measured.json\n")
    (root / "table.yaml").write_text("name: small\ndevice: cpu\nrows: [{size: Q1, micro_batches: [1]}]\n")
    for name, content in MEASURED.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    monkeypatch.chdir(root)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("llama_scale.files.LOCK_PATIENCE", 0.1)
    return root


def measure_nothing(monkeypatch, name: str) -> None:
    """Leave out what a benchmark measures: these tests are about what it reads."""
    mode = name.split()[1]
    if name.endswith("--config") and mode != "--config":
        monkeypatch.setattr(f"{benchmark.MODES[mode][0]}.run", lambda config: {})
        monkeypatch.setattr(f"{benchmark.MODES[mode][0]}.table", lambda result: "")
    for target, value in {
        "benchmarks.fit.time_fit": {},
        "benchmarks.fit.compare_with_chinchilla": {},
        "benchmarks.fit.outcome": FITTED,
        "benchmarks.fit.table": "",
        "benchmarks.training.table.matmul_ceiling": 1e9,
        "benchmarks.training.table.check_gradients": {},
        "benchmarks.training.table.measure": {"contenders": [{"matmul_ceiling": 1e9}]},
        "benchmarks.training.table.table": "",
        "benchmarks.training.table.markdown": "",
    }.items():
        monkeypatch.setattr(target, lambda *_, value=value: value)
    monkeypatch.setattr("benchmarks.gpu.runner.run_step", lambda job, result, out: result["steps"].update(
        {job.name: {"status": "done", "rows": [], "seconds": 0}}))  # fmt: skip


@pytest.mark.parametrize(("name", "file", "kind"), MARKED, ids=lambda value: str(value).replace("/", "_"))
def test_a_spoiled_file_is_one_line(workplace, monkeypatch, capfd, name, file, kind):
    command, argv, _ = COMMANDS[name]
    if name.startswith("benchmark"):
        measure_nothing(monkeypatch, name)
    before = {path.name for path in (workplace / NEWEST).parent.iterdir()}
    spoil(workplace / file, kind)
    code = outcome(command, argv)
    assert_done_or_one_line(code, capfd.readouterr().err)
    assert before == {path.name for path in (workplace / NEWEST).parent.iterdir()}
