"""A fine-tuning study from its file to its comparison, and the published designs."""

import csv
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from launch import finetune
from llama_scale.config import CONFIGS
from llama_scale.data.examples import rank_of
from llama_scale.data.open_tokenizer import open_tokenizer
from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl, sha256, write_json
from llama_scale.scaling.report.finetune.page import write_report
from llama_scale.scaling.study.finetune.collect import load_study
from llama_scale.scaling.study.finetune.compare import compare_arms
from llama_scale.scaling.study.finetune.comparison import read_comparison
from llama_scale.scaling.study.finetune.plan import is_tuning_study, read_study
from llama_scale.scaling.study.runner import check_same_study
from tests.conftest import ROOT
from tests.llama_scale.helpers import write_gpt2
from tests.llama_scale.scaling.study.finetune.conftest import COMMON, carry_out, write_folder

pytest.importorskip("peft")
pytest.importorskip("tree_sitter")


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_arms_have_the_scores_of_their_runs(study):
    found = read_comparison(study.folder)
    for arm in found.arms:
        draws = [""] if arm.method == "base" else [f"-draw{draw}" for draw in (0, 1)]
        runs = [read_jsonl(study.runs_folder / f"{arm.name}{d}" / "references.jsonl") for d in draws]
        bits = [[row["nats"] / math.log(2) / row["bytes"] for row in run] for run in runs]
        assert np.mean(bits) == pytest.approx(arm.scores["bits_per_byte"].value, abs=1e-7)
        assert (arm.scores["bits_per_byte"].runs, arm.scores["bits_per_byte"].tasks) == (len(draws), 6)
    points = rows_of(study.folder / "points.csv")
    assert [row["run"] for row in points] == [run.name for run in study.runs]


def test_a_family_for_each_question(study):
    found = read_comparison(study.folder)
    pairs = {family.key: [(c.control, c.arm) for c in family.of("bits_per_byte")] for family in found.families}
    assert len(pairs.pop("base")) == 7  # one of them the base that is shown pairs
    assert pairs.pop("few_shot") == [("2-shot", arm.name) for arm in found.arms if arm.trained]
    assert pairs == {
        "size-lora-r2-2-steps-python": [("steps-r2-n4", "steps-r2-n12")],
        "size-lora-r2-1-epoch-python": [("epochs-r2-n4", "epochs-r2-n12")],
        "rank-lora-r1-2-steps-python": [("rank-r1-n12", "steps-r2-n12")],
        "method-full-n12": [("full-n12", "steps-r2-n12"), ("full-n12", "rank-r1-n12")],
        "budget": [("steps-r2-n12", "epochs-r2-n12"), ("steps-r2-n4", "epochs-r2-n4")],
    }
    for family in found.families:
        for one in family.contrasts:
            assert one.p <= one.holm <= 1
            assert one.detectable is None or one.detectable > 0


def test_a_base_is_shown_pairs_of_the_draw(study):
    """The pairs are the first of those that runs of the same draw are trained on, and few enough for the context."""
    order = [sorted(read_jsonl(study.folder / "data/python/pool.jsonl"), key=lambda row: rank_of(row["id"], draw))
             for draw in (0, 1)]  # fmt: skip
    tokenizer, test = open_tokenizer(study.root / "base" / "checkpoints/step-00000001"), {}
    for draw in (0, 1):
        shown = read_jsonl(study.folder / f"data/python/2-shot-draw{draw}.jsonl")
        plain = read_jsonl(study.folder / "data/python/test.jsonl")
        for row, own in zip(shown, plain, strict=True):
            assert row["prompt"] == row["before"] + own["prompt"] and row["completion"] == own["completion"]
            first = [p for p in order[draw] if p["prompt"] + p["completion"] in row["before"]]
            assert len(first) == row["shots"] <= 2
            assert len(tokenizer.context(row["prompt"])) + len(tokenizer.encode(row["completion"])) + 1 <= 128
        test[draw] = [row["shots"] for row in shown]
    assert max(test[0]) >= 1
    run = study.runs_folder / "2-shot-draw1"
    scored = read_jsonl(run / "references.jsonl")
    base = {row["id"]: row["nats"] for row in read_jsonl(study.runs_folder / "base" / "references.jsonl")}
    assert {row["id"] for row in scored} == base.keys()
    assert [row["nats"] == pytest.approx(base[row["id"]], rel=1e-5) for row in scored] == [n == 0 for n in test[1]]
    result = read_json(study.runs_folder / "2-shot-draw0/evals/end/pairs.json")
    assert result["before_sha256"] == sha256(study.folder / "data/python/2-shot-draw0.jsonl")


