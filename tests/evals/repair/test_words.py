"""Words: what critics say, what of it is passed on, what a model is asked, and the program in what it answers."""

import pytest

from evals.repair.critics import GENERIC, Case, clean, open_critics, shortened
from evals.repair.outcome import Outcome
from evals.repair.prompts import Attempt, messages, program_in
from evals.repair.select import choose, rule_names
from evals.repair.split import Shown
from evals.sandbox.types import Failure
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

SHOWN = Shown("T/1", 0, "Add two.", "add", ("assert add(1) == 3",), stops=("\nassert",), prompt='"""\nAdd two.\n"""\n')
PROGRAM = "def add(x):\n    return y + 2\n"


def said(critic, outcome, program=PROGRAM):
    case = Case(SHOWN, program, outcome, 3.0, (0, 0, 0, 0))
    return open_critics([critic], None, SamplingConfig())[critic].review([case])[0].text


def failed(reason, *failures, parses=True):
    return Outcome(parses, False, 0, 1, reason, failures)


SYNTAX = failed(
    "syntax error", Failure("", "syntax error", claimed="'(' was never closed", line=2, column=12), parses=False
)
VALUE = failed("wrong answer", Failure("add(1) == 3", "wrong answer", "4", "3", number=0))
NAME = failed(
    "raised NameError", Failure("add(1) == 3", "raised NameError", claimed="name 'y' is not defined", line=2, number=0)
)
ABSENT = failed(
    "raised NameError", Failure("add(1) == 3", "raised NameError", claimed="name 'add' is not defined", number=0)
)


@pytest.mark.parametrize(
    ("critic", "outcome", "words"),
    [
        ("generic", VALUE, GENERIC),
        ("compiler", SYNTAX,
         "The program does not compile: '(' was never closed (line 2, column 12)\n    return (y + 2\n           ^"),
        ("compiler", VALUE, GENERIC),
        ("interpreter", VALUE, "The program runs, but a test does not hold: AssertionError."),
        ("interpreter", NAME, "It raised NameError: name 'y' is not defined.\n"
                              "The program says that this was in its line 2:\n    return y + 2"),
        ("assertion", VALUE, "This test fails: assert add(1) == 3\nThe value is 4, expected is 3."),
        ("assertion", NAME, "This test fails: assert add(1) == 3\nIt raised NameError: name 'y' is not defined.\n"
                            "The program says that this was in its line 2:\n    return y + 2"),
        ("assertion", failed("timeout"), "The program did not end within 3 seconds of CPU time."),
        ("assertion", failed("out of memory"), "The program failed: out of memory."),
        ("interpreter", failed("exited"), "The program ended itself, as by sys.exit."),
        ("assertion", failed("exited", Failure("", "exited")), "The program ended itself, as by sys.exit."),
        ("assertion", failed("timeout", Failure("add(1) == 3", "no verdict", number=0)),
         "The program did not end within 3 seconds of CPU time."),
        ("assertion", failed("answer not plain data", Failure("add(1) == 3", "answer not plain data", number=0)),
         "This test fails: assert add(1) == 3\n"
         "The program gave what is no plain value, such as an object of a class of its own."),
    ],
)  # fmt: skip
def test_what_critics_say(critic, outcome, words):
    program = "def add(x):\n    return (y + 2\n" if outcome is SYNTAX else PROGRAM
    assert said(critic, outcome, program) == words


def test_a_missing_name_is_told_with_the_nearest():
    words = said("assertion", ABSENT, "def add_two(x):\n    return x + 2\n")
    assert "does not define the function add; it defines add_two." in words


def test_the_interpreter_tells_no_value_of_a_test():
    assert not any("expected" in said("interpreter", outcome) for outcome in (VALUE, NAME, SYNTAX))


def test_a_linter_speaks_too():
    pytest.importorskip("ruff")
    words = said("lint", VALUE)
    assert words.startswith("This test fails") and "A linter says:\nline 2: Undefined name `y`" in words


@pytest.mark.parametrize("line", [-1, 0, 9, 1 << 20])
def test_a_claimed_line_that_is_none_is_not_shown(line):
    claim = Failure("add(1) == 3", "raised X", claimed="w", line=line, number=0)
    assert said("interpreter", failed("raised X", claim)) == "It raised X: w."


