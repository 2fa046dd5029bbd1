"""A repair study from its settings to its result: drawn, closed, sealed, summed up. What is finished stays."""

import hashlib
import json
import sys
import time
from collections import Counter
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
from evals.repair.figures import PRICED, summed_up
from evals.repair.journal import seal, write_journal, write_prompts
from evals.repair.loop import Pipelines, as_row
from evals.repair.outcome import VisibleJudge
from evals.repair.probes import agreements, generated_tests, outputs
from evals.repair.published import all_shown
from evals.repair.replay_log import read_log, replayed
from evals.repair.report.page import find_studies, read_study, write_report
from evals.repair.report.wandb_study import mirror_study
from evals.repair.select import rule_names
from evals.repair.split import Shown, split
from evals.results import eval_folder
from evals.sandbox.types import JUDGE_VERSION
from evals.verdicts import Execution
from llama_scale.errors import InputError
from llama_scale.files import locked, read_bytes, read_json, sha256, write_json

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
    if config.protocol == "published":
        settings["protocol"] = config.protocol
    own = asdict(getattr(config, config.suite))
    settings["tasks"] = {name: value for name, value in own.items() if name not in ("data", "sampling", "timeout")}
    settings["llama_scale"] = llama_scale.__version__
    prices = [config.backend.prompt_price, config.backend.price, config.critic.prompt_price, config.critic.price]
    if any(prices) and not config.replay:
        settings["prices"] = dict(zip(PRICED, prices, strict=True))
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
    if config.critic.model and not asks_critic(config):
        raise InputError("critic.model: no arm has the critic model; name one in plan.arms, as tests:model")
    suite = SUITES[config.suite].read(getattr(config, config.suite))
    files, settings, start = paths(config, folder), settings_of(config, suite), time.perf_counter()
    with ExitStack() as stack:
        models = {} if config.replay else open_models(config, files, backend, critic)
        kept = [model for model in models.values() if isinstance(model, KeptReplies)]
        for model in kept:
            stack.callback(model.close)
        settings |= about_models(models)
        if finished(files, settings):
            if not files["report"].exists():
                write_report([read_study(files["steps"])], files["report"])
            result = read_json(files["result"])
            print(f"already done with these settings, nothing to do ({files['result']}){doubts(config, result)}")
            return result
        tell_of_other(files["result"], settings)
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"{folder}: {{}} is at work on this study; wait for it to end, or name another folder"
        stack.enter_context(locked(folder / f".repair-{config.suite}.lock", busy))
        for model in kept:
            model.read_again()
        cache = Path(config.execution.cache) if config.execution.cache else files["verdicts"]
        execution = stack.enter_context(Execution(config.execution, cache))
        honest = config.protocol == "honest"
        known = split(suite, config.visible, execution, config.timeout) if honest else all_shown(suite)
        judge = VisibleJudge({part.shown.number: part.visible for part in known}, execution, config.timeout)
        if config.replay:
            rows, clock = replayed(read_log(Path(config.replay), [part.shown for part in known]), judge), []
        else:
            asked = [known[number].shown for number in chosen_tasks(config, suite)]
            rows, clock = drawn(config, asked, judge, models, files["prompts"])
        rows = json.loads(json.dumps(rows))
        about = settings | {"isolation": execution.sandbox.describe()["level"]}
        about |= {"about": suite.about, "steps": len(rows), "judge_version": JUDGE_VERSION}
        if models and not models["backend"].chat and not config.sampling.stop:
            about["stops"] = list(known[0].shown.stops)
        write_journal(files["journal"], about, rows)
        seal(files["journal"], files["steps"], known, execution, config.timeout)
        timing = {"seconds": round(time.perf_counter() - start, 1), "asked": getattr(models.get("backend"), "asked", 0)}
        timing |= {"rounds": clock, "program_seconds": program_seconds(rows, judge)}
        timing |= {name: used for name, model in models.items() if (used := getattr(model, "usage", None))}
        write_json(files["timing"], timing)
        result = summed_up(files["steps"]) | {"steps_sha256": sha256(files["steps"])}
        write_report([read_study(files["steps"])], files["report"])
        write_json(files["result"], result, sealed=True)
    return result


