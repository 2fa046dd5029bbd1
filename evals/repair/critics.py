"""Critics: they turn the outcome of a program on its visible tests into words. Most need no model.

``clean`` makes a model's words fit to be read by a generator: no fences, not too long, no garbage, no echo.
"""

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from evals.repair.backends.protocol import Ask, Backend, Message
from evals.repair.outcome import Outcome
from evals.repair.split import Shown
from evals.sandbox.types import Failure
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

RUFF = ("check", "--isolated", "--select", "E9,F", "--output-format", "json", "--stdin-filename", "program.py", "-")
RUFF_SECONDS, RUFF_BYTES = 20, 1 << 20
ASKED_TO_CRITICIZE = (
    "A Python program is wrong. Say in at most three sentences what is wrong and how to correct it. Write no code."
)
LONGEST = 1_000  # characters
MOST_RAW = 20_000  # characters of a model's words that are looked at
GENERIC = "The program is wrong. Try again."
ENDS = {
    "exited": "ended itself, as by sys.exit",
    "ended early": "ended before it answered",
    "answer not plain data": "gave what is no plain value, such as an object of a class of its own",
}
FEWEST_WORDS = 2
ECHOED = 0.8  # share of a critic's runs of words that stand in its prompt
RUN = 5  # words


@dataclass(frozen=True)
class Case:
    """A program to review: all that a critic can reach. ``key`` is that of the draw.

    ``repeat_of`` is the round of its chain that had this very program.
    """

    shown: Shown
    program: str
    outcome: Outcome
    timeout: float
    key: tuple[int, ...]
    repeat_of: int | None = None


@dataclass(frozen=True)
class Review:
    """A critic's words, and what they cost.

    ``asked`` is what a model was sent, ``served`` what a server says answered.
    """

    text: str
    asked: tuple[Message, ...] = ()
    prompt_tokens: int | None = 0
    tokens: int | None = 0
    served: str = ""


class Critic(Protocol):
    """Whoever reviews programs."""

    name: str

    def review(self, cases: Sequence[Case]) -> list[Review]:
        """Return the review of each case."""
        ...


class Programmatic:
    """A critic without a model: ``words(case)``."""

    def __init__(self, name: str) -> None:
        self.name, self.words = name, WORDS[name]

    def review(self, cases: Sequence[Case]) -> list[Review]:
        """Return what is known of each outcome, in words."""
        return [Review(f"{_again(case)}{self.words(case)}" if self.name != "generic" else GENERIC) for case in cases]


def _again(case: Case) -> str:
    """Say that a chain had this program before, where it goes on from that."""
    return "" if case.repeat_of is None else f"This is your program number {case.repeat_of + 1} again.\n"


def _generic(case: Case) -> str:
    return GENERIC


def _compiler(case: Case) -> str:
    """Line, column and caret of a syntax error."""
    failure = next(iter(case.outcome.failures), None)
    if case.outcome.parses or failure is None:
        return GENERIC
    lines = case.program.splitlines()
    parts = [f"The program does not compile: {failure.claimed or 'syntax error'}"]
    if 0 < failure.line <= len(lines):
        text = lines[failure.line - 1]
        indent = len(text) - len(text.lstrip())
        caret = " " * max(0, min(failure.column - 1, len(text)) - indent) + "^"
        parts = [f"{parts[0]} (line {failure.line}, column {failure.column})", f"    {text.strip()}", f"    {caret}"]
    return "\n".join(parts)


def _line(case: Case, failure: Failure) -> str:
    lines = case.program.splitlines()
    if not 0 < failure.line <= len(lines):
        return ""
    return f"\nThe program says that this was in its line {failure.line}:\n    {lines[failure.line - 1].strip()[:200]}"


