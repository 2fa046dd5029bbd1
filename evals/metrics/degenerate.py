"""Completions that say nothing: flags to show beside every rate, since each of them parses and most of them load."""

import ast
import textwrap
from collections.abc import Sequence
from itertools import pairwise

from evals.metrics.bleu import ngrams
from evals.metrics.language_tokens import language_tokens

EMPTY, ONLY_PASS, RETURNS_NONE, COMMENT_ONLY, COPIES_PROMPT = (
    "empty", "only pass", "returns None", "comment only", "copies prompt"
)  # fmt: skip
COPIED = 0.8  # share of the completion's runs of four words that stand in the prompt
NOTHING = {
    "java": {"return null ;": RETURNS_NONE, "return ;": ONLY_PASS, "": EMPTY},
    "javascript": {
        "return null ;": RETURNS_NONE, "return null": RETURNS_NONE, "return undefined ;": RETURNS_NONE,
        "return ;": ONLY_PASS, "return": ONLY_PASS, "": EMPTY,
    },
}  # fmt: skip


def degenerate(completion: str, prompt: str, language: str = "python") -> str | None:
    """Return what kind of nothing a completion is, None if it is none.

    ``completion`` continues ``prompt`` (a function's body), or is a whole function.
    """
    if not completion.strip():
        return EMPTY
    kind = _python_kind(completion) if language == "python" else _braces_kind(completion, language)
    return kind or (COPIES_PROMPT if copied_share(completion, prompt) >= COPIED else None)


def copied_share(completion: str, prompt: str) -> float:
    """Return the share of a completion's runs of four words that stand in its prompt; 0 under eight words."""
    runs, known = ngrams(completion.split(), 4), ngrams(prompt.split(), 4)
    return sum(n for run, n in runs.items() if run in known) / runs.total() if runs.total() > 4 else 0.0


def _python_kind(completion: str) -> str | None:
    try:
        body = ast.parse(textwrap.dedent(completion)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        try:
            body = ast.parse(f"def f():\n{textwrap.indent(textwrap.dedent(completion), ' ')}").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            lines = [line.strip() for line in completion.splitlines() if line.strip()]
            return COMMENT_ONLY if all(line.startswith("#") for line in lines) else None
    if len(body) == 1 and isinstance(body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        body = body[0].body
    words = [n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    rest = [n for n in body if n not in words]
    if not rest:
        return ONLY_PASS if any(n.value.value is ... for n in words) else COMMENT_ONLY
    if all(isinstance(n, ast.Pass) for n in rest):
        return ONLY_PASS
    if len(rest) == 1 and isinstance(rest[0], ast.Return):
        value = rest[0].value
        if value is None or (isinstance(value, ast.Constant) and value.value is None):
            return RETURNS_NONE
    return None


def _braces_kind(completion: str, language: str) -> str | None:
    tokens = language_tokens(completion, language)
    if not tokens:
        return COMMENT_ONLY
    return NOTHING[language].get(" ".join(token for token in tokens if token not in ("{", "}")))


def repetition(completion: str) -> float:
    """Return 1 - the share of distinct runs of four words or signs: 0 without repetition, near 1 in a loop."""
    runs = ngrams(completion.split(), 4)
    return 1 - len(runs) / runs.total() if runs else 0.0


def trivial_baselines(references: Sequence[str]) -> dict[str, list[str]]:
    """Return completions that need no model, for each task: nothing, the first reference, the next task's.

    A rate that does not exceed theirs shows nothing. ``references`` are at least two.
    """
    others = [after for _, after in pairwise([*references, references[0]])]
    return {
        "empty": [""] * len(references),
        "first reference": [references[0]] * len(references),
        "reference of another task": others,
    }
