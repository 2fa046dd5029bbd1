"""Fine-tune a model on pairs of prompt and completion: python launch/finetune.py CONFIG --base RUN --train FILE.

Steps of a study (launch/study.py): split, shots, search, forecast, compare, report.
"""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

from llama_scale.cli import build, parse, run_cli
from llama_scale.config import Auto, FinetuneConfig
from llama_scale.cost.hardware import DEFAULT_MFU
from llama_scale.errors import check_fields, positive
from llama_scale.files import write_json

PAIRS = "--base runs/M1-201k-seed0 --train data/pairs/python/train.jsonl"
EXAMPLE = f"{PAIRS} --lora.rank 16"
STUDY = "studies/tune"


@dataclass(frozen=True)
class Command(FinetuneConfig):
    """A fine-tuning run, or a question about it.

    Args:
        rate_from: JSON file of a search for the rate; its best goes over optim.lr.
        dry_run: Print parameters, memory and time, and train nothing.
        json: Print the dry run as JSON.
        mfu: Share of the bf16 peak that the dry run reckons with.
    """

    rate_from: str | None = None
    dry_run: bool = False
    json: bool = False
    mfu: float = DEFAULT_MFU


@dataclass(frozen=True)
class SearchCommand(FinetuneConfig):
    """A search for the learning rate on held-out pairs that nothing else is scored on.

    Args:
        start: Rate in the middle of the first three; auto is the law's.
        factor: Ratio of a rate to the next.
        most: Rates that are tried at most.
        out: JSON file of the result.
    """

    start: float | Auto = "auto"
    factor: float = 3.0
    most: int = 8
    out: str = "rates.json"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "a ratio above 1", lambda x: x > 1, "factor")
        check_fields(self, "at least 3", lambda x: x >= 3, "most")
        check_fields(self, "a positive number", positive, "start")


@dataclass(frozen=True)
class StudyFolder:
    """A fine-tuning study.

    Args:
        study: Its folder, studies/<name>.
    """

    study: str


def settings_of(command: FinetuneConfig) -> FinetuneConfig:
    """Return the run's own settings of a command that has more."""
    return FinetuneConfig(**{f.name: getattr(command, f.name) for f in fields(FinetuneConfig)})


def main(argv: list[str] | None = None) -> None:
    """Tune, or continue, the run that the command line describes, or do a step of a study."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in STEPS:
        STEPS[argv[0]](argv[1:])
        return
    about = "Fine-tune a model on pairs of prompt and completion, with adapters or whole."
    command = parse(Command, about, argv, positional="config", shipped="finetune", example=EXAMPLE)
    config = settings_of(command)
    if command.rate_from:
        from llama_scale.scaling.study.finetune.rate_search import read_rate

        config = replace(config, optim=replace(config.optim, lr=read_rate(command.rate_from)))
    if command.dry_run:
        from llama_scale.training.finetune import forecast
        from llama_scale.training.finetune_plan import describe, plan_finetune

        run = plan_finetune(config)
        cost = forecast(run, command.mfu)
        print(json.dumps(cost.to_dict(), indent=2) if command.json else f"{describe(run)}\n{cost}")
        return
    tune_run(config)


def tune_run(config: FinetuneConfig) -> Path:
    """Tune, or continue, a run, or score a base; return its folder. Exits where a signal stopped it."""
    from llama_scale.training.finetune_plan import describe, plan_finetune

    run = plan_finetune(config)
    if (run.folder / "result.json").exists():
        print(f"{run.folder}: already finished, nothing to do (result.json)")
        return run.folder
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
            return run.folder
        result = write_result(run)
    shown = {
        "train_loss": "training loss {:.4f} nats a token",
        "val_bits_per_byte": "held-out {:.4f} bits a byte",
        "val_end_nats": "document end {:.3f} nats",
        "retained_bits_per_byte": "base's own text {:.4f} bits a byte",
    }
    texts = [text.format(result[name]) for name, text in shown.items() if result.get(name) is not None]
    print(f"{run.folder}: {', '.join(texts)}")
    return run.folder


def search(argv: list[str]) -> None:
    """Find the learning rate of an arm: runs at several, until the best is not at an end."""
    from llama_scale.scaling.study.finetune.rate_search import search_rate
    from llama_scale.training.finetune_plan import plan_finetune

    about = "Find the learning rate whose held-out loss is lowest, inside of what was tried."
    command = parse(
        SearchCommand, about, argv, "config", "finetune", f"{PAIRS} --validation data/pairs/python/test.jsonl"
    )
    config, start = settings_of(command), command.start
    if start == "auto":
        start = plan_finetune(replace(config, optim=replace(config.optim, lr="auto"), run=None)).recipe.lr
    found = search_rate(config, start, command.factor, command.most, tune_run)
    write_json(command.out, found, sealed=True)
    print(f"{command.out}: best rate {found['lr']:.3g} of {len(found['tried'])} tried")


def shots(argv: list[str]) -> None:
    """Put pairs of a study's pool before its held-out pairs, for a base that is shown how."""
    from llama_scale.checkpoint.base import find_base
    from llama_scale.data.few_shot import ShotsConfig, show_pairs

    example = "--base runs/M1-201k-seed0 --pool pool.jsonl --test test.jsonl --out shown.jsonl --shots 3"
    about = "Put pairs before held-out pairs, as many as fit the base's context."
    config = parse(ShotsConfig, about, argv, example=example)
    base = find_base(config.base, config.bases)
    print(show_pairs(config, base.tokenizer(), base.load(weights=False).config.context_length))


def split(argv: list[str]) -> None:
    """Take a study's pool, tuning and test pairs out of folders of pairs."""
    from llama_scale.scaling.study.finetune.split import SplitConfig, split_pairs

    example = "--folders '{python: data/pairs/python}' --out data/split --examples 300 --test 500"
    config = parse(SplitConfig, "Take a study's pairs out of folders of pairs.", argv, example=example)
    for line in split_pairs(config):
        print(line)


def forecast_rank(argv: list[str]) -> None:
    """Write which rank should do, before one has been tried."""
    from llama_scale.scaling.study.finetune.rank_forecast import forecast_rank as forecast
    from llama_scale.training.finetune_plan import plan_finetune

    study = parse(StudyFolder, "Forecast the rank that a study's data needs.", argv, "study", example=STUDY).study

    def trained(settings: dict) -> int:
        return plan_finetune(build(FinetuneConfig, settings)).count.trainable

    for line in forecast(Path(study), trained):
        print(line)


def compare(argv: list[str]) -> None:
    """Compare the arms of a study."""
    from llama_scale.scaling.study.finetune.compare import compare_arms

    study = parse(StudyFolder, "Compare the arms of a fine-tuning study.", argv, "study", example=STUDY).study
    for line in compare_arms(Path(study)):
        print(line)


def report(argv: list[str]) -> None:
    """Write the report of a study and its pictures."""
    from llama_scale.scaling.report.finetune.page import write_report

    study = parse(StudyFolder, "Write the report of a fine-tuning study.", argv, "study", example=STUDY).study
    for path in write_report(Path(study)):
        print(f"wrote {path}")


STEPS = {
    "search": search, "split": split, "shots": shots, "forecast": forecast_rank, "compare": compare, "report": report
}  # fmt: skip


if __name__ == "__main__":
    run_cli(main, resumes=True)
