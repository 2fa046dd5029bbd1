"""The study file, the plan made of it, and what is refused before anything runs."""

import math
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from evals.config import EvalConfig
from llama_scale.cli import build, parse
from llama_scale.config import TrainConfig, load_size
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama
from llama_scale.scaling.study.backends.task import Task, task_keys
from llama_scale.scaling.study.plan import read_study
from tests.conftest import ROOT, run_here
from tests.llama_scale.scaling.helpers import TOY

check_evaluation = runpy.run_path(str(ROOT / "launch/study.py"))["check_evaluation"]
QUICKSTART = ROOT / "configs/study/quickstart.yaml"


def test_runs(plan):
    study = plan()
    assert [run.name for run in study.runs] == [
        "S1-300k-seed0", "S1-1M-seed0", "S2-300k-seed0", "S2-1M-seed0",
        "S1-2.5M-seed0", "S1-2.5M-seed1",
    ]  # fmt: skip
    run = study.runs[3]
    assert run.config.model == load_size("S2", vocab_size=1024, context_length=128)
    assert (run.config.tokens, run.config.seed, run.config.optim.lr) == (1e6, 0, 1e-3)
    with torch.device("meta"):
        model = Llama(run.config.model)
    tables = sum(p.numel() for n, p in model.named_parameters() if "embedding" in n or "head" in n)
    assert run.n_params_non_embedding == sum(p.numel() for p in model.parameters()) - tables
    # Exact FLOPs: 6 for each weight in a product, and causal attention over half of 128 positions.
    c = run.config.model
    matmul = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2)
    attention = 3 * 2 * 2 * c.n_layers * c.d_model * 128 / 2
    assert run.flops == run.recipe.tokens * (6 * matmul + attention)
    assert abs(run.recipe.tokens - 1e6) <= run.recipe.batch_tokens / 2


def test_tasks(plan, tmp_path):
    study = plan("--holdout", "N>1e5")
    tasks = {task.name: task for task in study.tasks}
    assert study.tasks[0].name == "prepare"
    assert list(tasks)[-4:] == ["collect", "fit", "report", "track"]
    assert len(tasks) == 1 + 2 * 6 + 4
    for position, task in enumerate(study.tasks):  # inputs come first: the plan has no cycle
        assert set(task.inputs) <= {earlier.name for earlier in study.tasks[:position]}
        script = Path(task.argv[1])
        assert script.parent == ROOT / "launch" and script.is_file()
    assert tasks["prepare"].argv[2:] == ("--config", f"{ROOT}/configs/data/installed.yaml")
    assert tasks["prepare"].outputs == ("data/installed/manifest.json",)
    train = tasks["train-S1-2.5M-seed1"]
    assert train.argv[2:] == ("--config", "studies/toy/configs/train-S1-2.5M-seed1.yaml")
    assert train.config_file == train.argv[3]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(train.settings))
    config = parse(TrainConfig, "", ["--config", str(tmp_path / "run.yaml")])
    assert config == study.runs[5].config
    assert (config.run, config.data, config.group, config.device, config.threads) == (
        "runs/toy/S1-2.5M-seed1", "data/installed", "toy", "cpu", 1,
    )  # fmt: skip
    assert train.inputs == ("prepare",) and train.flops == study.runs[5].flops
    assert train.outputs == ("runs/toy/S1-2.5M-seed1/result.json",)
    evaluate = tasks["evaluate-S1-2.5M-seed1"]
    assert evaluate.inputs == (train.name,)
    assert evaluate.argv[2:] == (
        "runs/toy/S1-2.5M-seed1", "--config", "studies/toy/configs/evaluate.yaml",
    )  # fmt: skip
    assert evaluate.settings == {
        "device": "cpu", "threads": 1, "humaneval": {"n_tasks": 5},
        "suites": "perplexity,humaneval",
    }  # fmt: skip
    steps = study.runs[5].recipe.steps
    assert evaluate.outputs[1] == f"runs/toy/S1-2.5M-seed1/evals/step-{steps:08d}/humaneval.json"
    assert len(tasks["collect"].inputs) == 6
    assert tasks["fit"].argv[2:] == ("fit", "--config", "studies/toy/configs/fit.yaml")
    assert tasks["fit"].settings == {
        "points": "studies/toy/points.csv", "out": "studies/toy", "holdout": "N>1e5",
        "resamples": 500,
    }  # fmt: skip
    assert study.settings["sizes"]["S2"]["d_ff"] == 384
    assert study.settings["data"]["vocab_size"] == 32_000


