import pytest

from evals.metrics.chrf import chrf
from tests.evals.metrics.programs import JAVA, OTHERS, REFERENCE


def test_equals_sacrebleu_with_white_space():
    metrics = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not installed")
    judge = metrics.CHRF(whitespace=True)
    for text in [*OTHERS.values(), JAVA, "ab", "", "\n"]:
        for reference in (REFERENCE, "abc"):
            expected = judge.sentence_score(text, [reference]).score
            assert chrf([reference], [text]) * 100 == pytest.approx(expected, abs=1e-9), text
    every = list(OTHERS.values())
    expected = judge.corpus_score(every, [[REFERENCE] * len(every)]).score
    assert chrf([REFERENCE] * len(every), every) * 100 == pytest.approx(expected, abs=1e-9)


def test_indentation_counts():
    assert chrf([REFERENCE], [REFERENCE]) == 1
    assert 0.9 < chrf([REFERENCE], [OTHERS["indentation"]]) < 1
    assert chrf([REFERENCE], [""]) == 0
