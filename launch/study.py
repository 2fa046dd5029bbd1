"""Plan and run a scaling study: python launch/study.py configs/study/quickstart.yaml."""

from pathlib import Path

from llama_scale.errors import run_cli
from llama_scale.scaling.plan import read_study
from llama_scale.scaling.preview import describe
from llama_scale.scaling.study import run_study


def main() -> None:
    """Run the study, or continue it, or print what it would do."""
    study = read_study(Path.cwd())
    if study.config.dry_run:
        print(describe(study))
    else:
        run_study(study)


if __name__ == "__main__":
    run_cli(main, resumes=True)
