"""Which arms are compared with which, and by what numbers."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from llama_scale.errors import InputError
from llama_scale.scaling.study.finetune.collect import RunScores, TuningStudy, check_numbers, load_rates, read_settings
from llama_scale.scaling.study.finetune.compare import (
    by_kind,
    contrast,
    estimate,
    family,
    find_best,
    orderings,
    pairings,
    same_draws,
    size_curves,
)
from llama_scale.scaling.study.finetune.plan import plan_arms, read_study
from llama_scale.scaling.study.finetune.scores import END, GAIN, PRIMARY, SAMPLED, Scores, arm_scores
from llama_scale.scaling.study.finetune.split import SplitConfig, split_pairs
from tests.llama_scale.helpers import write_pairs
from tests.llama_scale.scaling.study.finetune.conftest import COMMON

PARSES = next(e for e in SAMPLED if e.key == "parses")
TASKS = [f"task-{i}" for i in range(200)]


def arms_of(tmp_path, *grids, languages=("python",)):
    settings = COMMON | {"name": "toy", "question": "rank", "pairs": dict.fromkeys(languages, "pairs"), "arms": grids}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(settings | {"arms": list(grids)}))
    return plan_arms(read_study(tmp_path, [str(tmp_path / "toy.yaml")]).config, None)


def found(arms):
    return {key: pairs for key, _, pairs in pairings(arms) if pairs and key not in ("base", "few_shot")}


def test_what_differs_in_one_setting_alone_is_compared_with_the_first(tmp_path):
    same = {"examples": [300], "steps": 9}
    arms = arms_of(
        tmp_path,
        {"name": "random", **same},
        {"name": "simple", **same, "train": {"order": "simple_first"}},
        {"name": "complex", **same, "train": {"order": "complex_first"}},
    )
    name = "setting-random-r16-n300"
    assert found(arms) == {name: [("random-r16-n300", "simple-r16-n300"), ("random-r16-n300", "complex-r16-n300")]}


@pytest.mark.parametrize("short", [0, 1])
def test_runs_of_an_arm_are_scored_on_the_same_pairs(tmp_path, short):
    """The file of a run that lost its end must not make the others be compared on what is left of it."""
    (arm,) = [arm for arm in arms_of(tmp_path, {"name": "a", "ranks": [4], "steps": 9}) if arm.trained]
    whole = {"x": (1.0, 0.1, 3), "y": (2.0, 0.1, 3)}
    runs = [RunScores(f"a-draw{i}", i, {}, {}, {"x": whole["x"]} if i == short else whole, {}) for i in range(2)]
    study = TuningStudy(tmp_path, {}, [arm], {arm.name: runs}, [])
    with pytest.raises(InputError, match="of y is there in some runs only; delete the folder of the run"):
        arm_scores(study, arm, PRIMARY)
    study = TuningStudy(tmp_path, {}, [arm], {arm.name: [RunScores("a", 0, {}, {}, {}, {})]}, [])
    with pytest.raises(InputError, match="of any pair is there"):
        arm_scores(study, arm, PRIMARY)


@pytest.mark.parametrize(
    "change", [{"suites": 3}, {"arms": []}, {"arms": [3]}, {"arms": [{"name": "a"}]}, {"flaws": None}, {"kind": "x"}]
)
def test_settings_of_a_study_that_are_not_whole_are_named(tmp_path, change):
    arms = [asdict(arm) for arm in arms_of(tmp_path, {"name": "a", "ranks": [4], "steps": 9})]
    whole = {"kind": "finetune", "name": "toy", "question": "rank", "arms": arms, "suites": [], "pairs": {},
             "margin": 0.1, "flaws": []}  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole))
    assert read_settings(tmp_path)["arms"] == arms
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole | change))
    with pytest.raises(InputError, match=r"study.yaml: .*(run the study again|give the folder of one)"):
        read_settings(tmp_path)


@pytest.mark.parametrize("value", ["x", [1], {"x": 1}, True])
def test_a_field_of_a_result_that_is_no_number_is_named(value):
    check_numbers("result.json: ", {"steps": 3, "lr": 1e-3, "seconds": None}, ("steps", "lr", "seconds", "absent"))
    with pytest.raises(InputError, match=r"result.json: lr is .*, expected a number; run the study again"):
        check_numbers("result.json: ", {"steps": 3, "lr": value}, ("steps", "lr"))


def test_ranks_of_other_settings_are_not_compared(tmp_path):
    arms = arms_of(
        tmp_path,
        {"name": "a", "ranks": [4], "steps": 9},
        {"name": "b", "ranks": [16], "steps": 9, "train": {"lora.alpha": 3}},
        {"name": "c", "ranks": [64], "steps": 9, "rate": 0.1},
    )
    assert found(arms) == {"rank-lora-r4-9-steps-python": [("a-r4", "c-r64")]}


def test_languages_are_compared_by_what_they_gain(tmp_path):
    arms = arms_of(tmp_path, {"name": "lang", "languages": ["python", "java"]}, languages=("python", "java"))
    names = ["base-python", "base-java", "2-shot-python", "2-shot-java", "lang-r16-python", "lang-r16-java"]
    assert [arm.name for arm in arms] == names
    key = "language-lang"
    assert found(arms)[key] == [("lang-r16-java", "lang-r16-python")]
    gain = Scores(np.full((2, 200), 0.1), [0, 1], TASKS)
    table = {("lang-r16-python", GAIN.key): gain, ("lang-r16-java", GAIN.key): gain}
    one = family(key, "", found(arms)[key], table, {"base-python", "base-java"})
    assert [c.endpoint for c in one.contrasts] == [GAIN.key] and one.best == {}
    other = Scores(gain.values, [0, 1], [f"other-{i}" for i in range(200)])
    assert family(key, "", found(arms)[key], table | {("lang-r16-java", GAIN.key): other}, set()).contrasts == []


def test_contrasts_are_of_the_draws_that_both_have():
    """Runs 1 and 2 of both: the arm is .2 lower there, whatever run 0 of the control is."""
    rng = np.random.default_rng(0)
    tasks = rng.normal(size=200)
    control = Scores(np.stack([tasks + shift for shift in (9.0, 0.0, 0.5)]), [0, 1, 2], TASKS)
    arm = Scores(np.stack([tasks + shift for shift in (-0.2, 0.3)]), [1, 2], TASKS)
    table = {("c", PRIMARY.key): control, ("a", PRIMARY.key): arm}
    one = contrast(PRIMARY, "c", "a", table)
    assert one.mean == pytest.approx(-0.2) and one.paired_runs
    assert one.low == pytest.approx(-0.2) and one.high == pytest.approx(-0.2)


def test_the_best_is_found_among_runs_of_the_same_draws():
    """Draws lie a whole bit apart; of each, b is .05 below a on average, and the base is the same in all."""
    rng = np.random.default_rng(2)
    tasks, draws = rng.normal(size=200), np.array([[0.0], [1.0], [-1.0], [0.5]])
    scores = {
        "base": Scores(tasks[None] + 0.3, [0], TASKS),
        "a": Scores(tasks + draws, [0, 1, 2, 3], TASKS),
        "b": Scores((tasks + draws - 0.05 + 0.01 * rng.normal(size=(4, 200)))[::-1], [3, 2, 1, 0], TASKS),
    }
    rows, paired = same_draws(scores)
    assert paired and rows["base"].shape == (4, 200)
    np.testing.assert_allclose((rows["b"] - rows["a"]).mean(1), -0.05, atol=0.005)
    assert list(find_best(["a", "b"], {(name, PRIMARY.key): one for name, one in scores.items()})) == ["b"]
    other = scores | {"b": Scores(scores["b"].values, [7, 8, 9, 10], TASKS)}
    assert not same_draws(other)[1]


def test_a_share_of_none_has_the_exact_interval():
    none = estimate(Scores(np.zeros((1, 150)), [0], TASKS[:150]), share=True)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 150)))
    several = estimate(Scores(np.zeros((3, 150)), [0, 1, 2], TASKS[:150]), share=True)
    assert several.high == pytest.approx(none.high) and several.value == 0


def test_shares_have_mcnemars_counts_of_the_first_runs():
    control, arm = np.zeros((1, 200)), np.zeros((1, 200))
    control[0, :5], arm[0, 3:20] = 1, 1  # 3 lost, 15 gained
    table = {(name, PARSES.key): Scores(v, [0], TASKS) for name, v in (("c", control), ("a", arm))}
    one = contrast(PARSES, "c", "a", table)
    assert (one.gained, one.lost) == (15, 3)
    assert one.mcnemar == pytest.approx(2 * sum([1, 18, 153, 816]) / 2**18)  # binomial coefficients of 18
    assert one.mean == pytest.approx(12 / 200)


def test_without_any_difference_nothing_is_detectable():
    same = Scores(np.zeros((1, 200)), [0], TASKS)
    one = contrast(PARSES, "c", "a", {("c", PARSES.key): same, ("a", PARSES.key): same})
    assert one.detectable is None and one.p == 1.0


def test_holm_is_over_the_contrasts_of_an_endpoint():
    rng = np.random.default_rng(1)
    base = Scores(rng.normal(size=(1, 200)), [0], TASKS)
    table = {("base", e.key): base for e in (PRIMARY, END)}
    for name, shift in (("a", 0.5), ("b", 0.0)):
        table |= {(name, e.key): Scores(base.values + shift + rng.normal(size=(3, 200)), [0, 1, 2], TASKS)
                  for e in (PRIMARY, END)}  # fmt: skip
    one = family("base", "", [("base", "a"), ("base", "b")], table, {"base"})
    for endpoint in (PRIMARY, END):
        first, second = sorted(one.of(endpoint.key), key=lambda c: c.p)
        assert first.holm == pytest.approx(min(1, 2 * first.p))
        assert second.holm == pytest.approx(max(first.holm, second.p))


def test_gains_are_told_by_the_complexity_of_the_held_out_pairs(tmp_path):
    """The arm gains .3 bits on simple functions, nothing on others; the first eight are of no third."""
    arms = arms_of(tmp_path, {"name": "a", "train": {"only": {"third": ["low"]}}})
    arms = [arm for arm in arms if arm.method != "few_shot"]
    third = {task: ("low", "middle", "high")[i % 3] for i, task in enumerate(TASKS) if i > 7}
    file = tmp_path / "data" / "python" / "test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps({"id": task, "third": third.get(task)}) + "\n" for task in TASKS))
    base = np.random.default_rng(0).normal(size=(1, 200))
    gain = np.array([0.3 * (third.get(task) == "low") for task in TASKS])
    table = {
        ("base", PRIMARY.key): Scores(base, [0], TASKS),
        ("a-r16", PRIMARY.key): Scores(np.repeat(base - gain, 5, 0), [0, 1, 2, 3, 4], TASKS),
    }
    found = by_kind(TuningStudy(tmp_path, {}, arms, {}, []), table)
    assert [(row.value, row.tasks) for row in found] == [("low", 64), ("middle", 64), ("high", 64)]
    assert [row.mean for row in found] == pytest.approx([-0.3, 0, 0])


def test_a_curve_of_each_budget_but_not_of_all_pairs(tmp_path):
    """Sizes 50 and 300 at equal steps; what takes all pairs has no number to draw a curve against."""
    arms = {arm.name: arm for arm in arms_of(tmp_path, {"name": "a", "examples": [50, 300, None], "steps": 9})}
    names = ["a-r16-n50", "a-r16-n300", "a-r16"]
    table = {(name, PRIMARY.key): Scores(np.full((2, 200), i), [0, 1], TASKS) for i, name in enumerate(names)}
    (key, pairs), *_ = [(key, pairs) for key, pairs in found(list(arms.values())).items() if key.startswith("size")]
    assert pairs == [(names[0], names[1]), (names[0], names[2])]
    (curve,) = size_curves([family(key, "", pairs, table, set())], arms, table)
    assert (curve.sizes, curve.loss, curve.beta, curve.worse) == ([50, 300], [0, 1], None, None)


def test_measures_order_arms_as_passing_does_or_not(tmp_path):
    """Bits per byte fall as passing rises, BLEU follows nothing; tasks that were not sampled are left out."""
    rng = np.random.default_rng(3)
    arms = [a for a in arms_of(tmp_path, {"name": "a", "ranks": [1, 2, 4]}) if a.method != "few_shot"]
    passed, bleu = (next(e for e in SAMPLED if e.key == key) for key in ("passed", "bleu"))
    table = {}
    for i, arm in enumerate(arms):
        table[arm.name, passed.key] = Scores(np.repeat([np.arange(200) < 20 + 40 * i], 2, 0), [0, 1], TASKS)
        bits = 2.0 - 0.2 * i + 0.01 * rng.normal(size=(5, 210))
        table[arm.name, PRIMARY.key] = Scores(bits, [0, 1, 2, 3, 4], [f"only-{j}" for j in range(10)] + TASKS)
        table[arm.name, bleu.key] = Scores(np.full((1, 200), (i * 2) % 4), [0], TASKS)
    by_measure = {one.measure: one for one in orderings(arms, table)}
    assert set(by_measure) == {PRIMARY.key, bleu.key}
    bits = by_measure[PRIMARY.key]
    assert (bits.tau, bits.arms, bits.tasks) == (1.0, 4, 200) and bits.low > 0.9
    assert by_measure[bleu.key].low < 0 < by_measure[bleu.key].high


def test_split_takes_the_same_tasks_of_all_languages(tmp_path):
    for language, first in (("python", 0), ("java", 3)):
        folder = tmp_path / language
        folder.mkdir()
        write_pairs(folder / "train.jsonl", 5, first=500, language=language)
        write_pairs(folder / "test.jsonl", 12, first=first, language=language)
    folders = {name: str(tmp_path / name) for name in ("python", "java")}
    split_pairs(SplitConfig(folders, str(tmp_path / "out"), tune=3, test=6))
    both = [(tmp_path / "out" / name / "test.jsonl").read_text().count("\n") for name in folders]
    ids = [[line.split('"')[3] for line in (tmp_path / "out" / name / "test.jsonl").open()] for name in folders]
    assert both == [6, 6] and ids[0] == ids[1]
    assert set(ids[0]) <= {f"pair-{i}" for i in range(3, 12)}


def test_an_arm_of_one_kind_of_pairs_needs_enough_of_it(tmp_path):
    """Twelve pairs of the low third and none of another: what an arm lacks is told before anything is trained."""
    write_pairs(tmp_path / "train.jsonl", 12, first=500, third="low")
    write_pairs(tmp_path / "test.jsonl", 4)
    arms = arms_of(tmp_path, *({"name": t, "examples": [9], "train": {"only.third": [t]}} for t in ("low", "high")))
    assert [arm.settings.get("only") for arm in arms if arm.trained] == [{"third": ["low"]}, {"third": ["high"]}]
    low, high = ({"only": arm.settings["only"], "examples": 9} for arm in arms if arm.trained)
    config = SplitConfig({"python": str(tmp_path)}, str(tmp_path / "out"), tune=1, test=2, subsets=[low])
    assert split_pairs(config)
    with pytest.raises(
        InputError, match=r'0 of 12 pairs to train on are of only: {"third": \["high"\]}; an arm trains on 9'
    ):
        split_pairs(replace(config, subsets=[low, high]))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"lr": None, "tried": []}, "a rate without lr"),
        ({"lr": 1e-3, "tried": [{"bits_per_byte": 1.0}]}, "a rate without lr"),
        ({"lr": "x", "tried": []}, "lr is 'x', expected a number"),
        ({"lr": 1e-3, "tried": [3]}, "tried is no list of rates"),
    ],
)
def test_rates_of_a_search_that_are_not_whole_are_named(tmp_path, found, message):
    (arm,) = [arm for arm in arms_of(tmp_path, {"name": "a", "ranks": [4], "steps": 9}) if arm.trained]
    (tmp_path / "rates").mkdir()
    (tmp_path / "rates" / f"{arm.name}.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=message):
        load_rates(tmp_path, arm)
