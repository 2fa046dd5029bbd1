"""What a study would do and what it would tell, before anything runs."""

import shlex
from collections import defaultdict

from llama_scale.config import CONFIGS, load_size
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.cost.hardware import GIB, HARDWARE, describe_machine
from llama_scale.cost.layout import busy_layout, training_seconds
from llama_scale.cost.memory import training_memory
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.fit import check_design
from llama_scale.scaling.fitting.fitted_laws import FittedLaws, laws_path
from llama_scale.scaling.forecasting.design import (
    NOISE,
    Design,
    Rung,
    best_design,
    forecast_width,
    measured_noise,
    target_beyond,
)
from llama_scale.scaling.forecasting.holdout import planned_points
from llama_scale.scaling.forecasting.recommend import HOUR, peak
from llama_scale.scaling.study.backends.local import cpu_count
from llama_scale.scaling.study.plan import Study
from llama_scale.scaling.study.settings import PlannedRun
from llama_scale.scaling.study.tasks import FORECAST
from llama_scale.text import count, digits, power
from llama_scale.training.recipe import lr_law_limits

STAGE_SECONDS = 3.0  # of a CPU: start-up, validation and scores of a small model
SMALL_RUN_FLOPS = 38e9  # a second on one CPU thread: T1 to T4 reached 31 to 42e9 (Xeon, AVX-512)


def describe(study: Study) -> str:
    """Return the study's runs with their cost, what they would forecast, and its commands."""
    total, config, budget = sum(r.spent for r in study.runs), study.config, study.config.budget
    by_parts = budget.by_parts and HARDWARE[budget.gpu.lower()].bandwidth is not None
    how = f"at {budget.share_of_peak:.0%} of its dense bf16 peak"
    how = "each run alone on it, compiled, by the parts of a step as measured on an H200" if by_parts else how
    lines = [
        *run_table(study),
        f"{len(study.runs)} runs, {total:.3g} FLOPs (exact, causal attention); N is non-embedding",
        f"hours: {sum(hours(study, run) for run in study.runs):.3g} of one {budget.gpu} in all, {how}; "
        "memory: one sequence at a time, weights in float32, without compile",
        f"runs at a time: {config.parallel}; threads of each: {config.threads or 'auto'}",
        *(describe_time_here(study) if config.device == "cpu" and config.executor == "local" else []),
        *(describe_forecast(study) if config.law == "loss" else []),
        "",
    ]
    lines += [f"{task.name}: python {shlex.join(task.argv[1:])}" for task in study.tasks]
    return "\n".join(lines)


def run_table(study: Study) -> list[str]:
    """Return the lines of the table of runs: sizes, recipes and cost."""
    wide = max(22, *(len(run.name) for run in study.runs)) + 2
    head = f"{'run':<{wide}}{'n_params_non_embedding':>24}{'tokens':>18}{'D/N':>8}{'batch':>10}{'steps':>9}{'lr':>10}"
    lines = [f"{head}{'FLOPs':>11}{'memory':>11}{'hours':>9}"]
    outside: dict[str, list[str]] = defaultdict(list)
    for run in study.runs:
        N, recipe, auto = run.n_params_non_embedding, run.recipe, run.config.optim.lr == "auto"
        limits = lr_law_limits(N, recipe.tokens, run.config.model.d_model) if auto else []
        rate = f"{recipe.lr:.3g}{'*' if limits else ''}"
        lines.append(
            f"{run.name:<{wide}}{N:>24,}{recipe.tokens:>18,}{recipe.tokens / N:>8.1f}"
            f"{recipe.batch_tokens:>10,}{recipe.steps:>9,}{rate:>10}{run.spent:>11.3g}"
            f"{memory(run) / GIB:>7.2f} GiB{hours(study, run):>9.3g}"
        )
        if limits:
            outside["; ".join(limits)].append(run.name)
    return lines + [f"* lr: {limits} ({', '.join(runs)})" for limits, runs in outside.items()]


