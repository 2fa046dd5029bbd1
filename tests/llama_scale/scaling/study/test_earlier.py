"""A study that an earlier version began continues, and repeats nothing that it finished."""

from dataclasses import asdict

import pytest
import yaml

from llama_scale.files import write_json
from llama_scale.scaling.study.backends.state import State
from llama_scale.scaling.study.earlier import adopt_finished, move_earlier_folders

GRID = {"sizes": ["S1", "S2", "S4"], "tokens": [3e5, 1e6, 3e6]}


def write_finished(study):
    """Leave the files of a study that an earlier version finished."""
    for run in study.runs:
        recipe = run.recipe
        resolved = asdict(run.config) | {"tokens": recipe.tokens, "precision": "fp32"}
        resolved |= {"compile": False, "micro_batch": 2, "threads": 7}
        resolved["optim"] |= {"lr": recipe.lr, "batch_tokens": recipe.batch_tokens, "warmup_steps": recipe.warmup_steps}
        folder = study.runs_folder / run.name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(resolved))
    for task in study.tasks:
        for output in task.outputs:
            path = study.root / output.replace("/holdout/", "/ahead/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        name = task.name.replace("holdout-", "ahead-")
        record = {"task": name, "key": "1234", "argv": ["python", "x.py", "--flags", "1"]}
        record |= {"seconds": 12.5, "attempts": 2}
        write_json(study.folder / "state" / f"{name}.json", record)


def adopt(study, past):
    move_earlier_folders(study.folder)
    state = State(study.folder / "state", study.root, study.tasks)
    adopt_finished(study, past, state)
    return state


@pytest.fixture
def finished(plan):
    study = plan(runs=[GRID])
    write_finished(study)
    return study


def test_a_finished_study_is_finished(finished):
    state = adopt(finished, yaml.safe_load(yaml.safe_dump(finished.settings)))
    assert state.done == {task.name for task in finished.tasks}
    assert "holdout-forecast" in state.done and not (finished.folder / "ahead").exists()
    again = State(finished.folder / "state", finished.root, finished.tasks)
    assert again.done == state.done, "by its own records from now on"
    assert again.records["train-S1-1M-seed0"]["seconds"] == 12.5


def test_other_scores_leave_the_trained_runs_alone(plan, finished):
    changed = plan(runs=[GRID], suites=["perplexity", "mbpp"])
    state = adopt(changed, finished.settings)
    assert state.done == {f"train-{run.name}" for run in changed.runs}


def test_where_it_runs_does_not_matter(plan, finished):
    elsewhere = plan(runs=[GRID], threads=3, parallel=5)
    assert adopt(elsewhere, finished.settings).done == {task.name for task in elsewhere.tasks}


def test_what_was_trained_otherwise_or_is_incomplete_is_not_taken_over(finished):
    other, lost, damaged = (run.name for run in finished.runs[1:4])
    path = finished.runs_folder / other / "config.yaml"
    resolved = yaml.safe_load(path.read_text())
    resolved["optim"]["lr"] *= 2
    path.write_text(yaml.safe_dump(resolved))
    (finished.runs_folder / lost / "result.json").unlink()
    (finished.runs_folder / damaged / "config.yaml").write_text("- 1\n")
    state = adopt(finished, finished.settings)
    repeated = {f"train-{run}" for run in (other, lost, damaged)}
    assert repeated.isdisjoint(state.done)
    assert {f"train-{run.name}" for run in finished.runs} - repeated <= state.done
    assert "collect" not in state.done and f"evaluate-{other}" not in state.done