def _error(case: Case, failure: Failure) -> str:
    """An exception's type and words, with the line of the program."""
    reason, words = failure.reason, failure.claimed
    if reason == "raised NameError" and case.shown.entry and f"'{case.shown.entry}'" in words and not failure.line:
        defined = re.findall(r"^[ \t]*def (\w+)", case.program, re.MULTILINE)
        near = difflib.get_close_matches(case.shown.entry, defined, n=1, cutoff=0.3)
        hint = f"; it defines {near[0]}" if near else ""
        return f"The program does not define the function {case.shown.entry}{hint}."
    kind = reason.removeprefix("raised").strip() or "an exception"
    return f"It raised {kind}{f': {words}' if words else ''}.{_line(case, failure)}"


def _interpreter(case: Case) -> str:
    """What an interpreter would print: no value of a test."""
    outcome = case.outcome
    if not outcome.parses:
        return _compiler(case)
    if outcome.reason == "timeout":
        return f"The program did not end within {case.timeout:g} seconds of CPU time."
    failure = next((f for f in outcome.failures if f.reason.startswith("raised")), None)
    if failure:
        return _error(case, failure)
    if outcome.reason == "wrong answer" and not case.shown.entry:
        return "The program runs, but its output is not what is expected."
    if outcome.reason == "wrong answer":
        return "The program runs, but a test does not hold: AssertionError."
    return _failed(outcome.reason)


def _failed(reason: str) -> str:
    """What there is to say of a failure that is no exception and no wrong value."""
    return f"The program {ENDS[reason]}." if reason in ENDS else f"The program failed: {reason}."


def _assertion(case: Case) -> str:
    """The failing visible assertions, with both values."""
    outcome = case.outcome
    if not outcome.parses or outcome.reason == "timeout":
        return _interpreter(case)
    parts = []
    for failure in outcome.failures:
        tests = case.shown.tests
        test = tests[failure.number] if 0 <= failure.number < len(tests) else failure.test
        if failure.reason == "wrong answer" and failure.got and failure.expected:
            parts.append(f"This test fails: {test}\nThe value is {failure.got}, expected is {failure.expected}.")
        elif failure.reason == "wrong answer":
            wrote = f"\nThe program's output is\n{failure.got}" if failure.got else ""
            parts.append(f"This test fails: {test}{wrote}")
        else:
            failed = f"This test fails: {test}\n" if test else ""
            raised = failure.reason.startswith("raised")
            parts.append(f"{failed}{_error(case, failure) if raised else _failed(failure.reason)}")
    return "\n".join(parts[:3]) or _interpreter(case)


def _lint(case: Case) -> str:
    """What ruff finds wrong beside what the tests say: undefined and unused names, syntax."""
    limits = f"import resource as r; r.setrlimit(r.RLIMIT_CPU, ({RUFF_SECONDS},) * 2); import os, sys; "
    command = [sys.executable, "-c", f"{limits}os.execv(sys.argv[1], sys.argv[1:])", *_ruff(), *RUFF]
    try:
        done = subprocess.run(command, input=case.program.encode("utf-8", "replace"), capture_output=True,
                              timeout=2 * RUFF_SECONDS)  # fmt: skip
        found = json.loads(done.stdout[:RUFF_BYTES] or b"[]")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        found = []
    words = [f"line {f['location']['row']}: {f['message']}" for f in found[:5]]
    return "\n".join([_assertion(case), *(["A linter says:", *words] if words else [])])


def _ruff() -> list[str]:
    try:
        from ruff import find_ruff_bin
    except ImportError:
        raise InputError("the critic lint needs the package ruff; run: pip install ruff") from None
    return [find_ruff_bin()]


WORDS = {
    "generic": _generic,
    "compiler": _compiler,
    "interpreter": _interpreter,
    "assertion": _assertion,
    "lint": _lint,
}
CRITICS = (*WORDS, "model")


