"""The terminal assistant: the text of sample.py, repairs by a scripted model, chats, nothing written unasked."""

import io
from contextlib import contextmanager

import pytest

from evals.assistant import terminal
from evals.assistant.terminal import plain, split_place
from evals.repair.backends.scripted import Scripted
from launch import assist, sample
from llama_scale.errors import InputError
from tests.launch.inputs import outcome
from tests.llama_scale.serving.conftest import runs, served, tokenizer  # noqa: F401, fixtures

WRONG, RIGHT = "def f(x):\n    return x + x\n", "def f(x):\n    return x * x\n"
TESTS = "from square import f\n\n\ndef test_small():\n    assert f(2) == 4\n    assert f(3) == 9\n"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def test_output_holds_no_control_codes():
    hostile = "a\x1b[31m\x07\r\x9b2J\u202e\u2028\u2066é漢\U0001f600\t\n"
    shown = plain(hostile)
    assert shown == "a\\x1b[31m\\x07\\r\\x9b2J\\u202e\\u2028\\u2066é漢\U0001f600\t\n"


def test_a_completion_is_that_of_sample(runs, tmp_path, capsys):  # noqa: F811
    file = tmp_path / "a.py"
    file.write_text("import re\ndef f(x):\n    y = 1\n")
    settings = ["--temperature", "0.7", "--seed", "5", "--max_new_tokens", "30"]
    assist.main(["complete", f"{file}:2", "--model", str(runs / "a"), *settings])
    here = capsys.readouterr().out
    sample.main([str(runs / "a"), "--prompt", "import re\ndef f(x):", *settings])
    assert "import re\ndef f(x):" + here == capsys.readouterr().out.replace("\r", "\\r")
    assert file.read_text() == "import re\ndef f(x):\n    y = 1\n"


def test_places(tmp_path):
    file = tmp_path / "a.py"
    file.write_bytes(b"a = 1\r\nb = 2\r\n")
    assert split_place(str(file)) == ("a = 1\r\nb = 2\r\n", "")
    assert split_place(f"{file}:1") == ("a = 1", "\r\nb = 2\r\n")
    file.write_bytes(
        b"a = 1\n\x0cb = '\x1c'\nc = '\xe2\x80\xa8'\n"
    )  # characters that end a line of text, not of a file
    assert split_place(f"{file}:2") == ("a = 1\n\x0cb = '\x1c'", "\nc = '\u2028'\n")
    file.write_bytes(b"a = 1\r\nb = 2\r\n")
    for place, words in [(f"{file}:3", "has 2 lines"), (f"{file}:x", "expected FILE or FILE:LINE"),
                         (f"{file}:0", "line from 1"), (str(tmp_path / "no.py"), "no.py")]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            split_place(place)


@pytest.fixture
def files(tmp_path, isolated, monkeypatch):
    (tmp_path / "square.py").write_text(WRONG)
    (tmp_path / "tests.py").write_text(TESTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answering(monkeypatch, *programs):
    backend = Scripted(lambda ask, n: f"```python\n{programs[min(ask.key[1], len(programs)) - 1]}```")

    @contextmanager
    def open_writer(config):
        yield backend

    monkeypatch.setattr(terminal, "open_writer", open_writer)
    return backend


REPAIR = ["repair", "square.py", "--tests", "tests.py", "--model", "any"]


def test_a_repair_is_a_diff_and_is_written_when_asked(files, monkeypatch, capsys):
    backend = answering(monkeypatch, "def f(x):\n    return 4\n", RIGHT)
    assert outcome(assist, REPAIR) == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "--- a/square.py\n+++ b/square.py\n@@ -1,2 +1,2 @@\n def f(x):\n-    return x + x\n+    return x * x\n"
    )
    assert [line for line in printed.err.splitlines() if line.startswith("round")] == [
        "round 0: 1 of 2 tests, wrong answer", "round 1: 1 of 2 tests, wrong answer", "round 2: 2 of 2 tests, holds",
    ]  # fmt: skip
    assert "The value is 6, expected is 9." in backend.asked[0].messages[-1].content
    assert (files / "square.py").read_text() == WRONG
    (files / "square.py").chmod(0o755)
    assert outcome(assist, [*REPAIR, "--write"]) == 0
    assert (files / "square.py").read_text() == RIGHT and (files / "square.py").stat().st_mode & 0o777 == 0o755
    capsys.readouterr()
    assert outcome(assist, REPAIR) == 0
    assert "nothing to repair" in capsys.readouterr().err


