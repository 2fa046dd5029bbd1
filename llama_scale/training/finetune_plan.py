"""One fine-tuning run as decided: base, examples, steps and rate, checked against the run's past."""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llama_scale.checkpoint.base import Base, find_base
from llama_scale.config import FinetuneConfig, LoraSettings, TuneOptimConfig
from llama_scale.cost.hardware import DEFAULT_MFU, Machine, describe_machine
from llama_scale.cost.layout import Layout
from llama_scale.data.examples import (
    Examples,
    ExampleSampler,
    by_complexity,
    encode_pairs,
    pair_format,
    read_pairs,
    with_values,
)
from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.data.shards import read_manifest
from llama_scale.device import pick_device, pick_precision, set_threads
from llama_scale.errors import InputError
from llama_scale.files import sha256
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.llama import Llama
from llama_scale.model.lora import find_targets, linear_layers
from llama_scale.text import count_in_name
from llama_scale.training.distributed import ProcessRank, find_rank, forget_other_launchers
from llama_scale.training.recipe import Recipe
from llama_scale.training.run_plan import check_same_run, read_mapping

LORA_FACTOR = 10  # between the best rates of adapters and of all weights
CURRICULA = {"simple_first": 1, "complex_first": -1}  # orders by complexity, and the step through it
TOKENS_AT_A_TIME = {"cpu": 4_096, "cuda": 16_384}  # in a forward pass, padding included


def tuning_lr(width: int, lora: bool) -> float:
    """Peak learning rate 5e-5 (2000 / width)^.781, ten times that for adapters.

    ``width`` is that of the residual stream. The rule of tinker-cookbook for LLaMA models; a sweep decides.
    """
    return 5e-5 * (2_000 / width) ** 0.781 * (LORA_FACTOR if lora else 1)


@dataclass(frozen=True)
class ModelCount:
    """Parameters of a base and of what is trained in it."""

    width: int
    inner: int  # most inputs or outputs of a layer
    context_length: int
    total: int
    trainable: int
    matmul: int  # weights that each token is multiplied with, the head included
    kind: str  # what the model is called: llama, gpt2, ...
    shape: dict[str, Any]


@dataclass(frozen=True)
class FinetuneRun:
    """Everything a fine-tuning needs, with every ``auto`` decided. ``fingerprint`` is that of base and examples."""

    config: FinetuneConfig
    recipe: Recipe
    folder: Path
    base: Base
    tokenizer: AnyTokenizer
    examples: Examples
    validation: Examples | None
    count: ModelCount
    pair_format: str | None
    fingerprint: str
    device: str
    bf16: bool
    precision_source: str
    layout: Layout
    process: ProcessRank
    machine: Machine = field(repr=False)

    @property
    def resolved(self) -> dict[str, Any]:
        """The configuration as written to config.yaml."""
        fields = asdict(self.config)
        fields["optim"] |= {"lr": self.recipe.lr, "warmup_steps": self.recipe.warmup_steps}
        return fields | {
            "run": str(self.folder),
            "steps": self.recipe.steps,
            "precision": "bf16" if self.bf16 else "fp32",
            "micro_batch": self.layout.micro_batch,
        }

    @cached_property
    def train_sha256(self) -> str:
        """The hash of the file of pairs, as it was when first asked for: before training."""
        return sha256(self.config.train)

    @cached_property
    def scored_on(self) -> dict[str, str | None]:
        """What the scores are of: hashes of the held-out pairs, of the base's own data and of its configuration."""
        held_out, retain = self.config.validation, self.config.retain
        return {
            "base_config_sha256": self.base.meta.get("config_sha256"),
            "validation_sha256": sha256(held_out) if held_out else None,
            "retain_fingerprint": read_manifest(retain)["fingerprint"] if retain else None,
        }

    def sampler(self, first_step: int = 0, skipped: list[int] | None = None) -> ExampleSampler:
        """Return the order of this process's micro-batches."""
        return ExampleSampler(
            self.examples,
            self.config.batch,
            self.layout.micro_steps,
            self.config.seed,
            shuffled=self.config.order == "shuffled",
            start_step=first_step,
            rank=self.process.rank,
            world=self.process.world,
            skipped=skipped or (),
        )


