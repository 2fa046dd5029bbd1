"""The page of a fine-tuning study: tables, figures and words of a comparison that is known."""

from dataclasses import replace

import pytest

from llama_scale.scaling.report.finetune.figures import tuning_figures
from llama_scale.scaling.report.finetune.page import answer, tiles, verdict
from llama_scale.scaling.report.finetune.tables import tuning_tables
from llama_scale.scaling.study.finetune.claims import claims
from llama_scale.scaling.study.finetune.comparison import (
    ArmResult,
    Comparison,
    Contrast,
    Estimate,
    Family,
    Ordering,
    RankForecast,
    SizeCurve,
    Stratum,
    TriedRate,
    read_comparison,
)

BITS = "bits_per_byte"


def arm(name, value, method="lora", rank=16, examples=300, budget="30 steps", **fields):
    scores = {BITS: Estimate(value, value - 0.1, value + 0.1, 5, 500), "parses": Estimate(0.4, 0.3, 0.5, 2, 200)}
    what = {
        "name": name, "grid": name.split("-")[0], "method": method, "rank": rank, "examples": examples,
        "language": "python", "budget": budget, "lr": 1e-3, "runs": 5, "steps": 30, "trainable_params": 1000,
        "n_params": 10_000, "seconds": 2.0, "peak_memory": 4e8, "weights_bytes": 4000, "forgotten": 0.01,
        "scores": scores,
    }  # fmt: skip
    return ArmResult(**what | fields)


def contrast(control, arm, mean, half=0.01, endpoint=BITS, holm=None):
    p = 0.001 if abs(mean) > half else 0.5
    return Contrast(control, arm, endpoint, mean, mean - half, mean + half, p, holm or p, half * 1.4, True)


@pytest.fixture
def found():
    """Sizes 50 and 300 at both budgets, ranks 4 and 16, full: all below a base of 2 bits per byte."""
    arms = [
        arm("base", 2.0, "base", None, None, "none", runs=1, lr=None, forgotten=0.0),
        arm("steps-n50", 1.8, examples=50), arm("steps-n300", 1.7),
        arm("epochs-n50", 1.95, examples=50, budget="3 epochs"), arm("epochs-n300", 1.65, budget="3 epochs"),
        arm("rank-r4", 1.702, rank=4), arm("full-n300", 1.69, "full", None, trainable_params=10_000),
    ]  # fmt: skip
    base = [contrast("base", a.name, a.scores[BITS].value - 2.0) for a in arms[1:]]
    base += [contrast("base", a.name, 0.0, 0.05, "parses") for a in arms[1:]]
    families = [
        Family("base", "Against the base", base, {"epochs-n300": 1.0}),
        Family("size-steps", "Pairs", [contrast("steps-n50", "steps-n300", -0.1),
                                       contrast("steps-n50", "steps-n300", -0.2, 0.05, "parses")], {"steps-n300": 1.0}),
        Family("size-epochs", "Pairs, epochs", [contrast("epochs-n50", "epochs-n300", -0.3)], {"epochs-n300": 1.0}),
        Family("rank-lora", "Rank", [contrast("rank-r4", "steps-n300", -0.002)], {"rank-r4": 0.5, "steps-n300": 0.5}),
        Family("method-full", "Method", [contrast("full-n300", "steps-n300", 0.01)], {"full-n300": 1.0}),
        Family("budget", "Budgets", [contrast("steps-n300", "epochs-n300", -0.05)], {"epochs-n300": 1.0}),
    ]  # fmt: skip
    rank = RankForecast(["rank-r4", "steps-n300"], [4, 16], 300, 54e3, 60, 1, "2026-11-28T04:00:00+00:00", 4, [4, 16],
                        4, 0.002, -0.001, 0.004, True)  # fmt: skip
    one = Comparison("toy", "quick", "default", "runs/base", 500, arms, families, [rank], [], [], {"empty": 0.0})
    return replace(one, claims=claims(one))


def test_claims_follow_from_the_contrasts(found):
    words = ("Rank 4", "trap", "50, 150")
    decided = {word: claim.verdict for word in words for claim in found.claims if word in claim.claim}
    # Data alone makes a third of what data and steps make together. Rank 4 is .002 [-.008, .012] behind rank 16, which
    # the margin of .005 does not decide.
    assert decided == {"Rank 4": "undecided", "trap": "supported", "50, 150": "contradicted"}
    text = next(claim.text for claim in found.claims if "50, 150" in claim.claim)
    assert text.count("Data alone makes 33% of the difference") == 1


