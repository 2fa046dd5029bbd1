"""The laws that set a run's optimizer values from its size, and the recipe that they make.

Every value that a law set is kept with its formula, so that a run can print why.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from llama_scale.config import TrainConfig
from llama_scale.cost.accounting import count_parameters
from llama_scale.errors import InputError

# What the Step Law was fitted to: non-embedding parameters and training tokens, from and to.
LAW_N = 60e6, 1e9
LAW_D = 2e9, 100e9
RATE_AT_WIDTH_1 = 0.08  # the cap falls with the square root of the width; .06 to .08 train alike (docs/LOG.md)
TOKENS_PER_PARAMETER = 20
OPTIM_VALUES = ("lr", "batch_tokens", "warmup_steps")  # of OptimConfig; laws set them, a branch takes its parent's


def step_law_lr(n: float, d: float, width: float | None = None) -> float:
    """Peak learning rate 1.79 N^-.713 D^.307 (Step Law, arXiv 2503.04715), at most ``lr_cap`` of the width.

    ``n`` is non-embedding parameters, ``d`` training tokens; without a ``width`` it is that of the ladder's model of n
    parameters. Outside the tokens that the law was fitted to (LAW_D), the nearest of them stand for d, so that a short
    run takes a rate at which it learns. Below its parameters the law reads too high and the cap holds; above them it
    goes on falling.
    """
    law = 1.79 * n**-0.713 * min(max(d, LAW_D[0]), LAW_D[1]) ** 0.307
    return min(law, lr_cap(ladder_width(n) if width is None else width))


def lr_cap(width: float) -> float:
    """Greatest peak learning rate of a model, .08 / sqrt(d_model): measured at widths of 16 to 192."""
    return RATE_AT_WIDTH_1 / math.sqrt(width)


def ladder_width(n: float) -> float:
    """Width of the ladder's model of ``n`` non-embedding parameters: 12 d^2 a layer, 1.33 d^.37 layers."""
    return (n / (12 * 1.33)) ** (1 / 2.37)


def describe_lr_law(n: int, d: float, width: int) -> str:
    """Return the formula of ``step_law_lr`` with its source, its range and what stands for a value outside it."""
    told = f"min(1.79 N^-.713 D^.307 (Step Law), {RATE_AT_WIDTH_1:g} / sqrt(d_model)) with N = {n:,}"
    return told + "".join(f"; {part}" for part in lr_law_limits(n, d, width))


def lr_law_limits(n: int, d: float, width: int) -> list[str]:
    """Return in words what of a run lies outside the runs that ``step_law_lr`` was fitted to, and what holds there."""
    used = min(max(d, LAW_D[0]), LAW_D[1])
    parts = []
    if not LAW_N[0] <= n <= LAW_N[1]:
        parts.append(f"N outside the law's {LAW_N[0]:.0e} to {LAW_N[1]:.0e}")
    if used != d:
        parts.append(f"D outside its {LAW_D[0]:.0e} to {LAW_D[1]:.0e}, so D = {used:.0e}")
    if step_law_lr(n, d, width) == lr_cap(width):
        parts.append("the cap by width holds")
    return [part.replace("e+0", "e").replace("e+", "e") for part in parts]


def step_law_batch(d: float) -> float:
    """Tokens in a batch, .58 D^.571 (Step Law, arXiv 2503.04715), of ``d`` training tokens."""
    return 0.58 * d**0.571


