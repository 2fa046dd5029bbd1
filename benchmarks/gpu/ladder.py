"""Step 5: a small ladder of runs at equal compute, its law, and the largest run forecast before it is trained."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.environment import ROOT, child_environment
from benchmarks.gpu.plan import plan_for
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import StepJob
from benchmarks.gpu.tokens import data_file
from llama_scale.config import CONFIGS, read_yaml
from llama_scale.data.shards import read_manifest
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_json
from llama_scale.scaling.study.collect import collect

RESERVE = 20.0  # seconds for the law of what is there, where the study is not at its end
POLL = 1.0


def run(job: StepJob, record: Record) -> None:
    """Run the study as long as there is time; record its points as they come, then the law and the forecast."""
    plan = plan_for(job.device, job.peers)
    work, study = Path(job.work), Path(job.work) / "studies" / "gpu"
    settings = read_yaml(CONFIGS / "study" / "gpu.yaml") | plan.study | {"data": str(data_file(job, plan.data))}
    if job.tokens:  # whose vocabulary a rehearsal's models take, too
        vocab_size = read_manifest(Path(job.tokens))["tokenizer"]["vocab_size"]
        settings["train"] = settings["train"] | {"model.vocab_size": vocab_size}
    with atomic_write(work / "gpu.yaml") as file:
        yaml.safe_dump(settings, file, sort_keys=False)
    command = [sys.executable, str(ROOT / "launch" / "study.py"), "gpu.yaml"]
    process = subprocess.Popen(command, env=child_environment(), cwd=work)
    seen: set[str] = set()
    while (code := wait(process)) is None:
        record_points(study, seen, record)
        if job.seconds_left < RESERVE:
            stop(process)
            print("the time is over: the law is fitted to what is there", flush=True)
            break
    record_points(study, seen, record)
    if not (study / "laws.json").exists():
        fit_what_is_there(work, study)
    note_results(study, record)
    if code:
        raise InputError(f"launch/study.py ended with {code}")
    if code is None and not (study / "laws.json").exists():
        raise InputError("the time was over before there were enough runs for a law")


def wait(process: subprocess.Popen) -> int | None:
    """Return how the process ended, or None where it still runs a moment later."""
    try:
        return process.wait(POLL)
    except subprocess.TimeoutExpired:
        return None


def stop(process: subprocess.Popen) -> None:
    """End a study at once; its tasks go with it."""
    tasks = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for task in tasks:
        with suppress(psutil.NoSuchProcess):
            task.kill()
    process.wait()


def planned(study: Path) -> list[str]:
    """Return the names of the study's runs; none before it has written them down."""
    path = study / "study.yaml"
    return read_yaml(path)["planned"] if path.exists() else []


def score_of(study: Path, name: str) -> dict[str, Any] | None:
    """Return the perplexity of a run, or None where it has none yet."""
    scores = sorted((study / "runs" / name / "evals").glob("step-*/perplexity.json"))
    return read_json(scores[-1]) if scores else None


def record_points(study: Path, seen: set[str], record: Record) -> None:
    """Record the runs that were scored since the last call."""
    for name in planned(study):
        if name not in seen and (score := score_of(study, name)):
            seen.add(name)
            result = read_json(study / "runs" / name / "result.json")
            keys = ("size", "n_params_non_embedding", "tokens", "flops", "epochs", "steps", "batch_tokens", "lr")
            values = {key: result[key] for key in keys}
            record.add(run=name, **values, loss=score["loss"], bits_per_byte=score["bits_per_byte"])


def fit_what_is_there(work: Path, study: Path) -> None:
    """Write points.csv and, where the runs suffice, laws.json of a study that is not at its end."""
    without = [name for name in planned(study) if score_of(study, name) is None]
    if not study.exists() or len(without) == len(planned(study)):
        return
    collect(study, without)
    command = [
        sys.executable, str(ROOT / "launch" / "scaling.py"), "fit", f"--points={study / 'points.csv'}",
        f"--out={study}", "--holdout=none", "--resamples=100",
    ]  # fmt: skip
    subprocess.run(command, env=child_environment(), cwd=work, check=False)


def note_results(study: Path, record: Record) -> None:
    """Record the law, the forecast and what is left of the runs."""
    runs = planned(study)
    record.note(planned=len(runs), missing=[name for name in runs if score_of(study, name) is None])
    for name, path in {"law": study / "laws.json", "law_before": study / "holdout" / "laws.json"}.items():
        if path.exists():
            record.note(**{name: read_json(path)})
    forecasts = sorted((study / "forecasts").glob("*.json"))
    if forecasts:
        record.note(forecasts=[read_json(path) for path in forecasts])
    points = study / "points.csv"
    if points.exists():
        record.note(points=points.read_text())
