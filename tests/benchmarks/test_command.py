"""The command and its modes."""

import pytest

from launch import benchmark
from tests.conftest import run_here


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--table", "h20"], "did you mean 'h200'"),
        (["train", "--table", "h200", "--only=M9"], "no row 'M9'"),
        (["train", "--size=M1", "--peers=transfomers"], "unknown 'transfomers'"),
        (["train", "--size=M1", "--steps=0"], "steps: expected at least 1"),
        (["generate", "--size=M1", "--tokenizer=none.model"], "none.model"),
        (["generate", "--size=M1", "--prompts=0"], "prompts: expected at least 1"),
        (["generate", "--size=M1", "--peers=singel"], "did you mean 'single'"),
        (["train", "--size=M1", "--threads=0"], "threads: expected 1 to 1,024, found 0"),
        (["overhead", "--size=M1", "--data=none"], "none"),
        (["trian"], "did you mean 'train'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, words):
    done = run_here("benchmark.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_has_a_line_for_each_mode(capsys):
    benchmark.main(["--help"])
    shown = capsys.readouterr().out.splitlines()
    for mode in ("train", "generate", "overhead", "data", "sandbox", "fit"):
        assert sum(line.split()[:1] == [mode] for line in shown) == 1