def warmup_law(n: int, batch_tokens: int, steps: int) -> int:
    """Warmup steps: one token per parameter, at least 100 and at most 5 % of the run, 10 % where 5 % is under 100."""
    wanted = max(100, round(n / batch_tokens))
    return max(1, min(wanted, max(100, steps // 20), steps // 10))


@dataclass(frozen=True)
class Recipe:
    """A run's optimizer settings with every ``auto`` replaced by a number.

    ``batch`` is in sequences and ``tokens`` is steps x batch x context length. ``init_std`` is 0 in fine-tuning, which
    draws no weights of the model. ``laws`` says for each value where it came from. A branch has its ``parent``
    checkpoint and ``first_step``, the step that it continues from, and leaves out the batches that its trunk had
    ``skipped``.
    """

    tokens: int
    steps: int
    batch: int
    batch_tokens: int
    lr: float
    warmup_steps: int
    init_std: float
    laws: dict[str, str]
    first_step: int = 0
    parent: str | None = None
    skipped: tuple[int, ...] = ()


def resolve(config: TrainConfig) -> Recipe:
    """Replace ``auto`` in tokens, batch, learning rate, warmup and initial scale by the laws' values.

    Raises InputError when the run is shorter than one step, when a given batch is not of whole sequences, or when a
    branch does not continue its parent.
    """
    n = count_parameters(config.model).non_embedding
    context = config.model.context_length
    laws = {}
    parent = read_parent(config)
    if parent:
        config = replace(config, optim=replace(config.optim, **{name: parent[name] for name in OPTIM_VALUES}))
        laws |= dict.fromkeys(OPTIM_VALUES, f"as in {config.branch_from}")
    tokens = config.tokens
    if tokens == "auto":
        tokens = TOKENS_PER_PARAMETER * n
        laws["tokens"] = f"{TOKENS_PER_PARAMETER} x {n:,} non-embedding parameters"
    if config.optim.batch_tokens == "auto":
        wanted = step_law_batch(tokens)
        batch = round_batch(wanted / context)
        laws["batch_tokens"] = f".58 D^.571 = {wanted:,.0f} (Step Law), rounded to sequences"
    else:
        batch = whole_batch(config.optim.batch_tokens, context)
    steps = round(tokens / (batch * context))
    if parent and steps <= parent["step"]:
        raise InputError(
            f"tokens: {tokens:,.0f} are {steps} steps, {config.branch_from} has {parent['step']} "
            "already; tokens counts the trunk's and the branch's together"
        )
    if steps < 1:
        raise InputError(
            f"tokens: {tokens:,.0f} is less than one step of {batch} x {context} tokens; raise tokens or lower "
            "optim.batch_tokens"
        )
    lr = config.optim.lr
    if lr == "auto":
        lr = step_law_lr(n, tokens, config.model.d_model)
        laws["lr"] = describe_lr_law(n, tokens, config.model.d_model)
    warmup = config.optim.warmup_steps
    if warmup == "auto":
        warmup = warmup_law(n, batch * context, steps)
        laws["warmup_steps"] = "N tokens, at least 100 steps, at most 5 % (10 % of a short run)"
    init_std = config.init_std
    if init_std == "auto":
        init_std = config.model.init_std
        laws["init_std"] = "sqrt(2 / (5 d_model)) (Nguyen and Salazar 2019); / sqrt(2 n_layers) into the residual"
    return Recipe(
        tokens=steps * batch * context,
        steps=steps,
        batch=batch,
        batch_tokens=batch * context,
        lr=lr,
        warmup_steps=warmup,
        init_std=init_std,
        laws=laws,
        first_step=parent["step"] if parent else 0,
        parent=config.branch_from,
        skipped=tuple(parent["skipped"]) if parent else (),
    )


def read_parent(config: TrainConfig) -> dict[str, Any] | None:
    """Return what the checkpoint that a branch continues says of itself, or None for a trunk.

    A branch cools down, or continues its trunk at the constant rate. Raises InputError when the checkpoint is none of
    a constant-rate run, or when model, seeds or one of the optimizer's values differ from it.
    """
    schedule, path = config.optim.schedule, config.branch_from
    if (schedule == "cooldown") if path is None else (schedule not in ("cooldown", "constant")):
        raise InputError(
            "branch_from: a branch needs both a checkpoint there and optim.schedule cooldown, or constant to continue "
            f"its trunk; found {path} and {schedule}"
        )
    if path is None:
        return None
    from llama_scale.checkpoint.folder import load_meta

    parent = load_meta(path)
    if parent.get("schedule") != "constant":
        raise InputError(
            f"branch_from: {path} is of a run with schedule {parent.get('schedule')}; a branch "
            "continues one with optim.schedule constant"
        )
    wanted = {"model": asdict(config.model), "seed": config.seed, "data_seed": config.order_seed}
    parent.setdefault("data_seed", parent["seed"])  # one seed was both
    wanted |= {name: getattr(config.optim, name) for name in OPTIM_VALUES}
    for name, value in wanted.items():
        if value not in ("auto", parent[name]):
            found = f"{path} has {name} = {parent[name]} and the command {value}"
            raise InputError(f"branch_from: {found}; leave it out or make it equal")
    return parent


def whole_batch(batch_tokens: int, context: int) -> int:
    """Return the sequences in a batch; raise InputError unless they are whole."""
    batch, rest = divmod(batch_tokens, context)
    if rest:
        below = f"{batch * context} or " if batch else ""
        raise InputError(
            f"optim.batch_tokens: {batch_tokens} is not a multiple of model.context_length = "
            f"{context}; the nearest are {below}{(batch + 1) * context}"
        )
    return batch


def round_batch(sequences: float) -> int:
    """Round to three significant bits, so that a batch splits evenly over devices and steps."""
    sequences = max(1.0, sequences)
    unit = 2 ** max(0, math.floor(math.log2(sequences)) - 2)
    return max(1, round(sequences / unit)) * unit
