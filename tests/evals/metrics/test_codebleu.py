import logging

import pytest

from evals.metrics.codebleu import codebleu
from tests.evals.metrics.programs import JAVA, JAVASCRIPT, OTHERS, REFERENCE

pytest.importorskip("tree_sitter_python", reason="tree-sitter and its grammars are not installed")
ALL = [("python", REFERENCE, text) for text in OTHERS.values()] + [
    ("java", JAVA, JAVA.replace("t > 10", "t < 3")),
    ("java", JAVA, "int add(int a, int b) { return a; }"),
    ("javascript", JAVASCRIPT, JAVASCRIPT.replace("+=", "-=")),
    ("javascript", JAVASCRIPT, "function add(a, b) { return a * b; }"),
]


def test_the_example_of_the_package():
    prediction = "def add ( a , b ) :\n return a + b"
    found = codebleu("def sum ( first , second ) :\n return second + first", prediction, original=True)
    parts = (found.score, found.ngram, found.weighted_ngram, found.syntax, found.data_flow)
    assert parts == pytest.approx((0.5537, 0.1041, 0.1109, 1.0, 1.0), abs=1e-4)


@pytest.mark.parametrize(("language", "reference", "candidate"), ALL)
def test_original_equals_the_package(language, reference, candidate, caplog):
    package = pytest.importorskip("codebleu", reason="codebleu is not installed")
    caplog.set_level(logging.ERROR)
    theirs = package.calc_codebleu([reference], [candidate], language)
    ours = codebleu(reference, candidate, language, original=True)
    assert ours.ngram == pytest.approx(theirs["ngram_match_score"], abs=1e-12)
    assert ours.weighted_ngram == pytest.approx(theirs["weighted_ngram_match_score"], abs=1e-12)
    assert ours.syntax == pytest.approx(theirs["syntax_match_score"], abs=1e-12)


def test_original_gives_a_quarter_to_nothing():
    assert codebleu("pass", "", original=True).score == pytest.approx(0.25)
    assert codebleu("pass", "").score == 0


@pytest.mark.parametrize(("language", "text"), [("python", REFERENCE), ("java", JAVA), ("javascript", JAVASCRIPT)])
def test_ends(language, text):
    same = codebleu(text, text, language)
    assert same.score == same.syntax == same.data_flow == 1
    assert codebleu(text, " \n", language).score == 0


def test_every_change_costs():
    scores = {name: codebleu(REFERENCE, text).score for name, text in OTHERS.items()}
    assert all(score < 1 for name, score in scores.items() if name != "equal")
    assert min(scores["operator"], scores["names"], scores["indentation"]) > scores["other"] > 0
    assert codebleu(REFERENCE, OTHERS["names"]).data_flow == 1  # other names, the same flow


def test_a_part_that_the_reference_lacks_is_left_out():
    found = codebleu("print('a')\n", "print('b')\n")
    assert found.data_flow is None
    assert found.score == pytest.approx((found.ngram + found.weighted_ngram + found.syntax) / 3)


def test_deep_text_is_scored():
    assert 0 <= codebleu(REFERENCE, "(" * 5000).score < 0.5
