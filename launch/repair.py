"""Does letting a model see its errors pay? python launch/repair.py --backend.model runs/NAME --mbpp.data mbpp.jsonl."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

from llama_scale.cli import long_flags, parse, run_cli
from llama_scale.errors import UserError

EXAMPLE = "--backend.model runs/M1-201k-seed0 --suite humaneval --rounds 3"
FLAGS = {"--allow-unsandboxed": "--execution.allow_unsandboxed", "--arms": "--plan.arms", "--rounds": "--plan.rounds"}


def main(argv: list[str] | None = None) -> None:
    """Run the arms, seal the journal and print what each arm made of its budget."""
    from evals.repair.config import RepairConfig
    from evals.repair.runner import mirror, out_folder, report, run, show
    from llama_scale.training.wandb_log import pick_mode

    description = "Generate, criticize, repair: against resampling at equal cost."
    config = parse(RepairConfig, description, long_flags(argv, FLAGS), shipped="repair", example=EXAMPLE)
    if config.results is not None:
        print(f"wrote {report(config.results, config.out)[0]}")
        return
    if config.replay is None and config.backend.model is None:
        raise UserError(
            "name a model (--backend.model RUN, FOLDER or URL), a published log (--replay LOG) "
            "or finished studies (--results DIR,DIR)"
        )
    if config.wandb:
        pick_mode()  # an unknown one is told before the work
    folder = out_folder(config)
    show(run(config, folder))
    mirror(config, folder)


if __name__ == "__main__":
    run_cli(main, resumes=True)