def test_what_is_not_repaired_ends_with_1_and_stays(files, monkeypatch, capsys):
    answering(monkeypatch, "import os; os._exit(0)\n", "def f(x):\n    return [4, 9][x % 2] if x < 9 else 0\nexit(0)\n")
    assert outcome(assist, [*REPAIR, "--write"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "not repaired" in printed.err
    assert (files / "square.py").read_text() == WRONG


def test_a_model_of_ours_repairs_nothing_and_says_so(files, runs, capsys):  # noqa: F811
    settings = ["--rounds", "1", "--max_new_tokens", "8"]
    assert outcome(assist, [*REPAIR[:-1], str(runs / "a"), *settings]) == 1
    assert "round 1:" in capsys.readouterr().err


def test_a_chat(runs, tmp_path, monkeypatch, capsys):  # noqa: F811
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nagain\n"))
    settings = ["--max_new_tokens", "12", "--temperature", "0"]
    assist.main(["chat", str(runs / "a"), "--template", str(template), *settings])
    here = capsys.readouterr().out
    sample.main([str(runs / "a"), "--prompt", "user: hello\nassistant:", *settings])
    first = capsys.readouterr().out.removeprefix("user: hello\nassistant:")
    assert here.startswith(first) and len(here) > len(first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chat", "RUN"], "is a base model without a chat template"),
        (["chat", "none"], "model: none: no run or checkpoint folder"),
        (["compete", "a"], "did you mean 'complete'"),
        (["complete", "square.py:9", "--model", "RUN"], "has 2 lines"),
        (["complete", "square.py"], "model"),
        (["complete", "bad.py", "--model", "RUN"], "not UTF-8"),
        (["complete", "square.py", "--model", "RUN", "--stop", "["], "stop: expected a list, found ["),
        (["repair", "no.py", "--tests", "tests.py", "--model", "RUN"], "file: no.py"),
        (["repair", "square.py", "--tests", "no.py", "--model", "RUN"], "tests: no.py"),
        (["repair", "square.py", "--tests", "square.py", "--model", "RUN"], "square.py: line 1: f: tests are"),
        (["repair", "square.py", "--tests", "empty.py", "--model", "RUN"], "empty.py: expected assertions"),
        (["repair", "empty.py", "--tests", "tests.py", "--model", "RUN"], "empty.py: program: there is nothing"),
        (["repair", "square.py", "--tests", "broken.py", "--model", "RUN"], "broken.py: not Python"),
        (["repair", "square.py", "--tests", "tests.py", "--model", "none"], "model"),
        (
            ["repair", "square.py", "--tests", "tests.py", "--model", "RUN", "--rounds", "0"],
            "rounds: expected at least 1",
        ),
        (["repair", "square.py", "--tests", "tests.py", "--model", "RUN", "--critic", "me"], "critic"),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, monkeypatch, capsys, arguments, words):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "square.py").write_text(WRONG)
    (tmp_path / "tests.py").write_text(TESTS)
    (tmp_path / "empty.py").touch()
    (tmp_path / "broken.py").write_text("assert (")
    (tmp_path / "bad.py").write_bytes("# é".encode("latin-1"))
    assert outcome(assist, [str(runs / "a") if word == "RUN" else word for word in arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err and len(printed.err.strip().splitlines()) == 1 and printed.out == ""