class ModelCritic:
    """A model that is shown the task, the program and its outcome on the visible tests, and says what is wrong."""

    name = "model"

    def __init__(self, backend: Backend, sampling: SamplingConfig) -> None:
        self.backend, self.sampling = backend, sampling

    def review(self, cases: Sequence[Case]) -> list[Review]:
        """Ask for all reviews together."""
        asks = [Ask(self.messages(case), case.key) for case in cases]
        bar = tqdm(self.backend.ask(asks, self.sampling), "reviews", len(asks), disable=None, leave=False)
        replies = {number: found[0] for number, found in bar}
        given = [replies[n] for n in range(len(asks))]
        return [
            Review(reply.text, ask.messages, reply.prompt_tokens, reply.tokens, reply.served)
            for reply, ask in zip(given, asks, strict=True)
        ]

    def messages(self, case: Case) -> tuple[Message, ...]:
        """Return what the critic is asked."""
        shown = case.shown
        parts = [f"Task:\n{shown.text}"]
        if shown.tests and not shown.starter:  # else they stand in the text
            parts.append("Tests:\n" + "\n".join(shown.tests))
        parts += [f"Program:\n```python\n{case.program.strip()}\n```"]
        parts.append(f"{_again(case)}{_assertion(case)}")
        if self.backend.chat:
            return Message("system", ASKED_TO_CRITICIZE), Message("user", "\n\n".join(parts))
        return (Message("user", "\n\n".join([ASKED_TO_CRITICIZE, *parts, "What is wrong:"])),)


def open_critics(names: Sequence[str], model: Backend | None, sampling: SamplingConfig) -> Mapping[str, Critic]:
    """Return the critics of these names; raise InputError on ``model`` where there is none, on lint without ruff."""
    critics: dict[str, Critic] = {}
    for name in names:
        if name == "lint":
            _ruff()
        if name != "model":
            critics[name] = Programmatic(name)
        elif model:
            critics[name] = ModelCritic(model, sampling)
        else:
            raise InputError("critic.model: an arm has the critic model; name a run, a folder or a server's URL")
    return critics


@dataclass(frozen=True)
class Feedback:
    """What a generator is told: ``text``; ``refused`` says why the critic's own words were not passed on, or is ""."""

    text: str
    refused: str = ""


def shortened(raw: str, longest: int = LONGEST) -> Feedback:
    """Return words that are ours without control characters, cut to ``longest`` characters: values are as they are."""
    text = "".join(c for c in raw.replace("\r\n", "\n") if c.isprintable() or c in "\n\t")
    return Feedback(text if len(text) <= longest else text[: longest - 3].rsplit(" ", 1)[0] + "...")


def clean(raw: str, prompt: str = "", longest: int = LONGEST) -> Feedback:
    """Return a model's words without fences, control characters and repeated lines, cut to ``longest`` characters.

    Where they are empty, no text, or an echo of the ``prompt``, GENERIC stands for them.
    """
    text = re.sub(r"^[ \t]*```.*$", "", raw[:MOST_RAW], flags=re.MULTILINE)
    text = "".join(c for c in text.replace("\r\n", "\n") if c.isprintable() or c in "\n\t")
    lines = [line.rstrip() for line in text.strip().splitlines()]
    text = "\n".join(line for line, before in zip(lines, [None, *lines], strict=False) if line != before)
    reason = garbage(text, prompt)
    if reason:
        return Feedback(GENERIC, reason)
    return shortened(text, longest)


def garbage(text: str, prompt: str) -> str:
    """Return why a critic's words are of no use, or ""."""
    words = text.split()
    if not words:
        return "empty"
    letters = sum(c.isalpha() or c.isspace() for c in text) / len(text)
    longest, distinct = max(map(len, words)), len(set(words)) / len(words)
    if len(words) < FEWEST_WORDS or letters < 0.5 or longest > 120 or (len(words) > 20 and distinct < 0.2):
        return "no text"
    runs = [" ".join(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))]
    known = " ".join(prompt.split())
    if known and sum(run in known for run in runs) >= ECHOED * len(runs):
        return "echo"
    return ""
