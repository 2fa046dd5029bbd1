"""Fine-tune a model on pairs of prompt and completion: python launch/finetune.py CONFIG --base RUN --train FILE."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import json
import sys
from dataclasses import dataclass, fields

from llama_scale.cli import parse, run_cli
from llama_scale.config import FinetuneConfig
from llama_scale.cost.hardware import DEFAULT_MFU


@dataclass(frozen=True)
class Command(FinetuneConfig):
    """A fine-tuning run, or a question about it.

    Args:
        dry_run: Print parameters, memory and time, and train nothing.
        json: Print the dry run as JSON.
        mfu: Share of the bf16 peak that the dry run reckons with.
    """

    dry_run: bool = False
    json: bool = False
    mfu: float = DEFAULT_MFU


def main(argv: list[str] | None = None) -> None:
    """Tune, or continue, the run that the command line describes."""
    about = "Fine-tune a model on pairs of prompt and completion, with adapters or whole."
    command = parse(Command, about, argv, positional="config", shipped="finetune")
    config = FinetuneConfig(**{f.name: getattr(command, f.name) for f in fields(FinetuneConfig)})

    from llama_scale.training.finetune_plan import describe, plan_finetune

    run = plan_finetune(config)
    if command.dry_run:
        from llama_scale.training.finetune import forecast

        cost = forecast(run, command.mfu)
        print(json.dumps(cost.to_dict(), indent=2) if command.json else f"{describe(run)}\n{cost}")
        return
    if (run.folder / "result.json").exists():
        print(f"{run.folder}: already finished, nothing to do (result.json)")
        return
    if run.process.rank == 0:
        print(describe(run), flush=True)

    from evals.retained import Retained
    from llama_scale.training.finetune import HeldOut, score_base, tune, write_result
    from llama_scale.training.wandb_log import live_mirror

    scorers = []
    if run.validation is not None:
        scorers.append(HeldOut(run.validation, config.val_every, run.folder))
    if config.retain:
        scorers.append(Retained(config.retain, config.retain_tokens, run.tokenizer))
    if config.method == "base":
        result = write_result(run, score_base(run, scorers))
    else:
        project = config.wandb if run.process.rank == 0 else None
        with live_mirror(run.folder, project, config.group, run.resolved) as listeners:
            stopped_by = tune(run, scorers, listeners)
        if stopped_by:
            if run.process.rank == 0:
                print(f"{run.folder}: saved and stopped; the same command continues", file=sys.stderr)
            sys.exit(128 + stopped_by)
        if run.process.rank != 0:
            return
        result = write_result(run)
    shown = {
        "train_loss": "training loss {:.4f} nats a token",
        "val_bits_per_byte": "held-out {:.4f} bits a byte",
        "val_end_nats": "document end {:.3f} nats",
        "retained_bits_per_byte": "base's own text {:.4f} bits a byte",
    }
    texts = [text.format(result[name]) for name, text in shown.items() if result.get(name) is not None]
    print(f"{run.folder}: {', '.join(texts)}")


if __name__ == "__main__":
    run_cli(main, resumes=True)
