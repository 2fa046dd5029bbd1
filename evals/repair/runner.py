"""A repair study from its settings to its result: drawn, closed, sealed, summed up. What is finished stays."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import llama_scale
from evals.benchmarks import apps, humaneval, mbpp, quixbugs
from evals.benchmarks.rows import content_sha256
from evals.benchmarks.suite import Suite
from evals.code_suite import evenly_spread
from evals.repair.backends.load import open_backend
from evals.repair.backends.protocol import Backend
from evals.repair.backends.replies import KeptReplies
from evals.repair.config import RepairConfig
from evals.repair.critics import open_critics
from evals.repair.figures import summed_up
from evals.repair.journal import seal, write_journal, write_prompts
from evals.repair.loop import Pipelines, as_row
from evals.repair.outcome import VisibleJudge
from evals.repair.probes import agreements, generated_tests, outputs
from evals.repair.replay_log import read_log, replayed
from evals.repair.report.page import find_studies, read_study, write_report
from evals.repair.report.wandb_study import mirror_study
from evals.repair.select import rule_names
from evals.repair.split import Split, split
from evals.results import eval_folder
from evals.verdicts import Execution
from llama_scale.errors import InputError
from llama_scale.files import read_bytes, read_json, sha256, write_json

SUITES = {"mbpp": mbpp, "humaneval": humaneval, "apps": apps, "quixbugs": quixbugs}
Row = dict[str, Any]


def paths(config: RepairConfig, folder: Path) -> dict[str, Path]:
    """Return the files of a study by what they hold."""
    name = f"repair-{config.suite}"
    return {
        "result": folder / f"{name}.json",
        "journal": folder / f"{name}-journal.jsonl.gz",
        "steps": folder / f"{name}-steps.jsonl.gz",
        "prompts": folder / f"{name}-prompts.jsonl.gz",
        "replies": folder / f"{name}-replies.jsonl",
        "critic_replies": folder / f"{name}-critic-replies.jsonl",
        "timing": folder / f"{name}-timing.json",
        "report": folder / f"{name}-report.html",
        "verdicts": folder / "verdicts.jsonl",
    }


def chosen_tasks(config: RepairConfig, suite: Suite) -> list[int]:
    """Return the numbers of the tasks that are asked."""
    total = len(suite.tasks)
    if config.task_seed is None:
        return evenly_spread(suite.config.n_tasks, total)
    count = min(suite.config.n_tasks or total, total)
    return sorted(np.random.default_rng(config.task_seed).choice(total, count, replace=False).tolist())


def settings_of(config: RepairConfig, suite: Suite) -> Row:
    """Return what a result depends on beside the models: settings, and the content of the data."""
    names = ["suite", "visible", "task_seed", "timeout"]
    if not config.replay:  # a log has its own
        names += ["plan", "select", "sampling", "critic_sampling"]
    settings: Row = {name: value for name, value in asdict(config).items() if name in names}
    own = asdict(getattr(config, config.suite))
    settings["tasks"] = {name: value for name, value in own.items() if name not in ("data", "sampling", "timeout")}
    settings["llama_scale"] = llama_scale.__version__
    if local := suite.config.local_data:
        settings["data_sha256"] = content_sha256(local, f"{config.suite}.data")
    if config.replay:
        settings["replay_sha256"] = content_sha256(Path(config.replay), "replay")
    return json.loads(json.dumps(settings))


def run(config: RepairConfig, folder: Path, backend: Backend | None = None, critic: Backend | None = None) -> Row:
    """Run a study, or go on with one that was stopped, and write its files; return the result.

    The models are those of the settings, unless they are given.
    The order is what keeps the tests hidden: programs are drawn and chosen by what is visible, the journal is closed,
    and then all tests are run. Raises InputError on bad input before anything is drawn.
    """
    suite = SUITES[config.suite].read(getattr(config, config.suite))
    files, settings, start = paths(config, folder), settings_of(config, suite), time.perf_counter()
    if not config.replay:
        backend = KeptReplies(backend, files["replies"]) if backend else open_backend(config.backend, files["replies"])
        settings["backend"] = backend.identity
        settings["parameters"] = backend.parameters
        if any(arm.critic == "model" for arm in config.plan.parsed) and (critic or config.critic.model):
            kept = files["critic_replies"]
            critic = KeptReplies(critic, kept) if critic else open_backend(config.critic, kept, "critic")
            settings["critic"] = critic.identity
    if finished(files, settings):
        if not files["report"].exists():
            write_report([read_study(files["steps"])], files["report"])
        print(f"already done with these settings, nothing to do ({files['result']})")
        return read_json(files["result"])
    cache = Path(config.execution.cache) if config.execution.cache else files["verdicts"]
    with Execution(config.execution, cache) as execution, ExitStack() as stack:
        for model in (backend, critic):
            if isinstance(model, KeptReplies):
                stack.callback(model.close)
        known = split(suite, config.visible, execution, config.timeout)
        asked = [known[number] for number in chosen_tasks(config, suite)]
        judge = VisibleJudge({part.shown.number: part.visible for part in asked}, execution, config.timeout)
        if backend is None:
            log = read_log(Path(config.replay or ""), [part.shown for part in known])
            judge = VisibleJudge({part.shown.number: part.visible for part in known}, execution, config.timeout)
            rows, asked = replayed(log, judge), known
        else:
            critics = open_critics([arm.critic for arm in config.plan.parsed if arm.critic] + compilers(config), critic,
                                   config.critic_sampling)  # fmt: skip
            pipelines = Pipelines(config.plan, judge, backend, critics, config.sampling, tell)
            rows = [as_row(step) for step in pipelines.run([part.shown for part in asked])]
            about_selection(config, rows, asked, judge, backend)
            write_prompts(files["prompts"], pipelines.prompts)
        rows = json.loads(json.dumps(rows))
        about = settings | {"isolation": execution.sandbox.describe()["level"]} | usage(rows, suite)
        write_journal(files["journal"], about, rows)
        seal(files["journal"], files["steps"], asked, execution, config.timeout)
    result = summed_up(files["steps"]) | {"steps_sha256": sha256(files["steps"])}
    timing = {
        "seconds": round(time.perf_counter() - start, 1),
        "asked": backend.asked if isinstance(backend, KeptReplies) else 0,
    }
    models = {"backend": backend, "critic": critic}
    timing |= {name: used for name, model in models.items() if (used := getattr(model, "usage", None))}
    write_json(files["timing"], timing)
    write_report([read_study(files["steps"])], files["report"])
    write_json(files["result"], result, sealed=True)
    return result


def report(results: str, out: str | None) -> list[Path]:
    """Write a report of the studies in folders, named by commas; return its paths."""
    if out is None:
        raise InputError("out: name a folder for the report")
    folders = [name.strip() for name in results.split(",") if name.strip()]
    if not folders:
        raise InputError("results: name at least one folder that launch/repair.py filled")
    return write_report(find_studies(folders), Path(out) / "report.html")


def mirror(config: RepairConfig, folder: Path) -> None:
    """Show a finished study in Weights & Biases, where that is asked for."""
    if config.wandb:
        files = paths(config, folder)
        mirror_study(read_study(files["steps"]), folder, files["report"], config.wandb)


def compilers(config: RepairConfig) -> list[str]:
    """Return the critic that the arm logic has beside its own."""
    return ["compiler"] if any(arm.kind == "logic" for arm in config.plan.parsed) else []


def tell(line: str) -> None:
    """Say how far a run is."""
    print(line, file=sys.stderr, flush=True)


def about_selection(
    config: RepairConfig, rows: list[Row], asked: Sequence[Split], judge: VisibleJudge, backend: Any
) -> None:
    """Add to the rows what the rules vote and agreement go by, if they are wanted."""
    rules, shown = rule_names(config.select), {part.shown.number: part.shown for part in asked}
    if "vote" in rules:
        found = outputs(rows, shown, judge.visible, judge.execution, judge.timeout)
        for row, values in zip(rows, found, strict=True):
            row["outputs"] = values
    if "agreement" in rules:
        tests = generated_tests([task for task in shown.values() if task.entry], backend, config.sampling)
        held = agreements(rows, tests, judge.visible, judge.execution, judge.timeout)
        for row, values in zip(rows, held, strict=True):
            row["agrees"] = values


def usage(rows: Sequence[Row], suite: Suite) -> Row:
    """Return what is said about a journal beside its settings."""
    return {"about": suite.about, "steps": len(rows)}


def finished(files: dict[str, Path], settings: Row) -> bool:
    """Whether a result with these settings is there, with the rows that it was computed from."""
    if not files["result"].exists() or not files["steps"].exists():
        return False
    result = read_json(files["result"])
    steps = hashlib.sha256(read_bytes(files["steps"])).hexdigest()
    if not isinstance(result, dict) or steps != result.get("steps_sha256"):
        return False
    return all(result.get(name) == value for name, value in settings.items())


def out_folder(config: RepairConfig) -> Path:
    """Return the folder of the results; raise InputError where it cannot be known."""
    if config.out:
        return Path(config.out)
    path = Path(config.backend.model or "")
    if config.replay or not ((path / "manifest.json").exists() or (path / "checkpoints").exists()):
        raise InputError("out: name a folder for the results")
    from llama_scale.checkpoint.folder import resolve  # which needs torch

    return eval_folder(resolve(path))


def show(result: Row) -> None:
    """Print the headline figures."""
    print(f"{result['n_tasks']} tasks, intervals first:")
    print("\n".join(f"  {line}" for line in result["in_words"]), flush=True)