def describe_time_here(study: Study) -> list[str]:
    """Return how long the study takes on this machine's CPUs: its FLOPs, and a few seconds for each stage.

    The runs share the places; held-out runs wait for all others, so that what they leave idle counts too.
    """
    config, cpus = study.config, cpu_count()
    threads = config.threads or cpus
    places = max(1, cpus // threads) if config.parallel == "auto" else config.parallel
    rate = SMALL_RUN_FLOPS * min(threads, cpus / places)
    work = {run.name: run.spent / rate for run in study.runs}
    names = [task.name for task in study.tasks]
    after = names[names.index(FORECAST) :] if FORECAST in names else []
    last = [run for run in study.runs if f"train-{run.name}" in after]
    first = sum(seconds for name, seconds in work.items() if name not in {run.name for run in last})
    # What one seed of a size takes one after the other: a trunk and its branches.
    chains: dict[tuple[str, int], float] = defaultdict(float)
    for run in last:
        chains[run.config.size, run.config.seed] += work[run.name]
    waiting = max([sum(chains.values()) / places, *chains.values()]) if chains else 0.0
    stages = STAGE_SECONDS * len(names) / places
    minutes = (first / places + waiting + stages) / 60
    place = f"{places} at a time on {cpus} CPUs" if places > 1 else f"one at a time on {cpus} CPUs"
    return [
        f"time here: about {digits(minutes, 2)} minutes without the data, {place} "
        f"({SMALL_RUN_FLOPS / 1e9:.0f} GFLOP/s a thread and {STAGE_SECONDS:g} s a stage)"
    ]


def hours(study: Study, run: PlannedRun) -> float:
    """Return the hours of one of the study's GPUs that a run adds to its cost."""
    budget = study.config.budget
    machine = describe_machine(budget.gpu.lower(), None, run.config.device, run.config.threads)
    if not budget.by_parts or machine.card is None:
        return run.spent / (peak(budget.gpu) * budget.share_of_peak * HOUR)
    layout = busy_layout(run.config, run.recipe.batch)
    seconds = training_seconds(run.config, run.recipe.tokens, layout, machine, run.config.precision != "fp32")
    return run.spent / run.flops * seconds * layout.devices / HOUR


def memory(run: PlannedRun) -> int:
    """Return the estimated peak memory in bytes of a run with one sequence in a micro batch."""
    return training_memory(run.config.model, 1, bf16=run.config.precision != "fp32").total


def describe_forecast(study: Study) -> list[str]:
    """Return how well the runs would forecast, and the grid that would do best for their cost.

    Simulated (see design.py) for the compute-optimal model at ten times the largest run.
    """
    points, where = planned_points(study.points), study.config.fit.get("where")
    try:
        points = points.select(points.match(where)) if where else points
        check_design(points)
    except InputError as error:
        return [f"forecast at ten times the largest run: none; {error}"]
    (noise, source), target = design_noise(study), target_beyond(float((6 * points.N * points.D).max()))
    planned_width = forecast_width(points.N, points.D, target, noise)
    model = f"{count(target[0])} parameters, {count(target[1])} tokens"
    title = f"forecast at ten times the largest run ({model}), simulated with {100 * noise:.3g} % {source} noise"
    lines = [f"{title}: within {digits(planned_width, 2)} %"]
    best = best_design(rungs(study), float(points.compute.sum()), target, noise)
    if best is None or best.width > 0.95 * planned_width:
        return [*lines, "no grid of the ladder's rungs would do clearly better for the same FLOPs"]
    return [*lines, f"for the same FLOPs, within {digits(best.width, 2)} %: {describe_design(best)}"]


def design_noise(study: Study) -> tuple[float, str]:
    """Return the relative scatter of a run that the forecast reckons with, and where it is from.

    That which the file states, or else that between the seeds of an earlier fit of the same study.
    """
    if study.config.noise == NOISE and laws_path(study.folder).is_file():
        measured = measured_noise(FittedLaws.read(study.folder))
        if measured is not None:
            return measured, "measured"
    return study.config.noise, "assumed" if study.config.noise == NOISE else "stated"


def rungs(study: Study) -> list[Rung]:
    """Return the rungs from the study's smallest to its largest, in its vocabulary and context."""
    least, most = (end(run.n_params_non_embedding for run in study.runs) for end in (min, max))
    first = study.runs[0].config.model
    shape = {"vocab_size": first.vocab_size, "context_length": first.context_length}
    ladder = []
    for path in sorted(CONFIGS.glob("size/*.yaml")):
        model = load_size(path.stem, **shape)
        n_params = count_parameters(model).non_embedding
        if least <= n_params <= most:
            ladder.append(Rung(path.stem, n_params, flops_per_token(model)))
    # Two names may stand for one shape.
    return list({rung.N: rung for rung in ladder}.values())


def describe_design(design: Design) -> str:
    """Return a grid as text: "8 runs (S1 at 1M, 4M; S2 at 2M tokens; 3×10¹⁵ FLOPs)"."""
    parts = []
    for name in dict.fromkeys(rung.name for rung in design.rungs):
        tokens = [d for r, d in zip(design.rungs, design.D, strict=True) if r.name == name]
        parts.append(f"{name} at {', '.join(count(d) for d in tokens)}")
    return f"{len(design.D)} runs ({'; '.join(parts)} tokens; {power(design.flops)} FLOPs)"
