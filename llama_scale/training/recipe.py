"""The laws that set a run's optimizer values from its size, and the recipe that they make.

Every value that a law set is kept with its formula, so that a run can print why.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from llama_scale.config import TrainConfig
from llama_scale.cost.accounting import count_parameters
from llama_scale.errors import InputError

LR_CAP = 6e-3
TOKENS_PER_PARAMETER = 20
OPTIM_VALUES = ("lr", "batch_tokens", "warmup_steps")  # of OptimConfig; laws set them, a branch takes its parent's


def step_law_lr(n: int, d: float) -> float:
    """Peak learning rate 1.79 N^-.713 D^.307 (Step Law, arXiv 2503.04715), capped at 6e-3.

    ``n`` is non-embedding parameters, ``d`` training tokens. The law reads too high below 100M parameters, hence a cap.
    """
    return min(1.79 * n**-0.713 * d**0.307, LR_CAP)


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

    ``batch`` is in sequences and ``tokens`` is steps x batch x context length. ``laws`` says for each value where it
    came from. A branch has its ``parent`` checkpoint and ``first_step``, the step that it continues from, and leaves
    out the batches that its trunk had ``skipped``.
    """

    tokens: int
    steps: int
    batch: int
    batch_tokens: int
    lr: float
    warmup_steps: int
    laws: dict[str, str]
    first_step: int = 0
    parent: str | None = None
    skipped: tuple[int, ...] = ()


def resolve(config: TrainConfig) -> Recipe:
    """Replace ``auto`` in tokens, batch, learning rate and warmup by the laws' values.

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
        lr = step_law_lr(n, tokens)
        laws["lr"] = f"min(1.79 N^-.713 D^.307, {LR_CAP}) with N = {n:,} (Step Law)"
    warmup = config.optim.warmup_steps
    if warmup == "auto":
        warmup = warmup_law(n, batch * context, steps)
        laws["warmup_steps"] = "N tokens, at least 100 steps, at most 5 % (10 % of a short run)"
    return Recipe(
        tokens=steps * batch * context,
        steps=steps,
        batch=batch,
        batch_tokens=batch * context,
        lr=lr,
        warmup_steps=warmup,
        laws=laws,
        first_step=parent["step"] if parent else 0,
        parent=config.branch_from,
        skipped=tuple(parent["skipped"]) if parent else (),
    )


def read_parent(config: TrainConfig) -> dict[str, Any] | None:
    """Return what the checkpoint that a branch continues says of itself, or None for a trunk.

    Raises InputError when the checkpoint is none of a constant-rate run, or when model, seed or one of the optimizer's
    values differ from it.
    """
    cooldown, path = config.optim.schedule == "cooldown", config.branch_from
    if cooldown != (path is not None):
        raise InputError(
            "branch_from: a branch needs both a checkpoint there and optim.schedule cooldown; "
            f"found {path} and {config.optim.schedule}"
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
    wanted = {"model": asdict(config.model), "seed": config.seed}
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
