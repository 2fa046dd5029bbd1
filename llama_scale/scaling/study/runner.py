"""Carries out a study; started again, it continues and repeats nothing."""

import sys
from pathlib import Path

import yaml

from llama_scale.config import flatten, read_yaml
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, locked
from llama_scale.scaling.study.backends.local import Failure, LocalExecutor, State, pick_slots
from llama_scale.scaling.study.backends.slurm import SlurmExecutor
from llama_scale.scaling.study.plan import Study
from llama_scale.scaling.study.progress import Progress
from llama_scale.text import relative_path

IDENTITY = ("data", "sizes", "train")


def run_study(study: Study) -> None:
    """Run what is left of a study and print its progress.

    Raises InputError if the study is being run already, if it is no longer the study that its
    runs belong to, or if a task was given bad input; SystemExit with one line if a task crashed
    twice; KeyboardInterrupt when told to stop.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{relative_path(study.folder)}: {{}} is running this study; wait for it or stop it"
    with locked(study.folder / "lock", busy) as handle:
        check_same_study(study)
        lay_out(study)
        state = State(study.folder / "state", study.root, study.tasks)
        config = study.config
        slots = pick_slots(config.device, config.parallel, config.threads)
        jobs = config.executor == "slurm"
        with Progress(study, state, len(study.runs) if jobs else len(slots)) as progress:
            logs = study.folder / "logs"
            executor = (
                SlurmExecutor(state, logs, config.slurm, progress)
                if jobs
                else LocalExecutor(state, logs, slots, progress, (handle,))
            )
            failures = executor.run()
        if failures:
            _fail(state, failures)
        print(
            f"{config.name}: finished; open {relative_path(study.folder / config.result)}",
            flush=True,
        )


def check_same_study(study: Study) -> None:
    """Raise InputError if runs exist that were trained by other settings than the study's.

    Runs may be added and left out and the scores and the fit may change; the data, the shapes of
    the sizes and the training of an existing run may not.
    """
    path = study.folder / "study.yaml"
    trained = [r for r in study.runs if (study.runs_folder / r.name / "config.yaml").exists()]
    if not path.exists() or not trained:
        return
    past = read_yaml(path)
    if not isinstance(past, dict):
        raise InputError(f"{relative_path(path)}: not the settings of a study; delete it to go on")
    before, now = (
        flatten({k: settings.get(k, {}) for k in IDENTITY}) for settings in (past, study.settings)
    )
    for key in sorted(before.keys() | now.keys()):
        kind, name, *_ = key.split(".")
        users = [r for r in trained if kind != "sizes" or r.config.size == name]
        if before.get(key) != now.get(key) and users:
            raise InputError(
                f"{study.source}: {key} is {now.get(key)}, but {users[0].name} was trained with "
                f"{before.get(key)} ({relative_path(path)}); choose another name, or delete "
                f"{relative_path(study.folder)} and {relative_path(study.runs_folder)} to start "
                "over"
            )


def lay_out(study: Study) -> None:
    """Write study.yaml and the link to the runs."""
    with atomic_write(study.folder / "study.yaml") as file:
        yaml.safe_dump(study.settings, file, sort_keys=False)
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
    because = f"; {len(blocked)} not run because of it: {_few(blocked)}" if blocked else ""
    line = (
        f"{len(failed)} of {len(state.tasks)} tasks failed ({failures[0].message}"
        f"{'; ' + _few([f.task.name for f in failures[1:]]) if failures[1:] else ''}){because}; "
        "the same command tries again"
    )
    if all(failure.user_error for failure in failures):
        raise InputError(line)
    sys.exit(f"study.py: {line}")


def _few(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