def doubts(config: RepairConfig, result: Row) -> str:
    """Return what cannot be known of a result that is there, or may have changed since, as more of a line."""
    said = ""
    if any("://" in (model.model or "") for model in (config.backend, config.critic)):
        said += "; whether the server still has the same model cannot be known: delete its replies to ask it again"
    if result.get("judge_version", 1) < JUDGE_VERSION:
        said += "; by an earlier judge, some of whose verdicts differ: delete it to judge again"
    return said


def asks_critic(config: RepairConfig) -> bool:
    """Whether an arm has a model as its critic."""
    return any(arm.critic == "model" for arm in config.plan.parsed)


def open_models(
    config: RepairConfig, files: dict[str, Path], backend: Backend | None, critic: Backend | None
) -> dict[str, Backend]:
    """Return the model that writes and, where it is wanted, the one that criticizes, their replies kept."""
    kept = files["replies"]
    found = {"backend": KeptReplies(backend, kept) if backend else open_backend(config.backend, kept)}
    if asks_critic(config) and (critic or config.critic.model):
        kept = files["critic_replies"]
        found["critic"] = KeptReplies(critic, kept) if critic else open_backend(config.critic, kept, "critic")
    return found


def about_models(models: dict[str, Backend]) -> Row:
    """Return what a result depends on of the models: their identities; beside them the size of the one that writes."""
    about: Row = {name: model.identity for name, model in models.items()}
    return about | ({"parameters": models["backend"].parameters} if models else {})


def drawn(
    config: RepairConfig, asked: Sequence[Shown], judge: VisibleJudge, models: dict[str, Backend], prompts: Path
) -> tuple[list[Row], list[Row]]:
    """Run the pipelines; return their steps as rows and the seconds of their rounds, and write the ``prompts``."""
    names = [arm.critic for arm in config.plan.parsed if arm.critic] + compilers(config)
    critics = open_critics(names, models.get("critic"), config.critic_sampling)
    pipelines = Pipelines(config.plan, judge, models["backend"], critics, config.sampling, tell)
    rows = [as_row(step) for step in pipelines.run(asked)]
    about_selection(config, rows, asked, judge, models["backend"])
    write_prompts(prompts, pipelines.prompts)
    return rows, pipelines.clock


def tell_of_other(path: Path, settings: Row) -> None:
    """Say which settings differ from those of a result that is replaced."""
    if not path.exists():
        return
    other = read_json(path)
    if names := different(other if isinstance(other, dict) else {}, settings):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        tell(f"{path} is of other settings ({', '.join(names[:3])}{more}): replaced, its replies are kept")


def different(old: Row, new: Row, at: str = "") -> list[str]:
    """Return the dotted names of the settings in ``new`` that ``old`` has otherwise."""
    names = []
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            names += different(before, value, f"{at}{name}.")
        elif value != before:
            names.append(f"{at}{name}")
    return names


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


def program_seconds(rows: Sequence[Row], judge: VisibleJudge) -> dict[str, float]:
    """Return the CPU seconds that the programs of each arm took on their visible tests."""
    total: Counter[str] = Counter()
    for row in rows:
        total[row["arm"]] += judge.seconds.get((row["number"], row["program"]), 0.0)
    return {arm: round(seconds, 3) for arm, seconds in total.items()}


def compilers(config: RepairConfig) -> list[str]:
    """Return the critic that the arm logic has beside its own."""
    return ["compiler"] if any(arm.kind == "logic" for arm in config.plan.parsed) else []


def tell(line: str) -> None:
    """Say how far a run is."""
    print(line, file=sys.stderr, flush=True)


def about_selection(
    config: RepairConfig, rows: list[Row], asked: Sequence[Shown], judge: VisibleJudge, backend: Any
) -> None:
    """Add to the rows what the rules vote and agreement go by, if they are wanted."""
    rules, shown = rule_names(config.select), {task.number: task for task in asked}
    if "vote" in rules:
        found = outputs(rows, shown, judge.visible, judge.execution, judge.timeout)
        for row, values in zip(rows, found, strict=True):
            row["outputs"] = values
    if "agreement" in rules:
        tests = generated_tests([task for task in shown.values() if task.entry], backend, config.sampling)
        held = agreements(rows, tests, judge.visible, judge.execution, judge.timeout)
        for row, values in zip(rows, held, strict=True):
            row["agrees"] = values


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
