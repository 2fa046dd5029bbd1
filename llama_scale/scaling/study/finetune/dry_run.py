"""What a fine-tuning study would do, before anything runs."""

import shlex

from llama_scale.scaling.study.finetune.settings import BASE
from llama_scale.scaling.study.plan import Study
from llama_scale.text import count


def describe(study: Study) -> str:
    """Return the study's arms, and its commands."""
    settings = study.settings
    lines = [f"{'arm':<28}{'method':>8}{'rank':>6}{'pairs':>8}{'budget':>12}{'rate':>8}{'runs':>6}"]
    for arm in settings["arms"]:
        budget = f"{arm['steps']} steps" if arm["steps"] else f"{arm['epochs']} epochs" if arm["epochs"] else "-"
        rate = "search" if arm["tuned"] else str(arm["settings"].get("optim", {}).get("lr", "-"))
        pairs = "-" if arm["method"] == BASE else count(arm["examples"]) if arm["examples"] else "all"
        lines.append(f"{arm['name']:<28}{arm['method']:>8}{arm['rank'] or '-':>6}{pairs:>8}{budget:>12}{rate:>8}"
                     f"{len(arm['draws']):>6}")  # fmt: skip
    lines += [f"{len(study.runs)} runs, compared on {settings['test']} held-out pairs; rates are found on "
              f"{settings['rates']['pairs']} others"]  # fmt: skip
    lines += [f"flaw of the published design: {flaw}" for flaw in settings["flaws"]]
    return "\n".join([*lines, "", *(f"{task.name}: python {shlex.join(task.argv[1:])}" for task in study.tasks)])