def test_a_file_of_evaluation_settings_comes_first(plan, tmp_path):
    quick = yaml.safe_load((ROOT / "configs/eval/quick.yaml").read_text())
    study = plan(evaluate={"humaneval.n_tasks": 3, "config": "configs/eval/quick.yaml"})
    settings = study.tasks[2].settings
    assert settings["humaneval"] == quick["humaneval"] | {"n_tasks": 3}
    assert plan(evaluate={"config": "quick"}).tasks[2].settings["humaneval"] == quick["humaneval"]
    mine = tmp_path / "configs/eval/quick.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("suites: perplexity\ndevice: auto\nhumaneval: {n_tasks: 7}\n")
    study = plan(evaluate={"config": "configs/eval/quick.yaml"})
    assert study.settings["evaluate"] == {"config": "configs/eval/quick.yaml"}
    settings = build(EvalConfig, study.tasks[2].settings)
    assert settings.suites == "perplexity,humaneval", "the study's, not the file's"
    assert (settings.device, settings.threads, settings.humaneval.n_tasks) == ("auto", 1, 7)
    with pytest.raises(InputError, match=r"evaluate.config: no file quik.yaml"):
        plan(evaluate={"config": "quik.yaml"})


def test_shipped_studies_are_found_by_their_bare_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = read_study(tmp_path, ["quickstart"], scripts=ROOT / "launch")
    assert shipped.config.name == "quickstart" and len(shipped.points) == 31
    (tmp_path / "configs/study").mkdir(parents=True)
    text = QUICKSTART.read_text().replace("name: quickstart", "name: mine")
    (tmp_path / "configs/study/quickstart.yaml").write_text(text)
    mine = read_study(tmp_path, ["quickstart"], scripts=ROOT / "launch")
    assert mine.config.name == "mine", "the working directory comes first"
    with pytest.raises(InputError, match=r"no file quickstar \(did you mean 'quickstart'\?\)"):
        read_study(tmp_path, ["quickstar"], scripts=ROOT / "launch")


