"""Plan and run a study of scaling or of fine-tuning: python launch/study.py quickstart."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llama_scale.cli import build, run_cli
from llama_scale.errors import InputError, UserError, nearest

if TYPE_CHECKING:
    from llama_scale.scaling.study.plan import Study


# What the tasks of a study import: torch and Lightning take longer than most of them compute.
WARM_MODULES = (
    "jsonargparse", "scipy.special", "llama_scale.training.trainer", "evals.validation", "evals.runner",
    "evals.models.load",
)  # fmt: skip

TUNING_MODULES = *WARM_MODULES, "llama_scale.training.finetune", "evals.similarity", "peft"


def check_evaluation(study: "Study") -> None:
    """Raise UserError where launch/evaluate.py would refuse the study's suites or settings."""
    from evals.config import EvalConfig
    from evals.runner import KNOWN

    for suite in study.config.suites:
        if suite not in KNOWN:
            raise UserError(
                f"{study.source}: suites: no suite {suite!r}{nearest(suite, KNOWN)}; known: {', '.join(KNOWN)}"
            )
    settings = next((task.settings for task in study.tasks if task.stage == "evaluate"), None)
    try:
        build(EvalConfig, settings or {})
    except InputError as error:
        raise UserError(f"{study.source}: evaluate: {error}") from None


def check_pairs(study: "Study") -> None:
    """Raise UserError where a folder of pairs is not there or launch/prepare.py would refuse to make one."""
    from data_tools.pairs.config import PairsConfig

    for language, source in study.config.pairs.items():
        where = f"{study.source}: pairs.{language}"
        if isinstance(source, str):
            if not (study.root / source / "train.jsonl").is_file():
                raise UserError(
                    f"{where}: {source} has no train.jsonl; name a folder that launch/prepare.py pairs made"
                )
            continue
        try:
            build(PairsConfig, source)
        except InputError as error:
            raise UserError(f"{where}: {error}") from None


def missing(study: "Study") -> list[str]:
    """Return what a fine-tuning study needs and this machine lacks: its base, the sources of its pairs, benchmarks.

    What the study has made already is not asked for again.
    """
    from data_tools.pairs.config import PairsConfig
    from data_tools.pairs.extract import check_source
    from evals.config import EvalConfig
    from evals.runner import read_data
    from llama_scale.checkpoint.base import check_base

    checks = {}
    if (study.folder / study.config.result).exists():
        return []
    if study.config.base.model is not None:
        checks["base.model"] = partial(check_base, study.config.base.model)
    for language, source in study.config.pairs.items():
        if not isinstance(source, str) and not (study.folder / "pairs" / language / "train.jsonl").exists():
            checks[f"pairs.{language}"] = partial(check_source, build(PairsConfig, source))
    suites = [suite for suite in study.config.suites if suite not in ("pairs", "perplexity")]  # those read what is made
    for task in (task for task in study.tasks if task.stage == "evaluate" and suites):
        config = build(EvalConfig, {name: value for name, value in (task.settings or {}).items() if name != "before"})
        for suite in suites:
            own = getattr(config, suite)
            checks[f"evaluate.{own.file_name}"] = partial(read_data, config, suite, own)
    found = []
    for where, check in checks.items():
        try:
            check()
        except InputError as error:
            found.append(f"{where}: {error}")
    return found


def main(argv: list[str] | None = None) -> None:
    """Run the study, or continue it, or print what it would do."""
    from llama_scale.scaling.study.finetune.plan import is_tuning_study
    from llama_scale.scaling.study.runner import run_study

    argv, root = sys.argv[1:] if argv is None else argv, Path.cwd()
    modules, checks, lacking = WARM_MODULES, [check_evaluation], lambda study: []
    if is_tuning_study(argv, root):
        from llama_scale.scaling.study.finetune.dry_run import describe
        from llama_scale.scaling.study.finetune.plan import read_study

        modules, checks, lacking = TUNING_MODULES, [check_evaluation, check_pairs], missing
    else:
        from llama_scale.scaling.study.dry_run import describe
        from llama_scale.scaling.study.plan import read_study

    study = read_study(root, argv, scripts=Path(__file__).resolve().parent)
    for check in checks:
        check(study)
    absent = lacking(study)
    if study.config.dry_run:
        print("\n".join([describe(study), *(f"missing: {line}" for line in absent)]))
    elif absent:
        more = f" (and {len(absent) - 1} more: --dry-run)" if len(absent) > 1 else ""
        raise UserError(f"{study.source}: {absent[0]}{more}")
    else:
        run_study(study, modules)


if __name__ == "__main__":
    run_cli(main, resumes=True)
