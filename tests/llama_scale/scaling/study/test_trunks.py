"""Constant-rate trunks with cooldown branches as a study plans them; test_killed.py runs some."""

import pytest

from llama_scale.cost.accounting import flops_per_token
from llama_scale.errors import InputError
from llama_scale.scaling.study.dry_run import describe

GRID = {"sizes": ["S1", "S2", "S4"], "tokens": [1e6, 3e6, 6e6], "cooldown": 0.2}


def test_a_trunk_is_paid_once_and_branches_leave_it_where_they_must(plan):
    study = plan(runs=[GRID])
    names = [run.name for run in study.runs if run.config.size == "S2"]
    assert names == ["S2-trunk-seed0", "S2-1M-seed0", "S2-3M-seed0", "S2-6M-seed0"]
    assert [run.name for run in study.points] == study.settings["planned"]
    assert not any("trunk" in name for name in study.settings["planned"])
    trunk, *branches = (run for run in study.runs if run.config.size == "S2")
    each = flops_per_token(trunk.config.model)
    leaves = trunk.config.keep_steps
    assert trunk.config.optim.schedule == "constant" and leaves[-1] == trunk.recipe.steps
    for run, leave, tokens in zip(branches, leaves, GRID["tokens"], strict=True):
        batch = run.recipe.batch_tokens
        assert (batch, run.recipe.lr) == (trunk.recipe.batch_tokens, trunk.recipe.lr)
        assert abs(run.recipe.tokens - tokens) <= batch / 2
        assert abs(leave - 0.8 * run.recipe.steps) <= 0.5
        assert run.config.branch_from == f"{trunk.config.run}/checkpoints/step-{leave:08d}"
        assert run.flops == run.recipe.tokens * each
        assert run.spent == (run.recipe.steps - leave) * batch * each
    whole = 0.8 * branches[-1].flops + 0.2 * sum(run.flops for run in branches)
    assert sum(run.spent for run in [trunk, *branches]) == pytest.approx(whole, rel=0.01)
    tasks = {task.name: task for task in study.tasks}
    assert tasks["train-S2-1M-seed0"].inputs == ("prepare", "train-S2-trunk-seed0")
    assert tasks["train-S4-6M-seed0"].inputs == ("holdout-forecast", "train-S4-trunk-seed0")
    assert "evaluate-S2-trunk-seed0" not in tasks
    total = sum(run.spent for run in study.runs)
    assert f"12 runs, {total:.3g} FLOPs" in describe(study)


def test_a_longer_trunk_continues_the_shorter_one(plan):
    train = {"optim.lr": 1e-3, "optim.batch_tokens": 8192, "optim.warmup_steps": 10}
    grids = [{"sizes": ["S1", "S2", "S4"], "tokens": [1e6, 2e6, 3e6], "cooldown": 0.25, "seeds": [0, 1]},
             {"sizes": ["S4"], "tokens": [8e6], "cooldown": 0.25, "variant": "last"}]  # fmt: skip
    study = plan(runs=grids, train=train)
    runs = {run.name: run for run in study.runs}
    short, long = runs["S4-trunk-seed0"], runs["last-S4-trunk-seed0"]
    assert long.config.branch_from == f"{short.config.run}/checkpoints/step-{short.recipe.steps:08d}"
    assert long.settings["branch_from"] == long.config.branch_from and long.recipe.first_step == short.recipe.steps
    each = flops_per_token(long.config.model)
    assert long.spent == (long.recipe.steps - short.recipe.steps) * 8192 * each
    tasks = {task.name: task for task in study.tasks}
    assert tasks["train-last-S4-trunk-seed0"].inputs == ("holdout-forecast", "train-S4-trunk-seed0")
    assert tasks["train-last-S4-trunk-seed0"].flops_before == short.flops
    assert tasks["train-S4-trunk-seed0"].inputs == ("prepare",)
    # With more threads too, which take the places of as many runs.
    wide = plan(runs=[grids[0], grids[1] | {"threads": 2}], train=train, device="cpu", threads=1)
    last = {run.name: run for run in wide.runs}["last-S4-trunk-seed0"]
    assert last.config.branch_from == long.config.branch_from
    assert (last.settings["threads"], last.config.threads) == (2, 2)
    assert {task.name: task.places for task in wide.tasks if task.places > 1} == {
        "train-last-S4-trunk-seed0": 2, "train-last-S4-8M-seed0": 2
    }  # fmt: skip
    with pytest.raises(InputError, match=r"runs\[1\].threads: expected at least 1 or null, found 0"):
        plan(runs=[grids[0], grids[1] | {"threads": 0}])
    # Not where the first steps are others: another seed or rate, or a branch that leaves before the short one's end.
    others = [{"seeds": [2]}, {"train": {"optim.lr": 2e-3}}, {"tokens": [2e6, 8e6]}]
    for other in others:
        runs = {run.name: run for run in plan(runs=[grids[0], grids[1] | other], train=train).runs}
        assert [run.config.branch_from for name, run in runs.items() if "last-S4-trunk" in name] == [None]


def test_a_budget_counts_trunks_once(plan):
    study = plan(runs=[GRID], budget={"flops": 1e15})
    assert sum(run.spent for run in study.runs) == pytest.approx(1e15, rel=0.02)


def test_bad_cooldowns_are_refused(plan):
    for cooldown in (0, 1, -0.1):
        with pytest.raises(InputError, match=r"runs\[0\]: cooldown: expected a share"):
            plan(runs=[GRID | {"cooldown": cooldown}])
    with pytest.raises(InputError, match=r"runs\[0\]: cooldown: S1 at 2k tokens has \d+ steps, too"):
        plan(runs=[GRID | {"tokens": [2e3, 6e6]}])
