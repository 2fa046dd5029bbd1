"""A code assistant in the terminal, over a model of your own.

python launch/assist.py complete FILE[:LINE] --model runs/NAME
python launch/assist.py repair FILE --tests TESTS --model runs/NAME [--write]
python launch/assist.py chat runs/NAME
"""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import sys
from collections.abc import Callable

from llama_scale.cli import parse, run_cli, run_named


def complete(argv: list[str]) -> None:
    """Complete a file."""
    from evals.assistant import terminal

    example = "sort.py:12 --model runs/M1-201k-seed0 --temperature 0.2"
    terminal.complete(parse(terminal.CompleteConfig, "Complete a file.", argv, "place", example=example))


def repair(argv: list[str]) -> None:
    """Repair a file; exit with 1 where it is not repaired."""
    from evals.assistant import terminal

    example = "sort.py --tests test_sort.py --model runs/M1-201k-seed0"
    if not terminal.repair_file(parse(terminal.RepairFileConfig, "Repair a file.", argv, "file", example=example)):
        sys.exit(1)


def chat(argv: list[str]) -> None:
    """Chat."""
    from evals.assistant import terminal

    example = "runs/M1-chat-seed0 --temperature 0.7"
    terminal.chat(parse(terminal.ChatConfig, "Chat with a model.", argv, "model", example=example))


COMMANDS: dict[str, Callable[[list[str]], None]] = {"complete": complete, "repair": repair, "chat": chat}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first argument names."""
    run_named(COMMANDS, about=__doc__, argv=argv)


if __name__ == "__main__":
    run_cli(main)