def test_scripts_are_named_from_the_working_directory():
    study = read_study(ROOT, [str(QUICKSTART)], scripts=ROOT / "launch")
    assert study.tasks[0].argv[1:] == (
        "launch/prepare.py", "--config", study.config.data,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nmae": "x"}, "unknown key 'nmae' (did you mean 'name'?)"),
        ({"name": None}, "the following arguments are required: name"),
        ({"name": "a/b"}, "name: 'a/b' is no folder name"),
        ({"runs": []}, "runs: the list is empty"),
        ({"runs": [{"sizes": [], "tokens": [1e6]}]}, "runs[0].sizes: the list is empty"),
        ({"runs": [{"sizes": ["S1"], "token": [1e6]}]}, "unknown key 'token'"),
        ({"runs": [{"sizes": ["S1"], "tokens": [0]}]}, "runs[0]: tokens: expected at least 1"),
        ({"runs": [{"sizes": ["S1"], "tokens": ["many"]}]}, "Expected a <class 'float'>"),
        ({"runs": [{"sizes": ["S11"], "tokens": [1e6]}]},
         "runs[0]: size: no configs/size/S11.yaml (did you mean 'S1'?)"),
        ({"runs": [{"sizes": ["S1", "S1"], "tokens": [1e6]}]}, "runs[0].sizes: S1 is listed twice"),
        ({"runs": [*TOY["runs"], {"sizes": ["S2"], "tokens": [1e6]}]},
         "runs[2]: S2-1M-seed0 is asked for twice"),
        ({"runs": [{"sizes": ["S1"], "tokens": [5]}]}, "is less than one step"),
        ({"train": {"optim.lrr": 1}}, "unknown key 'optim.lrr' (did you mean 'optim.lr'?)"),
        ({"train": {"model": {"n_layers": "two"}}}, "n_layers"),
        ({"train": {"seed": 3}}, "train.seed: the study sets it"),
        ({"suites": ["humaneval"]}, "suites: perplexity is missing"),
        ({"suites": []}, "suites: perplexity is missing"),
        ({"data": "configs/data/instaled.yaml"},
         "data: no file configs/data/instaled.yaml (did you mean 'configs/data/installed.yaml'?)"),
        ({"data": "configs/size/S1.yaml"}, "data: configs/size/S1.yaml has no name"),
        ({"parallel": 0}, "parallel: expected at least 1 or auto, found 0"),
        ({"parallel": "all"}, "parallel: "),
        ({"threads": 0}, "threads: expected at least 1 or null, found 0"),
        ({"device": "gpu"}, "device: "),
        ({"fit": {"where": "N>abc"}}, "fit.where: condition 'N>abc': 'abc' is not a number"),
        ({"fit": {"where": "N~5"}}, "fit.where: condition 'N~5': expected e.g. 'N>5e7'"),
        ({"fit": {"where": 3}}, "fit.where: expected a condition such as N>1e8, found 3"),
        ({"holdout": "D<=most"}, "holdout: condition 'D<=most': 'most' is not a number"),
        ({"holdout": "most"}, "holdout: condition 'most': expected e.g. 'N>5e7'"),
        ({"holdout": "los>3"},
         "holdout: the study's points will have no column 'los' (did you mean 'loss'?)"),
        ({"fit": {"where": "mbpp_pass_at_1>0"}},
         "fit.where: the study's points will have no column 'mbpp_pass_at_1'"),
        ({"fit": {"columns": "N=n_parms"}},
         "fit.columns: the study's points will have no column 'n_parms' (did you mean 'n_params'"),
        ({"fit": {"sed": 3}}, "fit: unknown key 'sed' (did you mean 'seed'?)"),
        ({"fit": {"resamples": 5}}, "fit: resamples: expected at least 100, found 5"),
        ({"fit": {"seed": -1}}, "fit: seed: expected 0 to 2^32 - 1, found -1"),
        ({"fit": {"against": "E=1"}}, "fit: against: expected E, A, alpha, B, beta, found E"),
        ({"fit": {"out": "x"}}, "fit.out: the study sets it; leave it out"),
        ({"evaluate": {"suites": "mbpp"}}, "evaluate.suites: the study sets it; leave it out"),
        ({"noise": -1}, "noise: expected a share of the loss in (0, 1), found -1"),
        ({"runs": [{"sizes": ["S1"], "tokens": [1e6], "seeds": [0, -1]}]},
         "runs[0]: seed: expected a whole number from 0 to 2^32 - 1, found -1"),
        ({"runs": [{"sizes": ["S1"], "tokens": [1e6], "threads": 0}]},
         "runs[0].threads: expected at least 1 or null, found 0"),
        ({"train": {"devices": 0}}, "runs[0]: devices: expected at least 1, found 0"),
        ({"train": {"optim.beta1": 3}}, "runs[0]: optim.beta1: expected at least 0 and below 1"),
        ({"train": {"model": {"vocab_size": 0}}}, "runs[0]: model.vocab_size: expected at least 1"),
        ({"suites": ["perplexity", "humanevil"]},
         "suites: no suite 'humanevil' (did you mean 'humaneval'?); known: perplexity, humaneval"),
        ({"evaluate": {"foo": 3}}, "evaluate: unknown key 'foo'"),
        ({"evaluate": {"humaneval": {"n_tasks": -3}}},
         "evaluate: humaneval.n_tasks: expected more than 0, found -3"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_study(plan, tmp_path, changes, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        check_evaluation(plan(**changes))
    assert str(error.value).startswith(f"{tmp_path}/toy.yaml: ")
    assert "\n" not in str(error.value)


def test_what_a_trained_run_alone_has_may_be_asked_for(plan):
    rules = "loss<3,epochs<=4,humaneval_pass_at_1>0"
    check_evaluation(plan(holdout=rules, fit={"where": rules, "columns": "N=n_params"}))


def test_a_folder_of_data_is_told_from_its_settings(plan, tmp_path):
    (tmp_path / "data/tiny").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no file data/tiny; give the YAML that .*prepare.*train"):
        plan(data="data/tiny")


def test_bad_study_on_the_command_line(tmp_path):
    text = QUICKSTART.read_text().replace("T1", "T99", 1)
    (tmp_path / "bad.yaml").write_text(text)
    done = run_here("study.py", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("study.py: error: bad.yaml: runs[0]: size: no configs/size/T99.")
    assert done.stderr.count("\n") == 1
    (tmp_path / "bad.yaml").write_text(QUICKSTART.read_text() + "  foo: 3\n")
    done = run_here("study.py", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("study.py: error: bad.yaml: evaluate: unknown key 'foo'")
    assert list(tmp_path.iterdir()) == [tmp_path / "bad.yaml"]
    done = run_here("study.py", "none.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "none.yaml" in done.stderr


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    done = run_here("study.py", QUICKSTART, "--dry_run", "true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    table, summary, commands = split_plan(done.stdout)
    budgets = {"512k": 250, "1.024M": 500, "2.048M": 1_000, "3.072M": 1_500, "4.096M": 2_000}  # steps of 2,048 tokens
    short, longest = ("trunk", "512k", "1.024M", "2.048M"), {"T1": 2_000, "T2": 2_000, "T3": 1_500, "T4": 1_000}
    ends = {"T1": ["4.096M"], "T2": ["4.096M"], "T3": ["3.072M"], "T4": []}
    grid = [("T1", 0), ("T1", 1), ("T1", 8), ("T2", 2), ("T2", 3), ("T3", 4), ("T4", 6), ("T4", 7)]
    expected = [f"{size}-{label}-seed{seed}" for size, seed in grid for label in (*short, *ends[size])]
    assert [row[0] for row in table] == [*expected, "last-T4-trunk-seed6", "last-T4-4.096M-seed6"]
    total = 0.0
    for row in table:
        *_, name, label, _ = row[0].split("-")
        shape = yaml.safe_load((ROOT / f"configs/size/{name}.yaml").read_text())
        d, layers, inner = shape["d_model"], shape["n_layers"], shape["d_ff"]
        matrices = layers * (4 * d * d + 3 * d * inner)
        last = 2_000 if row[0].startswith("last") else longest[name]
        steps = budgets.get(label, last * 3 // 4)
        before = 0 if label == "trunk" else round(0.75 * steps)  # a branch pays its cooldown alone
        paid = steps - (750 if row[0] == "last-T4-trunk-seed6" else before)  # and the last trunk what T4's has not
        # 1,024 token ids, half of a 128 x 128 square of attention.
        each = 2_048 * 6 * (matrices + 1_024 * d + layers * d * 128)
        size, tokens = matrices + (2 * layers + 1) * d, 2_048 * steps
        counts = (f"{size:,}", f"{tokens:,}", f"{tokens / size:.1f}", "2,048", f"{steps:,}")
        assert row[1:7] == [*counts, f"{0.08 / d**0.5:.3g}*"]
        assert float(row[7]) == pytest.approx(each * paid, rel=0.006)
        total += each * paid
    assert summary.pop(0).startswith("* lr: N outside the law's 6e7 to 1e9; D outside its 2e9 to 1e11")
    assert summary[0].startswith(f"40 runs, {total:.3g} FLOPs (exact, causal attention)")
    names = [line.split(":")[0] for line in commands]
    assert names[:3] == ["prepare", "train-T1-trunk-seed0", "train-T1-512k-seed0"]
    assert names[-4:] == ["collect", "fit", "report", "track"]
    assert [name for name in names if name.startswith("train-")] == [f"train-{r[0]}" for r in table]
    # The largest run is forecast before anything is trained that is its alone.
    assert names.index("holdout-forecast") < names.index("train-last-T4-trunk-seed6")
    assert any("time here: about" in line for line in summary)


def split_plan(text: str) -> tuple[list[list[str]], list[str], list[str]]:
    """Return the cells of a printed plan's table, its summary and its commands."""
    above, below = (part.splitlines() for part in text.split("\n\n"))
    rows = [line.split() for line in above[1:] if "-seed" in line.split()[0]]
    assert above[0].split()[:8] == ["run", "n_params_non_embedding", "tokens", "D/N", "batch", "steps", "lr", "FLOPs"]
    return rows, above[1 + len(rows) :], below


def test_quickstart_is_a_ladder():
    study = read_study(ROOT, [str(QUICKSTART)], scripts=ROOT / "launch")
    sizes = {run.config.size: run.config.model for run in study.runs}
    budgets = {size: {run.config.tokens for run in study.points if run.config.size == size}
               for size in sizes}  # fmt: skip
    assert len(sizes) >= 4 and all(len(tokens) >= 4 for tokens in budgets.values())
    n, d = ([run.n_params_non_embedding for run in study.points], [run.recipe.tokens for run in study.points])
    assert max(n) / min(n) >= 5 and max(d) / min(d) == 8
    *others, largest = sorted(study.points, key=lambda run: run.flops)
    assert (largest.n_params_non_embedding, largest.recipe.tokens) == (max(n), max(d))
    assert largest.flops >= 2 * max(run.flops for run in others)
    seeds = {size: {run.config.seed for run in study.points if run.config.size == size} for size in sizes}
    assert [len(seeds[size]) for size in ("T1", "T2", "T3", "T4")] == [3, 2, 1, 2]  # most at the ends
    orders = {(run.config.size, run.config.order_seed) for run in study.runs}  # a size shares no order with another
    assert len({seed for _, seed in orders}) == len(orders) == 8
    for size, model in sizes.items():
        width = model.d_model
        assert model.n_layers == round(1.33 * width**0.37), size
        assert model.d_ff == 16 * math.ceil(8 * width / 3 / 16), size
        assert model.head_dim in (10, 12, 16), size
        fields = yaml.safe_load((ROOT / f"configs/size/{size}.yaml").read_text())
        assert list(fields) == ["d_model", "n_layers", "n_heads", "d_ff"]


def test_keys_follow_the_commands():
    def tasks(prepare="a", fit="f", python="/usr/bin/python"):
        return [
            Task("prepare", (python, "prepare.py", prepare)),
            Task("train", (python, "train.py"), ("prepare",)),
            Task("other", (python, "other.py")),
            Task("fit", (python, "fit.py", fit), ("train", "other")),
        ]

    before = task_keys(tasks())
    assert task_keys(tasks(python="/opt/python")) == before
    changed = {name for name, key in task_keys(tasks(prepare="b")).items() if key != before[name]}
    assert changed == {"prepare", "train", "fit"}
    changed = {name for name, key in task_keys(tasks(fit="g")).items() if key != before[name]}
    assert changed == {"fit"}
    fewer = [replace(task, inputs=task.inputs[:1]) for task in tasks()]
    assert task_keys(fewer)["fit"] != before["fit"]


def test_settings_are_a_part_of_the_key():
    task = Task("fit", ("python", "fit.py"), config_file="fit.yaml", settings={"seed": 0})
    keys = [task_keys([replace(task, settings=settings)])["fit"]
            for settings in ({"seed": 0}, {"seed": 1}, None)]  # fmt: skip
    assert keys[0] == task_keys([task])["fit"] and len(set(keys)) == 3


def test_seeds_of_a_study_move_together(plan):
    runs = [{"sizes": ["S1", "S2"], "tokens": [1e6, 2e6, 4e6], "seeds": [0, 1]}]
    own = plan(runs=runs).runs
    assert {(run.config.seed, run.config.order_seed) for run in own} == {(0, 0), (1, 1)}
    fixed = plan(runs=runs, data_seed=3).runs
    assert {(run.config.seed, run.config.order_seed) for run in fixed} == {(0, 3), (1, 3)}
    moved = plan(runs=runs, data_seed=3, seed=10).runs
    assert {(run.config.seed, run.config.order_seed) for run in moved} == {(10, 13), (11, 13)}
    assert moved[0].name == "S1-1M-seed10"


def test_a_grid_has_settings_of_its_own(plan):
    grids = [{"sizes": ["S1", "S2"], "tokens": [1e6, 2e6, 4e6]},
             {"sizes": ["S1"], "tokens": [32_000], "variant": "short", "train": {"optim.lr": 1e-3}}]  # fmt: skip
    runs = plan(runs=grids, train={"optim.lr": 2e-3, "optim.batch_tokens": 4096}).runs
    assert [run.recipe.lr for run in runs] == [2e-3] * 6 + [1e-3]
    assert {run.recipe.batch_tokens for run in runs} == {4096}
    with pytest.raises(InputError, match=r"runs\[1\].train.seed: the study sets it"):
        plan(runs=[grids[0], grids[1] | {"train": {"seed": 1}}])