def plan_finetune(config: FinetuneConfig) -> FinetuneRun:
    """Decide every ``auto`` and check base, pairs, targets and the run folder's past; raise InputError on a misfit."""
    set_threads(config.threads)
    machine = describe_machine(None, DEFAULT_MFU, pick_device(config.device), config.threads, config.memory_share)
    device = machine.device
    if device == "cuda" and config.devices > torch.cuda.device_count():
        raise InputError(f"devices: {config.devices} asked for, this machine has {torch.cuda.device_count()}")
    process = find_rank(config.devices, config.nodes)
    forget_other_launchers(process)
    base = find_base(config.base, config.bases)
    tokenizer = base.tokenizer()
    count = count_model(base.load(weights=False), config)
    if tokenizer.eos >= count.shape["vocab_size"]:
        raise InputError(f"base: its tokenizer ends documents with id {tokenizer.eos} and the model has "
                         f"{count.shape['vocab_size']} ids; they are not of one model")  # fmt: skip
    examples, validation, named = read_examples(config, tokenizer, count.context_length)
    layout = pick_micro_batch(config, int(examples.lengths.max()), device)
    recipe = resolve_recipe(config, examples, count)
    fingerprint = hashlib.sha256(f"{base.weights_sha256}\n{examples.fingerprint}".encode()).hexdigest()
    stem = Path(config.base).name.removesuffix(".gguf")
    name = f"{stem}-{config.method}-{count_in_name(len(examples))}-seed{config.seed}"
    folder = Path(config.run or f"runs/{name}")
    config = as_begun(config, folder)
    bf16, why = pick_precision(config.precision, device, count.width, count.inner)
    run = FinetuneRun(
        config=config,
        recipe=recipe,
        folder=folder,
        base=base,
        tokenizer=tokenizer,
        examples=examples,
        validation=validation,
        count=count,
        pair_format=named,
        fingerprint=fingerprint,
        device=device,
        bf16=bf16,
        precision_source=why,
        layout=layout,
        process=process,
        machine=machine,
    )
    parts = {"optim": TuneOptimConfig, "lora": LoraSettings}
    data = f"{config.train} or {config.base}"
    check_same_run(run.folder, run.resolved, FinetuneConfig, parts=parts, fingerprint=fingerprint, data=data)
    check_same_scores(run)
    return run


def check_same_scores(run: FinetuneRun) -> None:
    """Raise InputError if the run's folder has scores of another model or method, or of other text than now asked for.

    A base, which trains nothing, has no other record than its result.
    """
    asked = run.scored_on | {"data_fingerprint": run.fingerprint, "method": run.config.method}
    asked |= {} if run.config.precision == "auto" else {"precision": "bf16" if run.bf16 else "fp32"}
    of = {
        "validation_sha256": f"the held-out pairs, {run.config.validation}",
        "retain_fingerprint": f"the base's own text, {run.config.retain}",
        "base_config_sha256": f"config.json of {run.config.base}",
        "data_fingerprint": f"{run.config.train} or {run.config.base}",
    }
    for path in (run.folder / "result.json", run.folder / "provenance.json"):
        recorded = read_mapping(path) if path.exists() else {}
        for name in (name for name in asked if name in recorded):
            if isinstance(recorded[name], str | None) and recorded[name] != asked[name]:
                now = f"{of[name]}, changed since" if name in of else f"{name} is {recorded[name]}, now {asked[name]}"
                raise InputError(f"{path}: {now}; choose another run, or delete the folder to start over")


def as_begun(config: FinetuneConfig, folder: Path) -> FinetuneConfig:
    """Return the settings with the precision that a run that has begun measured to be best, so that it ends in it."""
    path = folder / "config.yaml"
    if config.precision != "auto" or not path.exists():
        return config
    return replace(config, precision=read_mapping(path)["precision"])


def count_model(model: Llama | ForeignModel, config: FinetuneConfig) -> ModelCount:
    """Count the parameters of a base, which may be on the meta device, and those that ``config`` trains.

    An adapter of rank r has r (inputs + outputs) parameters for each layer that it adapts.
    """
    layers = linear_layers(model)
    sizes = {name: sum(module.weight.shape) for name, module in layers.items()}
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = {"full": total, "base": 0}.get(config.method)
    if trainable is None:
        trainable = sum(config.lora.rank * sizes[name] for name in find_targets(model, config.lora))
    foreign = isinstance(model, ForeignModel)
    shape = asdict(model.config)
    kind = model.inner.config.model_type if foreign else "llama"
    return ModelCount(
        width=model.config.d_model,
        inner=max(max(module.weight.shape) for module in layers.values()),
        context_length=model.config.context_length,
        total=total,
        trainable=trainable,
        matmul=sum(module.weight.numel() for module in layers.values()) + model.head.weight.numel(),
        kind=kind,
        shape=shape | ({"model_type": kind} if foreign else {}),
    )


