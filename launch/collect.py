"""Gather the results of a study's runs: python launch/collect.py studies/quickstart."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

from dataclasses import dataclass, field
from pathlib import Path

from llama_scale.cli import parse, run_cli


@dataclass(frozen=True)
class CollectConfig:
    """The points of a study.

    Args:
        study: Folder of the study.
        without: Names of runs to leave out.
        out: The CSV file; null is points.csv in the study's folder.
    """

    study: str
    without: list[str] = field(default_factory=list)
    out: str | None = None


def main(argv: list[str] | None = None) -> None:
    """Write the points and say where."""
    from llama_scale.config import read_yaml
    from llama_scale.scaling.study.collect import collect
    from llama_scale.scaling.study.finetune.collect import collect as collect_arms

    description = "Gather a study's results into points.csv."
    config = parse(CollectConfig, description, argv, "study", example="studies/quickstart")
    out = Path(config.out or Path(config.study) / "points.csv")
    study = Path(config.study)
    settings = read_yaml(study / "study.yaml")
    if isinstance(settings, dict) and settings.get("kind") == "finetune":
        rows = collect_arms(study, out)
    else:
        rows = collect(study, config.without, out)
    print(f"wrote {out}: {len(rows)} runs")


if __name__ == "__main__":
    run_cli(main)
