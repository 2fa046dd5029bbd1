"""CodeBLEU (Ren et al. 2020, arXiv 2009.10297): n-grams, keyword-weighted n-grams, subtrees and data flow.

The default differs from published implementations where these have holes. Tokens are the language's, so that
indentation and operators count; subtrees are matched as a multiset with their tokens' types; a part that the reference
does not have, as data flow in a text without variables, is left out of the mean instead of counting as matched; nothing
has 0, and a text that equals its reference 1.

``original`` follows the published code: tokens split at white space, recall without a penalty for shortness in the
weighted part, reference subtrees that occur anywhere in the candidate, a quarter for free where there is no data flow.
Its data flow is found by this project's rules (data_flow.py).
"""

import keyword
import math
from collections import Counter
from dataclasses import dataclass

from evals.metrics.bleu import ORDER, Tokens, bleu, brevity_penalty, ngrams, smoothed
from evals.metrics.data_flow import data_flow
from evals.metrics.language_tokens import language_tokens
from evals.metrics.syntax_tree import is_comment, nodes, parse

OTHER_WEIGHT = 0.2  # of a token that is no keyword; a keyword has 1
JAVA = """abstract assert boolean break byte case catch char class const continue default do double else enum extends
final finally float for goto if implements import instanceof int interface long native new package private protected
public return short static strictfp super switch synchronized this throw throws transient try void volatile while"""
JAVASCRIPT = """await break case catch class const continue debugger default delete do else enum export extends false
finally for function if implements import in instanceof interface let new null package private protected public return
super static switch this throw true try typeof var void while with yield"""
KEYWORDS = {
    "python": {*keyword.kwlist, "match", "case", "type"},
    "java": set(JAVA.split()),
    "javascript": set(JAVASCRIPT.split()),
}


@dataclass(frozen=True)
class CodeBleu:
    """The parts, from 0 to 1, None where the reference has none of it, and what they make together."""

    ngram: float
    weighted_ngram: float
    syntax: float | None
    data_flow: float | None
    score: float


def codebleu(reference: str, candidate: str, language: str = "python", original: bool = False) -> CodeBleu:
    """Return the similarity of a program to its reference. Needs tree-sitter and the language's grammar."""
    if original:
        return _original(reference.strip(), candidate.strip(), language)
    wanted, found = language_tokens(reference, language), language_tokens(candidate, language)
    if not found or not wanted:
        return CodeBleu(0.0, 0.0, 0.0, 0.0, 0.0)
    weighted = weighted_precision(wanted, found, KEYWORDS[language])
    trees, flows = subtrees(reference, language), data_flow(reference, language)
    syntax = _recall(trees, subtrees(candidate, language))
    flow = _recall(flows, data_flow(candidate, language))
    parts = [bleu([wanted], [found]), weighted, syntax, flow]
    known = [part for part in parts if part is not None]
    return CodeBleu(*parts, score=sum(known) / len(known))


def _recall(wanted: Counter, found: Counter) -> float | None:
    return (wanted & found).total() / wanted.total() if wanted else None


def subtrees(source: str, language: str) -> Counter:
    """Count the subtrees by their form: types of nodes, operators and brackets among them, and no names."""
    counts: Counter = Counter()

    def form(node) -> str:
        inner = [form(child) for child in node.children if not is_comment(child)]
        text = f"({node.type} {' '.join(inner)})" if inner else node.type
        if inner:
            counts[text] += 1
        return text

    root = parse(source, language).root_node
    if _depth(root) < 400:  # a deeper tree is no program that a person wrote
        form(root)
    return counts


def _depth(root) -> int:
    depth, level = 0, [root]
    while level:
        depth, level = depth + 1, [child for node in level for child in node.children]
    return depth


def weighted_precision(reference: Tokens, candidate: Tokens, keywords: set[str]) -> float:
    """Return BLEU whose single tokens weigh 1 if they are keywords and .2 if not."""
    order = min(ORDER, len(reference))
    shares = []
    for n in range(1, order + 1):
        counts = ngrams(candidate, n)
        matches, total = counts & ngrams(reference, n), counts
        shares.append(smoothed(_weight(matches, keywords, n), _weight(total, keywords, n), n, "add_one"))
    if not all(shares):
        return 0.0
    return brevity_penalty(len(candidate), len(reference)) * math.exp(sum(map(math.log, shares)) / order)


def _weight(counts: Counter, keywords: set[str], order: int) -> float:
    if order > 1:
        return counts.total()
    return sum(n * (1 if token in keywords else OTHER_WEIGHT) for (token,), n in counts.items())


def _original(reference: str, candidate: str, language: str) -> CodeBleu:
    wanted, found = reference.split(), candidate.split()
    parts = bleu([wanted], [found], "epsilon"), _weighted_recall(wanted, found, language)
    theirs, ours = _expressions(reference, language), set(_expressions(candidate, language))
    syntax = sum(tree in ours for tree in theirs) / len(theirs)
    flow = _recall(data_flow(reference, language), data_flow(candidate, language)) or 0.0
    return CodeBleu(*parts, syntax, flow, score=(sum(parts) + syntax + (flow or 1.0)) / 4)


def _weighted_recall(reference: Tokens, candidate: Tokens, language: str) -> float:
    words = KEYWORDS[language] | ({"True"} if language == "javascript" else set())
    shares = []
    for n in range(1, ORDER + 1):
        counts = ngrams(reference, n)
        matches = counts & ngrams(candidate, n)
        if n == 1 and not matches:
            return 0.0
        shares.append(smoothed(_weight(matches, words, n), max(1, _weight(counts, words, n)), n, "epsilon"))
    # The published code takes the length of a pair (tokens, weights) for that of the reference.
    return brevity_penalty(len(candidate), 2) * math.exp(sum(map(math.log, shares)) / ORDER)


def _expressions(source: str, language: str) -> list[str]:
    """Return the trees of the nodes that have children, as tree-sitter writes them."""
    root = parse(source, language).root_node
    return [str(node) for node in nodes(root) if node.children or node == root]
