"""Pretrain one model: python launch/train.py --size M1, or tell its cost first: --dry-run."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import json
import sys
from dataclasses import dataclass, fields

from llama_scale.cli import parse, run_cli
from llama_scale.config import TrainConfig
from llama_scale.files import read_fields


EXAMPLE = "--size M1 --data data/installed --tokens 2e5 --optim.lr 1e-3"


@dataclass(frozen=True)
class Command(TrainConfig):
    """A pretraining run, or a question about it.

    Args:
        dry_run: Print parameters, FLOPs, memory, time and whether it fits, and train nothing.
        json: Print the dry run as JSON.
        hardware: Devices of the dry run (h200, h100, a100, ...); null is this machine.
        mfu: Share of the bf16 peak that the dry run reckons with, attention counted full; null is a step's parts as
            measured on an H200, on cards of its chip, and .4 on others.
    """

    dry_run: bool = False
    json: bool = False
    hardware: str | None = None
    mfu: float | None = None


def main(argv: list[str] | None = None) -> None:
    """Train, or continue, the run that the command line describes."""
    description = "Pretrain one model from prepared token shards."
    command = parse(Command, description, argv, shipped="train", example=EXAMPLE)
    config = TrainConfig(**{f.name: getattr(command, f.name) for f in fields(TrainConfig)})
    if command.dry_run:
        from llama_scale.cost.dry_run import dry_run
        from llama_scale.training.recipe import resolve

        cost = dry_run(config, resolve(config), command.hardware, command.mfu)
        print(json.dumps(cost.to_dict(), indent=2) if command.json else cost)
        return

    from llama_scale.training.run_plan import describe, plan_run, validation_interval

    run = plan_run(config)
    if (run.folder / "result.json").exists():
        read_fields(run.folder / "result.json")  # which says so where it has changed
        print(f"{run.folder}: already finished, nothing to do (result.json)")
        return
    if run.process.rank == 0:
        print(describe(run), flush=True)

    from evals.validation import Validation
    from llama_scale.training.result import write_result
    from llama_scale.training.trainer import fit
    from llama_scale.training.wandb_log import live_mirror

    interval = validation_interval(config, run.recipe)
    validation = Validation(config.data, interval, config.val_tokens)
    project = config.wandb if run.process.rank == 0 else None
    with live_mirror(run.folder, project, config.group, run.resolved) as listeners:
        stopped_by = fit(run, scorers=[validation], listeners=listeners)
    if stopped_by:
        if run.process.rank == 0:
            print(f"{run.folder}: saved and stopped; the same command continues", file=sys.stderr)
        sys.exit(128 + stopped_by)
    if run.process.rank != 0:
        return
    result = write_result(run)
    print(
        f"{run.folder}: validation loss {result['val_loss']:.4f} nats per token, "
        f"{result['val_bits_per_byte']:.4f} bits per byte"
    )


if __name__ == "__main__":
    run_cli(main, resumes=True)
