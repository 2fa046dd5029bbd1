"""What a model is told of a task and of its last program, and the program in what it answers.

A chat model gets turns; a base model a text to continue: the docstring form of its benchmark, and for a repair the
program, what was wrong with it as comments, and the docstring again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evals.models.request import cut_at_stop
from evals.repair.backends.protocol import Message
from evals.repair.split import Shown
from llama_scale.text import writable

SYSTEM = "You are a careful Python programmer. Answer with one block of Python code and nothing else."
FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+-]*)[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
AGAIN = "Write the whole program again, corrected, in one block of Python code."


@dataclass(frozen=True)
class Attempt:
    """A program and what was said of it."""

    program: str
    feedback: str


def question(shown: Shown) -> str:
    """Return the task as a person would put it to a chat model."""
    parts = [shown.text]
    if shown.tests and not shown.starter:
        holds = "It is checked with tests such as" if shown.entry else "Examples:"
        parts.append(f"{holds}\n\n" + "\n".join(shown.tests))
    if shown.entry and shown.starter:
        parts.insert(0, f"Complete the function {shown.entry}, and give the whole of it with its imports.")
    elif shown.entry:
        parts.append(f"The function has to be called {shown.entry}.")
    else:
        parts.append("The program reads standard input and writes standard output.")
    if shown.setup and not shown.starter:
        parts.append(f"This stands before it or is given:\n\n{shown.setup}")
    if shown.start:
        parts.append(f"The program:\n\n```python\n{shown.start}```")
    return "\n\n".join(parts)


def messages(shown: Shown, attempts: Sequence[Attempt], chat: bool) -> tuple[Message, ...]:
    """Return what is sent for the next program, after ``attempts``, the oldest first."""
    if not chat:
        return (Message("user", completion(shown, attempts)),)
    turns = [Message("system", SYSTEM), Message("user", question(shown))]
    for attempt in attempts:
        turns.append(Message("assistant", f"```python\n{attempt.program.strip()}\n```"))
        turns.append(Message("user", f"{attempt.feedback}\n\n{AGAIN}"))
    return tuple(turns)


def completion(shown: Shown, attempts: Sequence[Attempt]) -> str:
    """Return the text that a base model continues with a program."""
    parts = [f"{shown.start}\n" if shown.start and not attempts else ""]
    for attempt in attempts:
        comments = "".join(f"# {line}\n" for line in attempt.feedback.splitlines())
        parts.append(f"{attempt.program.strip()}\n\n# The program above fails.\n{comments}# Corrected:\n\n")
    return "".join(parts) + shown.prompt


def program_in(text: str, shown: Shown, chat: bool) -> str:
    """Return the program in an answer.

    Of a chat model that is the first block of code that defines the entry, else the longest one, else, without a block,
    all of it. A base model's is cut before the first stop string and after its starter.
    """
    text = writable(text)
    if not chat:
        return f"{shown.starter}{cut_at_stop(text, shown.stops)}".rstrip() + "\n"
    blocks = [code for _, code in FENCE.findall(text)]
    defining = [code for code in blocks if shown.entry and re.search(rf"\bdef {re.escape(shown.entry)}\b", code)]
    code = (defining or [max(blocks, key=len, default=text)])[0]
    if shown.starter and shown.setup and code.strip():
        code = f"{shown.setup}\n\n{code}"  # imports and helpers of a prompt, which answers often leave out
    return f"{code.strip()}\n"
