"""Carries out a study; started again, it continues and repeats nothing."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llama_scale.config import TrainConfig, flatten, nest, read_yaml, with_new_names, write_yaml
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, locked, read_json, write_json
from llama_scale.scaling.study.backends.local import LocalExecutor, pick_slots
from llama_scale.scaling.study.backends.slurm import SlurmExecutor
from llama_scale.scaling.study.backends.state import Failure, State
from llama_scale.scaling.study.earlier import adopt_finished, move_earlier_folders
from llama_scale.scaling.study.plan import Study
from llama_scale.scaling.study.progress import Progress
from llama_scale.scaling.study.settings import PlannedRun
from llama_scale.text import relative_path


def run_study(study: Study, warm_modules: Sequence[str] = ()) -> None:
    """Run what is left of a study and print its progress.

    On a CPU its tasks are forked from one interpreter that has imported ``warm_modules``.

    Raises InputError if the study is being run already, if it is no longer the study that its runs belong to, or if a
    task was given bad input; SystemExit with one line if a task crashed twice; KeyboardInterrupt when told to stop.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{relative_path(study.folder)}: {{}} is running this study; wait for it or stop it"
    with locked(study.folder / "lock", busy) as handle:
        past = check_same_study(study)
        move_earlier_folders(study.folder)
        state = State(study.folder / "state", study.root, study.tasks)
        for path, task in state.changed.items():
            print(f"{path} has changed since {task} wrote it: {task} is run again", flush=True)
        adopt_finished(study, past, state)
        write_study_files(study, measured_precision(study))
        config, logs, packages = study.config, study.folder / "logs", study.scripts.parent
        slots = pick_slots(config.device, config.parallel, config.threads)
        jobs = config.executor == "slurm"
        with Progress(study, state, len(study.runs) if jobs else len(slots)) as progress:
            executor = (
                SlurmExecutor(state, logs, config.slurm, progress, import_path=packages)
                if jobs
                else LocalExecutor(
                    state, logs, slots, progress, import_path=packages, keep_open=(handle,), warm_modules=warm_modules
                )
            )
            failures = executor.run()
        if failures:
            _fail(state, failures)
        print(f"{config.name}: finished; open {relative_path(study.folder / config.result)}", flush=True)


def check_same_study(study: Study) -> dict[str, Any] | None:
    """Return the settings that study.yaml recorded when the study was last run; None if nothing was trained.

    Raises InputError if runs exist that were trained by other settings than the study's. Runs may be added and left out
    and the scores and the fit may change; the data, the shapes of the sizes and the training of a run may not.
    """
    path = study.folder / "study.yaml"
    trained = [run for run in study.runs if (study.runs_folder / run.name / "config.yaml").exists()]
    if not trained or not path.exists():
        return None
    past = read_yaml(path, check_seal=True)
    if not isinstance(past, dict):
        raise InputError(f"{relative_path(path)}: not the settings of a study; delete it to go on")
    before, now = _identity(past, study.identity), _identity(study.settings, study.identity)
    for key in sorted(before.keys() | now.keys()):
        kind, _, rest = key.partition(".")
        users = [run.name for run in trained if kind != "sizes" or run.config.size == rest.split(".")[0]]
        if before.get(key) != now.get(key) and users:
            folder = relative_path(study.folder)
            raise InputError(
                f"{study.source}: {key} is {now.get(key)}, but {users[0]} was trained with "
                f"{before.get(key)} ({folder / 'study.yaml'}); choose another name, or delete "
                f"{folder} and {relative_path(study.runs_folder)} to start over"
            )
    return past


def _identity(settings: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the dotted settings ``keys`` by which runs were trained, renamed ones by their new name."""
    train = with_new_names(nest(settings.get("train") or {}), TrainConfig)
    return flatten({key: settings.get(key, {}) for key in keys} | {"train": train})


def measured_precision(study: Study) -> str | None:
    """Return the precision of the runs on this machine's CPU that leave it open; None where there are none.

    It is measured once, for the largest model, and kept in precision.json, so that all runs of a study have the same.
    """
    open_runs = [r for r in study.runs if isinstance(r, PlannedRun) and r.config.precision == "auto"]
    if not open_runs or study.config.executor == "slurm":
        return None
    path = study.folder / "precision.json"
    if path.exists():
        return read_json(path)["precision"]
    from llama_scale.device import pick_device, pick_precision, set_threads

    if pick_device(study.config.device) != "cpu":
        return None
    set_threads(study.config.threads)
    model = max(open_runs, key=lambda run: run.n_params_non_embedding).config.model
    bf16, why = pick_precision("auto", "cpu", model.d_model, model.d_ff)
    write_json(path, {"precision": "bf16" if bf16 else "fp32", "why": why})
    print(f"precision: {'bf16' if bf16 else 'fp32'} for all runs ({why})", flush=True)
    return "bf16" if bf16 else "fp32"


def write_study_files(study: Study, precision: str | None = None) -> None:
    """Write study.yaml, the settings of each task, and the link to the runs.

    ``precision`` is that of the runs whose own settings leave it open.
    """
    write_yaml(study.folder / "study.yaml", study.settings)
    settings = {task.config_file: task.settings or {} for task in study.tasks if task.config_file}
    for path, values in settings.items():
        if precision and "model" in values and values.get("precision", "auto") == "auto":
            values = values | {"precision": precision}
        with atomic_write(study.root / path) as file:
            yaml.safe_dump(values, file, sort_keys=False)
    study.runs_folder.mkdir(parents=True, exist_ok=True)
    link, target = study.folder / "runs", Path("..", "..", "runs", study.config.name)
    if link.is_symlink() and link.readlink() == target:
        return
    if link.exists() and not link.is_symlink():
        raise InputError(f"{relative_path(link)}: not a link to {target}; move it away")
    link.unlink(missing_ok=True)
    link.symlink_to(target, target_is_directory=True)


def _fail(state: State, failures: list[Failure]) -> None:
    """End a study of which tasks failed: name them and what could not be run because of them."""
    failed = {failure.task.name for failure in failures}
    blocked = [t.name for t in state.tasks if t.name not in state.done | failed]
    others = _first_names([failure.task.name for failure in failures[1:]])
    because = f"; {len(blocked)} not run because of it: {_first_names(blocked)}" if blocked else ""
    line = (
        f"{len(failed)} of {len(state.tasks)} tasks failed ({failures[0].message}"
        f"{'; ' + others if others else ''}){because}; the same command tries again"
    )
    if all(failure.user_error for failure in failures):
        raise InputError(line)
    sys.exit(f"study.py: {line}")


def _first_names(names: list[str], limit: int = 4) -> str:
    """Return the first names and how many more there are: "a, b, c, d and 3 more"."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
