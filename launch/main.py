"""llama-scale COMMAND: train, evaluate and fit scaling laws of models of Python code."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import sys
from functools import partial
from importlib import import_module
from typing import NamedTuple

PROGRAM = "llama-scale"


class Command(NamedTuple):
    """A sub-command: its function of the arguments, and whether it goes on where it stopped."""

    module: str
    function: str
    summary: str
    resumes: bool = False


COMMANDS = {
    "prepare": Command("prepare", "main", "turn source code into tokens and a tokenizer", True),
    "train": Command("train", "main", "pretrain one model, or tell its cost: --dry-run", True),
    "finetune": Command("finetune", "main", "tune a model on pairs, with adapters or whole", True),
    "evaluate": Command("evaluate", "main", "score a checkpoint or a server", True),
    "repair": Command("repair", "main", "does letting a model see its errors pay?", True),
    "sample": Command("sample", "main", "complete code in the terminal"),
    "serve": Command("serve", "main", "models by OpenAI's protocol, with a page"),
    "assist": Command("assist", "main", "complete and repair files, chat"),
    "export": Command("export", "main", "convert a checkpoint to or from transformers"),
    "study": Command("study", "main", "plan and run a whole scaling study", True),
    "collect": Command("collect", "main", "gather a study's results into points.csv"),
    "fit": Command("scaling", "fit", "fit a scaling law to a CSV of runs"),
    "report": Command("scaling", "report", "write the report of a fitted study"),
    "recommend": Command("scaling", "recommend", "the best use of a budget by a fitted law"),
    "forecast": Command("scaling", "forecast", "a dated forecast of runs not made yet"),
    "score": Command("scaling", "score", "a forecast against what was measured since"),
    "sweep": Command("scaling", "sweep", "the laws of the best learning rate and batch"),
    "track": Command("track", "main", "mirror a study to Weights & Biases"),
    "benchmark": Command("benchmark", "main", "measure speed beside peers"),
}


def main() -> None:
    """Run the command that the first argument names; its libraries load only then."""
    name, *argv = sys.argv[1:] or ["--help"]
    command = COMMANDS.get(name)
    try:
        from llama_scale.cli import run_cli
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        sys.exit(130)
    if command is None:
        run_cli(partial(_answer, name), name=PROGRAM)
    else:
        run_cli(partial(_run, command, argv), command.resumes, f"{PROGRAM} {name}")


def _run(command: Command, argv: list[str]) -> None:
    module = import_module(f"launch.{command.module}")
    getattr(module, command.function)(argv)


def _answer(name: str) -> None:
    """Print the help or the version; raise UserError where ``name`` is no command."""
    import llama_scale
    from llama_scale.errors import UserError, nearest

    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS)) + 2
        rows = [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
        usage = f"usage: {PROGRAM} COMMAND [ARGUMENTS], or {PROGRAM} COMMAND --help"
        print("\n".join([usage, "", *rows]))
    elif name == "--version":
        print(f"{PROGRAM} {llama_scale.__version__}")
    else:
        hint = nearest(name, COMMANDS)
        raise UserError(f"no command {name!r}{hint}; {PROGRAM} --help lists them")


if __name__ == "__main__":
    main()
