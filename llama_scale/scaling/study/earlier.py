"""Studies that an earlier version began: what it finished is done here, too.

That version gave each command its settings as flags, so that its records of finished tasks (studies/<name>/state) have
keys of other commands, and called the folder of the fit without the held-out runs ``ahead``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llama_scale.scaling.study.backends.state import State
from llama_scale.scaling.study.runs import trained_as_planned

if TYPE_CHECKING:
    from llama_scale.scaling.study.plan import Study

# How and where a study is run, which changes nothing that it finds.
FREE_SETTINGS = ("device", "threads", "parallel", "executor", "slurm", "dry_run")


def move_earlier_folders(folder: Path) -> None:
    """Give the fit without the held-out runs its present name: ahead/ is holdout/."""
    if (folder / "ahead").is_dir() and not (folder / "holdout").exists():
        (folder / "ahead").rename(folder / "holdout")


def adopt_finished(study: "Study", past: dict[str, Any] | None, state: State) -> None:
    """Take over what an earlier version finished, and record it as done.

    A training run is, where its result is there and its folder's config.yaml is what would be trained now. Any other
    task is, where its outputs are there, it follows only finished ones and the study is the same as ``past``, which
    study.yaml recorded. All else is run: the commands themselves repeat nothing that they find done.
    """
    same_study = past is not None and _comparable(past) == _comparable(study.settings)
    runs = {f"train-{run.name}": run for run in study.runs}
    for task in state.tasks:  # each after its inputs
        records = map(state.read_record, (task.name, task.name.replace("holdout-", "ahead-")))
        # Records of the present version have a format.
        record = next((record for record in records if record and "format" not in record), None)
        if task.name in state.done or not record or state.missing(task):
            continue
        if run := runs.get(task.name):
            finished = trained_as_planned(run, study.runs_folder / run.name / "config.yaml")
        else:
            finished = same_study and state.done.issuperset(task.inputs)
        if finished:
            state.record(task, record.get("seconds", 0.0), record.get("attempts", 1))


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a study's settings as study.yaml has them, without those that change no result."""
    recorded = yaml.safe_load(yaml.safe_dump(settings))
    return {key: value for key, value in recorded.items() if key not in FREE_SETTINGS}