def test_the_rank_is_forecast_before_and_scored_after(study):
    forecast = read_json(study.folder / "rank-forecast.json")["groups"][0]
    base = read_jsonl(study.runs_folder / "base" / "references.jsonl")
    bits = 12 * np.mean([row["nats"] + row["end_nats"] for row in base]) / math.log(2)
    # Each of 3 layers has seven matrices: four of 64 x 64 and three of 64 x 160.
    assert forecast["parameters_a_rank"] == 3 * (4 * (64 + 64) + 3 * (64 + 160))
    assert forecast["bits"] == pytest.approx(bits)
    assert forecast["rank"] == math.ceil(bits / (2 * forecast["parameters_a_rank"]))
    assert read_comparison(study.folder).ranks[0].forecast == forecast["rank"]
    tasks = [task.name for task in study.tasks]
    assert tasks.index("rank-forecast") < tasks.index("rates-rank-r1-n12") < tasks.index("finetune-rank-r1-n12-draw0")


def test_a_searched_rate_is_used(study):
    found = read_json(study.folder / "rates" / "rank-r1-n12.json")
    tried = {row["lr"]: row["bits_per_byte"] for row in found["tried"]}
    best = min(tried, key=tried.get)
    assert min(tried) < best < max(tried)
    assert read_json(study.runs_folder / "rank-r1-n12-draw1" / "result.json")["lr"] == pytest.approx(found["lr"])


def test_a_rate_at_which_training_cannot_go_on_is_the_worst(root, capsys):
    """At 1e35 no loss after the first is finite; the search goes on between the rates that train."""
    flags = "--base=base --train=pairs/train.jsonl --validation=pairs/test.jsonl --device=cpu --threads=1 --steps=6"
    flags += " --batch=4 --max_tokens=100 --precision=fp32 --max_skips=2 --start=1e-3 --factor=1e38 --run=diverging"
    finetune.main(["search", *flags.split(), "--out=diverging.json"])
    found = read_json(root / "diverging.json")
    tried = {row["lr"]: row["bits_per_byte"] for row in found["tried"]}
    assert tried[max(tried)] is None and not (root / "diverging" / "lr-1e+35" / "result.json").exists()
    assert "the loss is still not finite or far too high" in capsys.readouterr().out
    trained = [lr for lr in tried if tried[lr] is not None]
    assert len(trained) >= 3 and min(trained) < found["lr"] <= max(trained)


@pytest.mark.parametrize(("flag", "change"), [
    ([], None), (["--sampled=2"], None), (["--margin=0.01"], None),
    (["--pool=20"], "pool is 20, but steps-r2-n4-draw0 was trained with 24"),
    (["--longest=200"], "longest is 200"), (["--train.batch=8"], "train.batch is 8"),
    (["--base.model=twin"], "base.model is twin"), (["--pairs.python=other"], "pairs.python is other"),
])  # fmt: skip
def test_a_study_that_has_begun_goes_on_as_it_was(study, flag, change):
    """What runs were trained by may not change; what they are scored by may."""
    again = read_study(study.root, ["toy.yaml", *flag])
    if change is None:
        assert check_same_study(again)["name"] == "toy"
        return
    with pytest.raises(InputError, match=change):
        check_same_study(again)


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_end(study):
    """The driver with its processes, killed once an arm has begun, and without being killed: the same points."""
    points = []
    for name in ("whole", "killed"):
        settings = yaml.safe_load((study.root / "toy.yaml").read_text())
        settings |= {"name": name, "arms": [a for a in settings["arms"] if a["name"] in ("rank", "full")]}
        (study.root / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, str(ROOT / "launch" / "study.py"), f"{name}.yaml"]
        options = {"cwd": study.root, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.DEVNULL}
        if name == "killed":
            with subprocess.Popen(command, **options) as process:
                begun = study.root / "runs" / name / "full-n12-draw0" / "config.yaml"
                while process.poll() is None and not begun.exists():
                    time.sleep(0.02)
                process.kill()
            assert begun.exists()
        assert subprocess.run(command, **options, timeout=900).returncode == 0
        rows = rows_of(study.root / "studies" / name / "points.csv")
        points.append([{k: v for k, v in row.items() if k not in ("seconds", "peak_memory")} for row in rows])
        assert (study.root / "studies" / name / "report.html").exists()
    assert points[0] == points[1] and len(points[0]) == 7