@pytest.mark.parametrize(("of_steps", "verdict"), [(-0.1, "contradicted"), (-0.2, "undecided"), (-0.28, "supported")])
def test_the_sizes_of_the_claim_decide_it_and_the_largest_is_told_beside_them(found, of_steps, verdict):
    extra = [arm("steps-n1000", 1.69, examples=1000), arm("epochs-n1000", 1.4, examples=1000, budget="3 epochs")]
    families = [f for f in found.families if not f.key.startswith("size")]
    for budget, mean, largest in (("steps", of_steps, -0.1), ("epochs", -0.3, -1.0)):
        contrasts = [contrast(f"{budget}-n50", f"{budget}-n{n}", m) for n, m in ((300, mean), (1000, largest))]
        families.append(Family(f"size-{budget}", "Pairs", contrasts, {}))
    claim = next(c for c in claims(replace(found, arms=found.arms + extra, families=families)) if "50, 150" in c.claim)
    assert claim.verdict == verdict
    assert f"makes {of_steps / -0.3:.0%} of" in claim.text and "makes 10% of" in claim.text


def test_a_claim_is_undecided_where_the_interval_says_nothing(found):
    families = [replace(f, contrasts=[c for c in f.contrasts if c.endpoint != "parses"]) for f in found.families]
    trap = next(c for c in claims(replace(found, families=families)) if "trap" in c.claim)
    assert trap.verdict == "undecided"
    same = replace(found.ranks[0], right=None)
    assert next(c for c in claims(replace(found, ranks=[same])) if "Rank 4" in c.claim).verdict == "undecided"


def with_rank(found, mean, half, bits, best=("rank-r4", "steps-n300")):
    """Return the claims on rank where 16 less 4 has this mean and half width, and the data so many bits."""
    one = Family("rank-lora", "Rank", [contrast("rank-r4", "steps-n300", mean, half)], dict.fromkeys(best, 0.5))
    families = [one if f.key == "rank-lora" else f for f in found.families]
    changed = replace(found, families=families, ranks=[replace(found.ranks[0], bits=bits)])
    return {key: next(c for c in claims(changed) if key in c.claim) for key in ("underfits", "saturation")}


@pytest.mark.parametrize(
    ("mean", "half", "bits", "verdict", "words"),
    [
        (-0.001, 0.003, 54e3, "contradicted", "would be found"),  # no more than the margin behind
        (-0.03, 0.01, 400, "contradicted", "not for want of parameters"),  # rank 4 stores 480 bits
        (-0.03, 0.01, 54e3, "supported", "Measured: steps-n300 less rank-r4: -0.0300"),
        (-0.03, 0.01, 1500, "undecided", "which can store 1.92k bits, is behind full fine-tuning by 0.0200"),
    ],
)
def test_whether_a_rank_is_too_small(found, mean, half, bits, verdict, words):
    full = Family("method-full", "Method", [contrast("full-n300", "steps-n300", 0.02)], {"full-n300": 1.0})
    found = replace(found, families=[full if f.key == "method-full" else f for f in found.families])
    claim = with_rank(found, mean, half, bits)["underfits"]
    assert claim.verdict == verdict and words in claim.text


@pytest.mark.parametrize(
    ("mean", "best", "verdict"),
    [
        (-0.002, ("rank-r4", "steps-n300"), "undecided"),  # none differs
        (-0.03, ("rank-r4", "steps-n300"), "undecided"),  # one does, and 16 is among the best
        (-0.03, ("steps-n300",), "supported"),
        (0.03, ("rank-r4",), "contradicted"),
    ],
)
def test_whether_rank_16_is_best(found, mean, best, verdict):
    assert with_rank(found, mean, 0.01, 54e3, best)["saturation"].verdict == verdict


def test_equal_runs_alone_do_not_show_that_full_is_like_lora(found):
    claim = next(c for c in found.claims if "about as good" in c.claim)
    assert claim.verdict == "supported"  # .01 and at most .02 behind a gain of .31
    far = Family("method-full", "Method", [contrast("full-n300", "steps-n300", 0.2)], {})
    families = [far if f.key == "method-full" else f for f in found.families]
    assert (
        next(c for c in claims(replace(found, families=families)) if "about as good" in c.claim).verdict
        == "contradicted"
    )


