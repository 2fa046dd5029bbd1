"""Score a checkpoint: python launch/evaluate.py runs/NAME --suites perplexity,humaneval."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

from dataclasses import replace
from pathlib import Path

from llama_scale.cli import long_flags, parse, run_cli
from llama_scale.errors import UserError

EXAMPLE = "runs/M1-201k-seed0 --suites perplexity,humaneval --humaneval.n_tasks 20"
FLAGS = {"--allow-unsandboxed": "--execution.allow_unsandboxed", "--apps-judge": "--apps.judge"}


def main(argv: list[str] | None = None) -> None:
    """Run the suites that are not finished and print what each found."""
    from evals.config import EvalConfig
    from evals.models.load import checkpoint_subject, external_subject, is_external, score_each_checkpoint
    from evals.runner import evaluate, judge_samples, suite_names
    from llama_scale.device import pick_device, set_threads
    from llama_scale.training.wandb_log import mirror_scores

    config = parse(EvalConfig, "Score a model of code.", long_flags(argv, FLAGS), "checkpoint", "eval", EXAMPLE)
    set_threads(config.threads)
    if config.cuda_graphs and pick_device(config.device) == "cpu":
        raise UserError("cuda_graphs: CUDA graphs need a GPU; leave it out on a CPU")
    if config.samples:
        judge_samples(config)
        return
    if config.checkpoint is None:
        raise UserError("checkpoint: name a run or checkpoint folder, or give --samples FILE")
    names = suite_names(config.suites)

    def score(path: str | Path) -> None:
        subject = checkpoint_subject(config, path)
        evaluate(config, names, subject)
        if config.wandb:
            mirror_scores(subject.folder.parents[1], config.wandb)

    if config.out and "://" not in config.checkpoint and not Path(config.checkpoint).is_dir():
        from llama_scale.checkpoint.base import find_base  # a GGUF file or a model's name on the hub

        config = replace(config, checkpoint=str(find_base(config.checkpoint).folder))
    if is_external(config.checkpoint):
        evaluate(config, names, external_subject(config))
    elif config.all or config.watch:
        score_each_checkpoint(Path(config.checkpoint), config.watch, score)
    else:
        score(config.checkpoint)


if __name__ == "__main__":
    run_cli(main, resumes=True)