@pytest.mark.parametrize(
    ("raw", "text", "refused"),
    [
        ("```\nThe sum is wrong.\n```", "The sum is wrong.", ""),
        ("  Add x.\n\n\n\nNot y.\x1b[31m", "Add x.\n\nNot y.[31m", ""),
        ("", GENERIC, "empty"),
        ("``` \n ```", GENERIC, "empty"),
        ("ok", GENERIC, "no text"),
        ("(((( )))) #### 123 456 @@", GENERIC, "no text"),
        ("the " * 50, GENERIC, "no text"),
        ("x" * 300 + " y", GENERIC, "no text"),
        ("Say in at most three sentences what is wrong", GENERIC, "echo"),
        (
            "The loop ends one step too early.\nThe loop ends one step too early.",
            "The loop ends one step too early.",
            "",
        ),
    ],
)
def test_feedback_is_cleaned(raw, text, refused):
    found = clean(raw, "A program is wrong. Say in at most three sentences what is wrong and how.")
    assert (found.text, found.refused) == (text, refused)


def test_what_the_judge_says_is_no_garbage_however_it_looks():
    """Values are mostly figures and marks, and equal lines of an input are each of a meaning."""
    value = Failure("add(1) == 3", "wrong answer", "[(1, 2), (3, 4)] * 2", "{1: [2, 3, 4], 5: [6, 7]}", number=0)
    words = said("assertion", failed("wrong answer", value))
    assert shortened(words).text == words and not shortened(words).refused
    assert shortened("a\n1\n1\n1\n```\nb\x1b[0m").text == "a\n1\n1\n1\n```\nb[0m"
    assert shortened("word " * 300, 100).text.endswith("...") and len(shortened("word " * 300, 100).text) <= 100


def test_long_feedback_is_cut():
    words = " ".join(f"word{number} says" for number in range(300))
    assert len(clean(words, longest=100).text) <= 100 and clean(words, longest=100).text.endswith("...")


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("```python\ndef add(x): return x\n```", "def add(x): return x"),
        ("First:\n```\nprint(1)\n```\nthen\n```py\ndef add(x): return x\n```\nand ```x = 1```", "def add(x): return x"),
        ("```python\ndef add(x): return x", "def add(x): return x"),
        ("def add(x): return x", "def add(x): return x"),
        ("```\na\n```\n```\nlonger\n```", "longer"),
        ("", ""),
    ],
)
def test_the_program_in_an_answer(answer, program):
    assert program_in(answer, SHOWN, chat=True).strip() == program


def test_turns_of_a_chat_and_the_text_of_a_base_model():
    attempts = [Attempt("x = 1\n", "It is no function.\nWrite one.")]
    turns = messages(SHOWN, attempts, chat=True)
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[1].content.endswith("assert add(1) == 3\n\nThe function has to be called add.")
    (text,) = messages(SHOWN, attempts, chat=False)
    assert text.content == (
        "x = 1\n\n# The program above fails.\n# It is no function.\n# Write one.\n# Corrected:\n\n" + SHOWN.prompt
    )
    assert program_in("def add(x): return 3\nassert add(2)", SHOWN, chat=False) == "def add(x): return 3\n"


def row(number, held, outputs=(), parses=True, taken=True):
    return {"round": number, "passed": held == 2, "held": held, "parses": parses, "taken": taken,
            "outputs": list(outputs), "agrees": [len(outputs) > 1] * 2}  # fmt: skip


def test_rules_of_selection():
    rows = [row(0, 0, parses=False), row(1, 1, "a"), row(2, 1, "bc"), row(3, 1, "bc"), row(4, 0, taken=False)]
    rules = rule_names("first,last,first_visible,most_visible,vote,agreement")
    assert [choose(rows, rule)["round"] for rule in rules] == [0, 3, 3, 1, 2, 2]
    assert choose([*rows, row(5, 2)], "first_visible")["round"] == 5
    with pytest.raises(InputError, match=r"select: unknown 'vot' .did you mean 'vote'"):
        rule_names("first,vot")