def test_every_table_of_contrasts_says_what_it_could_have_found(found):
    tables = {table.key: table for table in tuning_tables(found)}
    for family in found.families:
        column = tables[family.key].head.index("would be found")
        assert all(row[column] for row in tables[family.key].body)
    assert "Not to be told from the best in bits per byte: rank-r4, steps-n300" in tables["rank-lora"].caption
    assert tables["ranks"].body[0][3] == "1" and tables["ranks"].body[0][-1].startswith("right")


def test_what_more_pairs_buy_and_which_rates_were_tried(found):
    curve = SizeCurve(
        "size-steps", ["steps-n50", "steps-n300"], [50, 300], [1.8, 1.7], 1.6, 1.5, 0.5, 0.2, None, [], 300
    )
    rates = [TriedRate("steps-n300", 1e-3, 1.71, 1.5e-3), TriedRate("steps-n300", 3e-3, None, 1.5e-3)]
    strata = [Stratum("third", t, "steps-n300", 9, m, m - 0.1, m + 0.1, 0.2) for t, m in (("low", -0.3), ("high", 0.0))]
    order = [Ordering("bleu", 0.2, -0.4, 0.7, 7, 100), Ordering(BITS, 0.9, 0.5, 1.0, 7, 100)]
    more = replace(found, sizes=[curve], rates=rates, strata=strata, orderings=order)
    tables = {table.key: table for table in tuning_tables(more)}
    assert tables["sizes"].body == [
        ["30 steps, rank 16, python", "50, 300", "1.800, 1.700", "1.600", "0.50 [0.20, –]", "none", "300"]
    ]
    assert tables["rates"].body == [["steps-n300", "0.0015", "0.001: 1.710; 0.003: diverged"]]
    assert tables["third"].head == ["arm", "low (9)", "high (9)"]
    assert tables["third"].body[0][1] == "-0.300 [-0.400, -0.200]" and "below 0.20 may" in tables["third"].caption
    assert [row[1] for row in tables["orderings"].body] == ["0.90 [0.50, 1.0]", "0.20 [-0.40, 0.70]"]
    by_claim = {claim.claim.split(":")[0]: claim for claim in claims(more)}
    law = by_claim["Scaling laws do not hold for code"]
    assert law.verdict == "contradicted" and "30 steps of 50, 300 pairs: 0.50 [0.20, –]" in law.text
    assert "From 300 pairs on every set parses more often" in by_claim["Complexity trap"].text
    unbounded = claims(replace(more, sizes=[replace(curve, beta_low=None)]))
    assert next(c for c in unbounded if "Scaling laws" in c.claim).verdict == "undecided"


def test_languages_are_in_a_table_by_what_they_gain(found):
    one = Family("language-lang", "Languages", [contrast("lang-java", "lang-python", 0.02, endpoint="gain")], {})
    tables = tuning_tables(replace(found, families=[*found.families, one]))
    table = next(table for table in tables if table.key == "language-lang")
    assert table.body[0][2:4] == ["bits per byte gained over the base", "0.0200 [0.0100, 0.0300]"]


def test_figures_show_differences_to_the_base(found):
    figures, left_out = tuning_figures(found)
    by_key = {figure.key: figure for figure in figures}
    assert set(by_key) == {"size", "rank", "method", "forgetting"}
    points = {s.name: s for s in by_key["size"].panels[0].series if s.kind == "points"}
    assert points["rank 16, 30 steps"].y.tolist() == pytest.approx([-0.2, -0.3])
    assert points["rank 16, 3 epochs"].y.tolist() == pytest.approx([-0.05, -0.35])
    assert any("one language" in text for text in left_out)


def test_the_first_lines(found):
    sentences = answer(found)
    assert "31 runs of 7 arms" in sentences[0] and "cannot decide" in sentences[0]
    assert tiles(found)[1][1:] == ("1.650", "epochs-n300")


def test_what_is_written_is_read(found, tmp_path):
    found.write(tmp_path)
    again = read_comparison(tmp_path)
    assert again.arms[1].scores[BITS].low == pytest.approx(found.arms[1].scores[BITS].low)
    again.write(tmp_path)
    assert read_comparison(tmp_path) == again


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"reason": "not measured"}, "not measured"),
        ({"reason": "no tests", "parses": True, "loads": False, "passed": False, "finish_reason": "stop"},
         "parses, ended by itself"),
        ({"reason": "wrong", "parses": True, "loads": True, "passed": False, "finish_reason": "length",
          "degenerate": "only pass"}, "parses, loads, cut at the limit, fails: wrong, only pass"),
    ],
)  # fmt: skip
def test_verdicts_in_words(row, words):
    assert verdict(row) == words