def read_examples(
    config: FinetuneConfig, tokenizer: AnyTokenizer, context: int
) -> tuple[Examples, Examples | None, str | None]:
    """Return the training and the validation examples and the format of their pairs."""
    if config.max_tokens and config.max_tokens > context:
        raise InputError(f"max_tokens: {config.max_tokens} asked for and the base's context is {context}")
    longest = config.max_tokens or context
    pairs = read_pairs(config.train)
    named = pair_format(pairs, config.train)
    examples = encode_pairs(pairs, tokenizer, longest, config.prompt_loss, config.train)
    if config.only:
        examples = examples.select(with_values(pairs, examples.ids, config.only, config.train))
    if config.examples is not None:
        examples = examples.subset(config.examples, config.draw)
    if config.order in CURRICULA:
        numbers = by_complexity(pairs, examples.ids, config.seed, config.train)
        examples = examples.select(numbers[:: CURRICULA[config.order]])
    if config.validation is None:
        return examples, None, named
    held_out = read_pairs(config.validation)
    pair_format([pairs[0], held_out[0]], f"{config.train} and {config.validation}")
    if same := {pair.id for pair in held_out} & set(examples.ids):
        raise InputError(f"validation: {min(same)!r:.60} of {config.validation} is trained on too; hold it out")
    return examples, encode_pairs(held_out, tokenizer, context, source=config.validation), named


def pick_micro_batch(config: FinetuneConfig, longest: int, device: str) -> Layout:
    """Return how a step is laid out: as many examples at a time as the device computes well with.

    ``longest`` is the length of the longest example.
    """
    devices = config.devices * config.nodes
    share = -(-config.batch // devices)
    size = config.micro_batch
    if size == "auto":
        parts = -(-share // max(1, TOKENS_AT_A_TIME[device] // longest))
        size = -(-share // parts)
    size = min(size, share)
    return Layout(devices, 1, size, -(-share // size), config.checkpoint_activations)


def resolve_recipe(config: FinetuneConfig, examples: Examples, count: ModelCount) -> Recipe:
    """Replace ``auto`` in the rate and the warmup, and epochs by steps."""
    laws = {}
    per_epoch = -(-len(examples) // config.batch)
    steps = 0 if config.method == "base" else (config.steps or config.epochs * per_epoch)
    lr = config.optim.lr
    if lr == "auto":
        lr = tuning_lr(count.width, config.method == "lora")
        times = f"{LORA_FACTOR} x " if config.method == "lora" else ""
        laws["lr"] = f"{times}5e-5 (2000 / {count.width})^.781 (tinker-cookbook); a sweep decides"
    warmup = config.optim.warmup_steps
    if warmup == "auto":
        warmup = steps // 20
        laws["warmup_steps"] = "a twentieth of the run"
    # Each step of an epoch reads what its order gives it; in all epochs the same examples.
    tokens = round(steps * float(examples.lengths.sum()) / per_epoch)
    return Recipe(
        tokens=tokens,
        steps=steps,
        batch=config.batch,
        batch_tokens=round(tokens / max(1, steps)),
        lr=lr,
        warmup_steps=warmup,
        init_std=0.0,
        laws=laws,
    )


def describe(run: FinetuneRun) -> str:
    """Return the run's settings in a few lines."""
    config, recipe, count, examples = run.config, run.recipe, run.count, run.examples
    targets, inputs = int(examples.targets.sum()), int(examples.lengths.sum())
    dropped = f", {examples.dropped} longer pairs left out" if examples.dropped else ""
    lora = config.lora
    adapters = f" (rank {lora.rank}, {lora.targets}, scale {lora.scale:g}, dropout {lora.dropout:g})"
    law = f"  [{recipe.laws['lr']}]" if "lr" in recipe.laws else ""
    return "\n".join(
        [
            f"{config.base} ({count.kind}) -> {run.folder} ({run.device}, {'bf16' if run.bf16 else 'fp32'})",
            f"  parameters    {count.total:,}, of which {count.trainable:,} are trained"
            f"{adapters if config.method == 'lora' else ''}",
            f"  examples      {len(examples):,}{dropped}; format {run.pair_format or 'not named'}",
            f"  tokens        {inputs:,} an epoch, {targets:,} of them trained on ({targets / inputs:.0%})",
            f"  steps         {recipe.steps:,} of {config.batch} examples ({run.layout})",
            f"  learning rate {recipe.lr:.3g}, {config.optim.schedule}, warmup {recipe.warmup_steps}{law}",
        ]
    )
