"""Mirror a study to Weights & Biases: python launch/track.py studies/quickstart."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_scale.cli import parse, run_cli


@dataclass(frozen=True)
class TrackConfig:
    """The Weights & Biases view of a study, rebuilt from its files.

    Args:
        study: Folder of the study.
        mode: Where to; null is WANDB_MODE, or offline. What was written offline is uploaded
            later by wandb sync studies/<name>/wandb/offline-run-*.
    """

    study: str
    mode: Literal["offline", "online", "disabled"] | None = None


def main(argv: list[str] | None = None) -> None:
    """Rebuild the view and say where it is."""
    from llama_scale.scaling.report.finetune.tables import tuning_tables
    from llama_scale.scaling.report.wandb_study import mirror_study
    from llama_scale.scaling.study.finetune.comparison import COMPARISON, read_comparison

    config = parse(
        TrackConfig, "Mirror a study to Weights & Biases.", argv, "study", example="studies/quickstart --mode offline"
    )
    started = time.perf_counter()
    study, more = Path(config.study), []
    if (study / COMPARISON).exists():
        more = tuning_tables(read_comparison(study))
    ids = mirror_study(study, config.mode, more)
    if ids:
        seconds = time.perf_counter() - started
        print(f"{len(ids)} runs mirrored to {Path(config.study) / 'wandb'} in {seconds:.0f} s")
    else:
        print("Weights & Biases is disabled (WANDB_MODE), nothing mirrored")


if __name__ == "__main__":
    run_cli(main)
