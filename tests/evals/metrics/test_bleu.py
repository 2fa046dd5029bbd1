import random

import pytest

from evals.metrics.bleu import bleu, brevity_penalty
from evals.metrics.language_tokens import language_tokens
from llama_scale.files import read_json
from tests.conftest import ROOT
from tests.evals.metrics.programs import OTHERS, REFERENCE


def as_words(tokens):
    """Return tokens as words without white space, for tools that split at it."""
    return " ".join(f"t{token.encode().hex()}" for token in tokens)


@pytest.mark.parametrize(("ours", "theirs"), [("add_one", "add-k"), ("none", "none")])
def test_equals_sacrebleu(ours, theirs):
    metrics = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not installed")
    judge = metrics.BLEU(tokenize="none", smooth_method=theirs, force=True)
    wanted = language_tokens(REFERENCE)
    found = {name: language_tokens(text) for name, text in OTHERS.items()}
    for name, tokens in found.items():
        expected = judge.corpus_score([as_words(tokens)], [[as_words(wanted)]]).score
        assert bleu([wanted], [tokens], ours) * 100 == pytest.approx(expected, abs=1e-9), name
    all_of_them = judge.corpus_score([as_words(t) for t in found.values()], [[as_words(wanted)] * len(found)]).score
    assert bleu([wanted] * len(found), list(found.values()), ours) * 100 == pytest.approx(all_of_them, abs=1e-9)


def test_codexglue_adds_one_at_every_order():
    # Two texts of 4 and 3 tokens: matches 5, 3, 1, 0 of totals 7, 5, 3, 1, each one more; lengths 7 and 8.
    references, candidates = [list("abcde"), list("xyz")], [list("abcx"), list("xyq")]
    product = (6 / 8) * (4 / 6) * (2 / 4) * (1 / 2)
    expected = product**0.25 * brevity_penalty(7, 8)
    assert bleu(references, candidates, "codexglue") == pytest.approx(expected, abs=1e-12)


def test_codexglue_example_has_its_published_score():
    """The evaluator's own example, its tokens as numbers: BLEU 16.68, exact matches 17 of 100."""
    example = read_json(ROOT / "tests" / "fixtures" / "codexglue_example.json")
    references, predictions = ([text.split() for text in example[name]] for name in ("references", "predictions"))
    assert round(100 * bleu(references, predictions, "codexglue"), 2) == 16.68
    assert round(100 * bleu(references, predictions, "none"), 2) == 16.67  # the smoothing is told from none
    assert sum(a == b for a, b in zip(references, predictions, strict=True)) == 17


def test_ends():
    tokens = language_tokens(REFERENCE)
    assert bleu([tokens], [tokens]) == 1
    assert bleu([["a"]], [["a"]]) == 1
    assert bleu([tokens], [[]]) == bleu([tokens], [["zzz"] * 9]) == bleu([[]], [["a"]]) == 0
    random.seed(0)
    shuffled = random.sample(tokens, len(tokens))
    assert 0 < bleu([tokens], [shuffled]) < 1


def test_layout_and_operators_count():
    wanted = language_tokens(REFERENCE)
    for name in ("indentation", "operator", "names"):
        assert bleu([wanted], [language_tokens(OTHERS[name])]) < 1, name
