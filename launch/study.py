"""Plan and run a scaling study: python launch/study.py quickstart."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

from pathlib import Path
from typing import TYPE_CHECKING

from llama_scale.cli import build, run_cli
from llama_scale.errors import InputError, UserError, nearest

if TYPE_CHECKING:
    from llama_scale.scaling.study.plan import Study


# What the tasks of a study import: torch and Lightning take longer than most of them compute.
WARM_MODULES = "jsonargparse", "llama_scale.training.trainer", "evals.validation", "evals.runner", "evals.models.load"


def check_evaluation(study: "Study") -> None:
    """Raise UserError where launch/evaluate.py would refuse the study's suites or settings."""
    from evals.config import EvalConfig
    from evals.runner import KNOWN

    for suite in study.config.suites:
        if suite not in KNOWN:
            raise UserError(
                f"{study.source}: suites: no suite {suite!r}{nearest(suite, KNOWN)}; known: {', '.join(KNOWN)}"
            )
    settings = next(task.settings for task in study.tasks if task.stage == "evaluate")
    try:
        build(EvalConfig, settings)
    except InputError as error:
        raise UserError(f"{study.source}: evaluate: {error}") from None


def main(argv: list[str] | None = None) -> None:
    """Run the study, or continue it, or print what it would do."""
    from llama_scale.scaling.study.dry_run import describe
    from llama_scale.scaling.study.plan import read_study
    from llama_scale.scaling.study.runner import run_study

    study = read_study(Path.cwd(), argv, scripts=Path(__file__).resolve().parent)
    check_evaluation(study)
    if study.config.dry_run:
        print(describe(study))
    else:
        run_study(study, WARM_MODULES)


if __name__ == "__main__":
    run_cli(main, resumes=True)