def test_subsets_are_nested_and_held_out_pairs_apart(study):
    ids = {part: {row["id"] for row in read_jsonl(study.folder / "data/python" / f"{part}.jsonl")}
           for part in ("pool", "tune", "test")}  # fmt: skip
    assert [len(ids[part]) for part in ("pool", "tune", "test")] == [24, 3, 6]
    assert not ids["pool"] & ids["tune"] and not ids["tune"] & ids["test"] and not ids["pool"] & ids["test"]


def test_claims_say_what_cannot_be_decided(study):
    found = {claim.claim: claim for claim in read_comparison(study.folder).claims}
    execution = next(claim for text, claim in found.items() if "execution" in text)
    assert execution.verdict == "undecided" and "No task here has tests" in execution.text
    assert next(claim for text, claim in found.items() if "Java" in text).verdict == "undecided"


def test_the_report_has_every_sample_and_table(study):
    html = (study.folder / "report.html").read_text()
    for family in read_comparison(study.folder).families:
        assert f'id="{family.key}"' in html
    sampled = [run.name for run in study.runs if run.draw == 0]
    assert all(html.count(f"{name}: ") == 3 for name in sampled)
    assert {path.name for path in write_report(study.folder)} >= {"size.png", "rank.png", "method.png"}


def edit_json(path, change):
    """Change a value of a JSON file by hand."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_rows(path, change):
    """Change rows of a file of JSON lines by hand."""
    rows = read_jsonl(path)
    change(rows)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def swap(rows):
    rows[0]["id"], rows[1]["id"] = rows[1]["id"], rows[0]["id"]


FULL, RATED = "runs/full-n12-draw0", "rates/rank-r1-n12.json"
REFERENCES, SAMPLES = f"{FULL}/references.jsonl", f"{FULL}/evals/end/pairs-samples.jsonl.gz"
BY_HAND = {
    "a score": (REFERENCES, lambda rows: rows[0].update(nats=0.5 * rows[0]["nats"]), "has changed since result.json"),
    "a count": (REFERENCES, lambda rows: rows[2].update(bytes=rows[2]["bytes"] + 1), "has changed since result.json"),
    "an end": (REFERENCES, lambda rows: rows[2].update(end_nats=0.0), "has changed since result.json"),
    "an id": (REFERENCES, lambda rows: rows[0].update(id="x"), "has changed since result.json"),
    "two ids": (REFERENCES, swap, "has changed since result.json"),
    "a row less": (REFERENCES, lambda rows: rows.pop(), "has changed since result.json"),
    "a row twice": (REFERENCES, lambda rows: rows.append(rows[0]), "has changed since result.json"),
    "no number": (REFERENCES, lambda rows: rows[0].update(nats=None), "nats is None, expected a number"),
    "not a number": (REFERENCES, lambda rows: rows[0].update(end_nats=math.nan), "end_nats is nan, expected a number"),
    "an id that is none": (REFERENCES, lambda rows: rows[0].update(id=[1]), "line 1: id should be text"),
    "a verdict": (SAMPLES, lambda rows: rows[0].update(parses=not rows[0]["parses"]), "has changed since pairs.json"),
    "a sample less": (SAMPLES, lambda rows: rows.pop(), "has changed since pairs.json"),
    "a sample twice": (SAMPLES, lambda rows: rows.append(rows[0]), "has changed since pairs.json"),
    "a rate": (f"{FULL}/result.json", lambda row: row.update(lr=1.0), "its values have changed"),
    "a result": (f"{FULL}/result.json", lambda row: row.update(val_bits_per_byte=1.0), "its values have changed"),
    "a share": (f"{FULL}/evals/end/pairs.json", lambda row: row.update(parse_rate=1.0), "its values have changed"),
    "a search": (RATED, lambda row: row.update(lr=1.0), "its values have changed"),
    "a try less": (RATED, lambda row: row["tried"].pop(), "its values have changed"),
    "a forecast": ("rank-forecast.json", lambda row: row["groups"][0].update(rank=9), "its values have changed"),
    "pairs to train on": ("data/python/pool.jsonl", lambda rows: rows.pop(), "its pairs have changed"),
    "held-out pairs": ("data/python/test.jsonl", lambda rows: rows[0].update(third="low"), "its pairs have changed"),
}  # fmt: skip


@pytest.fixture
def copied(study, tmp_path):
    """A copy of the study that may be spoilt."""
    for part in ("studies", "runs"):
        shutil.copytree(study.root / part / "toy", tmp_path / part / "toy", symlinks=True)
    return tmp_path / "studies/toy"


@pytest.mark.parametrize("what", BY_HAND)
def test_a_value_that_was_changed_by_hand_is_refused(copied, what):
    name, change, message = BY_HAND[what]
    (edit_json if name.endswith(".json") else edit_rows)(copied / name, change)
    with pytest.raises(InputError, match=message) as error:
        compare_arms(copied)
    assert str(copied / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["arms"][1].update(name="x"),
        lambda found: found["arms"].pop(),
        lambda found: found["arms"].append(found["arms"][0]),
        lambda found: found["arms"][1]["scores"]["bits_per_byte"].update(value=0.1),
        lambda found: found.update(tasks=7),
    ],
)
def test_a_comparison_that_was_changed_by_hand_is_not_reported(copied, change):
    edit_json(copied / "comparison.json", change)
    with pytest.raises(InputError, match=r"comparison.json: its values have changed"):
        write_report(copied)


@pytest.mark.parametrize("old, new", [("margin: 0.005", "margin: 0.5"), ("name: full-n12", "name: full")])
def test_settings_that_were_changed_by_hand_are_refused(study, copied, old, new):
    path = copied / "study.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    for read in (load_study, compare_arms, write_report):
        with pytest.raises(InputError, match=r"study.yaml: has changed since it was written"):
            read(copied)


def test_what_is_of_another_run_is_refused(copied):
    other = copied / "runs/steps-r2-n12-draw0"
    shutil.copytree(other / "evals", copied / FULL / "evals", dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"full-n12-draw0/evals/end/pairs.json is of other weights"):
        compare_arms(copied)
    for name in ("result.json", "references.jsonl"):
        shutil.copy(other / name, copied / FULL / name)
    with pytest.raises(InputError, match=r"result.json: that of 'steps-r2-n12-draw0'"):
        compare_arms(copied)


def test_a_search_that_found_another_rate_than_the_runs_had_is_refused(copied):
    write_json(copied / RATED, read_json(copied / RATED) | {"lr": 1.0}, sealed=True)
    with pytest.raises(InputError, match=r"run rank-r1-n12-draw0: trained at the rate .*, the search found 1;"):
        compare_arms(copied)


def test_the_samples_of_a_run_that_was_to_be_sampled_may_not_be_missing(copied):
    (copied / FULL / "evals/end/pairs.json").unlink()
    with pytest.raises(InputError, match=r"full-n12-draw0/evals/end/pairs.json: no such file"):
        compare_arms(copied)


def test_a_forecast_of_other_scores_of_the_base_is_refused(copied):
    path = copied / "rank-forecast.json"
    forecast = read_json(path)
    forecast["groups"][0]["references_sha256"] = "0" * 64
    write_json(path, forecast, sealed=True)
    with pytest.raises(InputError, match=r"rank-forecast.json: was made of other scores of base"):
        compare_arms(copied)


def test_runs_of_an_earlier_version_are_read_and_their_sums_are_checked(copied):
    """They have no hash of what they were scored on."""
    later = ("references_sha256", "validation_sha256", "train_sha256", "weights_sha256", "retain_fingerprint")
    for path in copied.glob("runs/*/result.json"):
        write_json(path, {k: v for k, v in read_json(path).items() if k not in later}, sealed=True)
    before = read_comparison(copied)
    compare_arms(copied)
    assert read_comparison(copied) == before
    edit_rows(copied / REFERENCES, lambda rows: rows[0].update(nats=1.01 * rows[0]["nats"]))
    with pytest.raises(InputError, match=r"references.jsonl: has changed since result.json"):
        compare_arms(copied)


def test_a_base_is_not_finished_by_scores_of_other_pairs(study, tmp_path, capsys):
    """A base has no other record than its result: other held-out pairs, another method are not in it."""
    held_out = tmp_path / "held_out.jsonl"
    shutil.copy("pairs/test.jsonl", held_out)
    flags = ["--base=base", "--train=pairs/train.jsonl", f"--validation={held_out}", f"--run={tmp_path / 'scored'}"]
    flags += ["--method=base", "--device=cpu", "--threads=1", "--max_tokens=100", "--precision=fp32"]
    finetune.main(flags)
    finetune.main(flags)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(InputError, match="method is base, now lora"):
        finetune.main([*flags, "--method=lora"])
    edit_rows(held_out, lambda rows: rows.pop())
    with pytest.raises(InputError, match=r"result.json: the held-out pairs, .*held_out.jsonl, changed since"):
        finetune.main(flags)


def published(root, question, pairs, **more):
    """Return a shipped study as published, on a small random GPT-2 and small pairs."""
    settings = yaml.safe_load((CONFIGS / "finetune" / f"{question}.yaml").read_text())
    settings |= {"base": {"model": "gpt2"}, "device": "cpu", "threads": 1}
    settings["published"] |= {"pairs": pairs, "test": 4} | more
    settings["published"]["train"] |= {"max_tokens": 128, "precision": "fp32"}
    settings["evaluate"] = COMMON["evaluate"]
    return settings


@pytest.fixture(scope="module")
def gpt2(root):
    from llama_scale.checkpoint.export import export_checkpoint

    export_checkpoint(root / "base", root / "twin")
    return write_gpt2(root / "gpt2", root / "twin")


def test_the_rank_study_as_published(root, gpt2, capsys):
    write_folder(root / "pairs-200", 200, 8)
    study = carry_out(published(root, "rank", {"python": "pairs-200"}), root, "--profile", "seed")
    with open(study.folder / "results_rank.csv") as file:
        assert file.readline().startswith("BLEU,Syntax_Pass_Rate,Configuration,")
    rows = rows_of(study.folder / "results_rank.csv")
    assert [row["Configuration"].split(" (")[0] for row in rows] == ["Rank 4", "Rank 16", "Rank 64"]
    # Two layers with c_attn of 32 x 96, and 200 samples in batches of 32 for three epochs.
    assert [int(float(row["trainable_params"])) for row in rows] == [2 * rank * (32 + 96) for rank in (4, 16, 64)]
    assert {float(row["steps"]) for row in rows} == {21.0} and {float(row["lr"]) for row in rows} == {1e-4}
    assert (study.folder / "results_rank.png").stat().st_size > 1000
    html = (study.folder / "report.html").read_text()
    assert "21 optimizer steps" in html and "As published" in html


@pytest.mark.slow
@pytest.mark.parametrize("question", ["scale", "lang", "method"])
def test_the_other_studies_as_published(root, gpt2, question):
    languages = {
        "python": None,
        "java": "int f(int x) { return x + 1; }\n",
        "javascript": "function f(x) { return x; }\n",
    }
    names = list(languages) if question == "lang" else ["python"]
    pairs = {}
    for name in names:
        fields = {"language": name} | ({"completion": languages[name]} if languages[name] else {})
        pairs[name] = write_folder(root / f"{question}-{name}", 300, 8, **fields)
    settings = published(root, question, pairs)
    for arm in settings["published"]["arms"]:
        arm["examples"] = [min(300, n) for n in arm["examples"]]
    study = carry_out(settings, root, "--profile", "seed")
    rows = rows_of(study.folder / f"results_{question}.csv")
    expected = {
        "scale": ["Size 50", "Size 150", "Size 300"],
        "lang": ["Python", "Java", "JavaScript"],
        "method": ["Full", "LoRA"],
    }
    assert [row["Configuration"].split(" (")[0] for row in rows] == expected[question]
    if question == "scale":
        assert [float(row["steps"]) for row in rows] == [6, 15, 30]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": []}, "arms"),
        ({"arms": [{"name": "a", "ranks": []}]}, "ranks: the list is empty"),
        ({"arms": [{"name": "a", "draws": [0, 0]}]}, "draws: 0 is listed twice"),
        ({"arms": [{"name": "a", "languages": ["java"]}]}, "there are no pairs in java"),
        ({"arms": [{"name": "a", "train": {"seed": 1}}]}, "a.train.seed: the study sets it"),
        ({"arms": [{"name": "a", "rate": -1}]}, "a.rate"),
        ({"arms": [{"name": "a", "ranks": [0]}]}, "rank"),
        ({"rates": {"factor": 1}}, "rates.factor"),
        ({"base": {}}, "base: neither a model nor"),
        ({"profile": "seed"}, "profile: seed asked for"),
        ({"suites": ["nothing"]}, None),
    ],
)
def test_bad_settings_are_one_line(root, change, message):
    settings = COMMON | {"name": "bad", "question": "rank", "pairs": {"python": "pairs"}, "arms": [{"name": "a"}]}
    (root / "bad.yaml").write_text(yaml.safe_dump(settings | change))
    if message is None:
        from launch.study import check_evaluation

        with pytest.raises(InputError, match="no suite 'nothing'"):
            check_evaluation(read_study(root, ["bad.yaml"]))
        return
    with pytest.raises(InputError, match=message) as error:
        read_study(root, ["bad.yaml"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["quick", "rank", "scale", "lang", "method"])
def test_shipped_studies_can_be_planned(tmp_path, name):
    assert is_tuning_study([name], tmp_path)
    assert not is_tuning_study(["quickstart"], tmp_path)
    study = read_study(tmp_path, [name])
    assert study.tasks[-1].name in ("report", "track")
    if name != "quick":
        seed = read_study(tmp_path, [name, "--profile", "seed"])
        assert seed.config.name == f"{name}-seed" and seed.settings["flaws"]
        assert seed.folder != study.folder
