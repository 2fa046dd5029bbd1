"""Fine-tuning, of adapters or of all weights, on the trainer of pretraining."""

import json
import math
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scale.checkpoint.folder import weights_sha256
from llama_scale.cost.hardware import DEFAULT_MFU, bf16_peak, describe_machine
from llama_scale.cost.tuning import TuningCost, tuning_memory
from llama_scale.data.examples import ExampleBatch, Examples
from llama_scale.device import attention_backends, device_name, memory_used
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_jsonl, sha256, write_json
from llama_scale.lightning import pl
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.llama import Block, Llama
from llama_scale.model.lora import CONFIG, Model, adapt, config_json, file_names
from llama_scale.model.loss import linear_cross_entropy
from llama_scale.training.callbacks import Listener, Scorer, StepCost
from llama_scale.training.finetune_plan import FinetuneRun
from llama_scale.training.run_plan import code_and_machine
from llama_scale.training.trainer import Pretraining, Workload, train

LOGITS = 1 << 24  # logits held at a time in scoring
REFERENCES = "references.jsonl"


def completion_loss(model: Model, batch: ExampleBatch) -> Tensor:
    """Return the mean nats () of the targets of ``batch``, times its share of the step."""
    hidden = model.hidden(batch.inputs).flatten(0, 1)[batch.rows]  # (M, D)
    head = model.head
    if not len(batch.targets):  # several processes wait for a gradient of each weight, here zero
        return 0.0 * (hidden.sum() + head.weight.sum())
    if head.bias is None:
        return linear_cross_entropy(hidden, head.weight, batch.targets) * batch.share
    return F.cross_entropy(head(hidden).float(), batch.targets) * batch.share


class Finetuning(Pretraining):
    """Training on the completions of examples. A checkpoint holds what is trained alone, under its file's names."""

    model: Any

    @property
    def strict_loading(self) -> bool:
        """The weights of a frozen base are in no checkpoint; ``on_load_checkpoint`` checks what has to be."""
        return False

    def on_train_start(self) -> None:
        """Dropout is part of training, whatever state the base came in."""
        self.model.train()
        super().on_train_start()

    def training_step(self, batch: ExampleBatch, batch_idx: int) -> Tensor:
        """Return the loss of a micro-batch, so scaled that the mean over those of a step is the step's."""
        loss = completion_loss(self.model, batch)
        self.micro_batch_losses.append(loss.detach())
        return loss

    def names(self) -> dict[str, str]:
        """Return the name in the file of each tensor of the model that a checkpoint holds."""
        adapters = file_names(self.model)
        return adapters or {name: name.removeprefix("inner.") for name in self.model.state_dict()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained, and the states beside it."""
        super().on_save_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {f"model.{theirs}": state[f"model.{ours}"] for ours, theirs in self.names().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back; raise InputError if a trained weight is not there."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        names = {ours: f"model.{theirs}" for ours, theirs in self.names().items()}
        checkpoint["state_dict"] = {f"model.{ours}": state[name] for ours, name in names.items() if name in state}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and names[name] not in state:
                raise InputError(f"the checkpoint lacks {names[name]}; use an earlier one")


def build_model(run: FinetuneRun, seed: int | None, weights: bool = True) -> Model:
    """Return the base with what is trained in it: all, or adapters drawn from the run's seed.

    A checkpoint, for which ``seed`` is None, fills those. Without ``weights`` the model is on the meta device.
    """
    model = run.base.load(weights)
    if run.config.method == "lora":
        adapt(model, run.config.lora, run.config.seed)
    elif run.config.method == "base":
        model.requires_grad_(False)
    if run.config.checkpoint_activations == "block":
        if isinstance(model, ForeignModel):
            model.inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for block in model.blocks if isinstance(model, Llama) else []:
            assert isinstance(block, Block)
            block.recompute = True
    return model.train()


def workload(run: FinetuneRun) -> Workload:
    """Return what the trainer needs: a base and examples."""
    files = run.base.files()
    meta = {
        "model": run.count.shape,
        "size": Path(run.base.name).name,
        "seed": run.config.seed,
        "method": run.config.method,
        "base": run.base.meta,
        "format": run.pair_format,
        "batch_tokens": run.recipe.batch_tokens,
        "steps_planned": run.recipe.steps,
        "lr": run.recipe.lr,
        "warmup_steps": run.recipe.warmup_steps,
        "schedule": run.config.optim.schedule,
        "data": None,
        "data_fingerprint": run.fingerprint,
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
    }
    if run.config.method == "lora":
        meta["adapter"] = asdict(run.config.lora)
        files = [*files, run.folder / CONFIG]
        files = [file for file in files if file.name != "config.json"]
    read = run.sampler().counts(run.recipe.steps)[:, 0].tolist()
    return Workload(
        build_model=partial(build_model, run),
        module=Finetuning,
        data=run.examples,
        sampler=lambda first_step, skipped: run.sampler(first_step, skipped),
        meta=meta,
        files=files,
        cost=step_cost(run, read),
        provenance=provenance(run),
        documents=partial(pairs_in_batches, run),
        masked=bool(run.count.shape.get("document_mask")),
    )


def provenance(run: FinetuneRun) -> dict[str, Any]:
    """Return what a reader needs to repeat the run."""
    return code_and_machine(run.device, run.config.deterministic) | {
        "precision": {"value": run.resolved["precision"], "source": run.precision_source},
        "data_fingerprint": run.fingerprint,
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
        "base": run.base.meta,
        "train_sha256": run.train_sha256,
        **run.scored_on,
    }


def step_cost(run: FinetuneRun, read: list[int]) -> StepCost:
    """Return what the metrics log needs to know of a step; ``read`` is tokens of the first 0, 1, ... steps."""
    peak = bf16_peak(device_name(run.device))
    flops = flops_per_token(run)
    peak = peak and peak * run.layout.devices
    return StepCost(run.recipe.batch_tokens, flops, flops, peak, read=read.__getitem__)


def flops_per_token(run: FinetuneRun) -> int:
    """Return training FLOPs of a token, attention's scores left out because pairs are short.

    Each weight of a matrix product takes 2 forward, 2 backward for its input and, if it is trained, 2 for itself.
    """
    frozen, trained = run.count.matmul, run.count.trainable
    if run.config.method == "lora":
        return 4 * frozen + 6 * trained
    return 6 * frozen


def pairs_in_batches(run: FinetuneRun, numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Return the ids of the pairs in the batches of these numbers."""
    sampler = run.sampler()
    return [{"id": run.examples.ids[i]} for number in numbers for i in sampler.step_examples(number)]


def forecast(run: FinetuneRun, mfu: float = DEFAULT_MFU) -> TuningCost:
    """Tell what the run costs on this machine: the memory of its largest micro-batch, and the time of its FLOPs."""
    config = run.config
    model = build_model(run, None, weights=False)
    sampler, lengths = run.sampler(), run.examples.lengths
    micro = islice(sampler, sampler.steps_per_epoch * run.layout.micro_steps)
    largest = max((part.examples for (part,) in micro), key=lambda part: len(part) * lengths[part].max(initial=0))
    batch = run.examples.batch(largest)
    memory = tuning_memory(
        model,
        completion_loss,  # type: ignore[arg-type]
        batch,
        head=model.head,
        targets=len(batch.targets),
        device=run.device,
        bf16=run.bf16,
        micro_steps=run.layout.micro_steps,
    )
    machine = describe_machine(None, mfu, run.device, config.threads, config.memory_share)
    tokens = run.recipe.tokens
    flops = float(tokens * flops_per_token(run))
    count = run.count.total + (run.count.trainable if config.method == "lora" else 0)
    devices = run.layout.devices
    return TuningCost(count, run.count.trainable, run.recipe.steps, tokens, flops, memory, machine, devices)


def write_adapter_config(run: FinetuneRun) -> None:
    """Write adapter_config.json into the run folder, from where each checkpoint has its copy."""
    model = run.base.load(weights=False)
    adapt(model, run.config.lora, run.config.seed)
    write_json(run.folder / CONFIG, config_json(model, run.config.lora, run.base.meta["name"]))


@dataclass(frozen=True)
class ReferenceScore:
    """Nats of a held-out completion's ``tokens``, which stand for ``bytes``, and of the document end after it."""

    id: str
    nats: float
    tokens: int
    bytes: int
    end_nats: float

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte of the completion."""
        return self.nats / math.log(2) / self.bytes


@torch.no_grad()
def score_examples(model: Model, examples: Examples, batch_tokens: int = 8_192) -> list[ReferenceScore]:
    """Score the completions of ``examples``, teacher-forced, in their order; the model's mode is restored."""
    training, device = model.training, model.embedding.weight.device
    model.eval()
    longest_first = sorted(range(len(examples)), key=lambda i: -len(examples.tokens[i]))
    scores: dict[int, ReferenceScore] = {}
    start = 0
    while start < len(longest_first):
        rows = max(1, batch_tokens // (len(examples.tokens[longest_first[start]]) - 1))
        chosen = longest_first[start : start + rows]
        start += rows
        batch = ExampleBatch(*(value.to(device) for value in examples.batch(chosen)))
        hidden = model.hidden(batch.inputs).flatten(0, 1)[batch.rows]  # (M, D)
        part = max(1, LOGITS // model.head.weight.shape[0])
        pairs = zip(hidden.split(part), batch.targets.split(part), strict=True)
        nats = torch.cat([F.cross_entropy(model.head(h).float(), t, reduction="none") for h, t in pairs])  # (M,)
        for i, own in zip(chosen, nats.double().cpu().split(examples.targets[chosen].tolist()), strict=True):
            own = own[
                -int(len(examples.tokens[i]) - examples.prompts[i]) :
            ]  # without the prompt's, if those are targets
            name, size = examples.ids[i], int(examples.sizes[i])
            scores[i] = ReferenceScore(name, own[:-1].sum().item(), len(own) - 1, size, own[-1].item())
    model.train(training)
    return [scores[i] for i in range(len(examples))]


def summary(scores: list[ReferenceScore]) -> dict[str, float]:
    """Return val_loss (nats per target token, ends included), val_bits_per_byte (ends left out) and val_end_nats."""
    nats, ends = sum(score.nats for score in scores), sum(score.end_nats for score in scores)
    return {
        "val_loss": (nats + ends) / sum(score.tokens + 1 for score in scores),
        "val_bits_per_byte": nats / math.log(2) / sum(score.bytes for score in scores),
        "val_end_nats": ends / len(scores),
    }


class HeldOut:
    """Scores held-out pairs every ``every`` steps (0: never) and at the end, as a scorer of the metrics log.

    The last scores of each pair are written to references.jsonl in ``folder``.
    """

    def __init__(self, examples: Examples, every: int, folder: Path) -> None:
        self.examples, self.every, self.folder = examples, every, folder

    def score(self, model: Model, write: bool = True) -> dict[str, float]:
        """Return val_loss, val_bits_per_byte and val_end_nats of ``model``."""
        scores = score_examples(model, self.examples)
        if write:
            with atomic_write(self.folder / REFERENCES) as file:
                file.writelines(json.dumps(asdict(score)) + "\n" for score in scores)
        return summary(scores)

    def __call__(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> dict[str, float]:
        """Return the scores when it is time, else nothing."""
        last = step == trainer.max_steps
        if not last and (not self.every or step % self.every):
            return {}
        with trainer.precision_plugin.forward_context():
            return self.score(module.model, write=last and trainer.is_global_zero)  # type: ignore[arg-type]


def tune(run: FinetuneRun, scorers: Sequence[Scorer], listeners: Sequence[Listener]) -> int | None:
    """Train from the newest checkpoint to the end; return the signal that stopped it, or None."""
    if run.config.method == "lora" and run.process.rank == 0:
        write_adapter_config(run)
    return train(run, workload(run), scorers=scorers, listeners=listeners)


def score_base(run: FinetuneRun, scorers: Sequence[Any]) -> dict[str, float]:
    """Return what the ``scorers`` find of the base as it is."""
    model = run.base.load().to(run.device)
    scores: dict[str, float] = {}
    with torch.autocast(run.device, torch.bfloat16, enabled=run.bf16), attention_backends(run.device):
        for scorer in scorers:
            scores |= scorer.score(model)
    return scores


def peak_memory(device: str) -> int:
    """Return the most bytes of tensors on the GPU, or the most that this process has held."""
    if device == "cuda":
        return memory_used(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_result(run: FinetuneRun, scores: dict[str, float] | None = None) -> dict[str, Any]:
    """Write result.json, the run's one row, of its last metrics row or, of a base, its ``scores``; return it."""
    config, recipe = run.config, run.recipe
    rows = read_jsonl(run.folder / "metrics.jsonl") if recipe.steps else []
    counts = run.sampler().counts(recipe.steps)[-1]
    before = [0, *(row["tokens"] for row in rows)]
    seconds = sum(
        (row["tokens"] - tokens) / row["tokens_per_second"] for row, tokens in zip(rows, before, strict=False)
    )
    checkpoint = f"checkpoints/step-{recipe.steps:08d}"
    weights = [run.folder / checkpoint / name for name in ("adapter_model.safetensors", "model.safetensors")]
    result = {
        "run": run.folder.name,
        "group": config.group,
        "base": config.base,
        "base_kind": run.base.kind,
        "base_sha256": run.base.weights_sha256,
        "model_type": run.count.kind,
        "method": config.method,
        "rank": config.lora.rank if config.method == "lora" else None,
        "alpha": config.lora.alpha if config.method == "lora" else None,
        "scale": config.lora.scale if config.method == "lora" else None,
        "targets": config.lora.targets if config.method == "lora" else None,
        "format": run.pair_format,
        "seed": config.seed,
        "draw": config.draw,
        "order": config.order,
        "only": config.only,
        "examples": len(run.examples),
        "dropped": run.examples.dropped,
        "batch": config.batch,
        "steps": recipe.steps,
        "epochs": recipe.steps / run.sampler().steps_per_epoch,
        "lr": recipe.lr,
        "schedule": config.optim.schedule,
        "n_params": run.count.total,
        "trainable_params": run.count.trainable,
        "tokens": int(counts[0]),
        "completion_tokens": int(counts[1]),
        "flops": int(counts[0]) * flops_per_token(run) if recipe.steps else 0,
        "train_loss": rows[-1]["loss"] if rows else None,
        "skips": rows[-1]["skips"] if rows else 0,
        "seconds": seconds,
        "peak_memory": peak_memory(run.device),
        "weights_bytes": next((path.stat().st_size for path in weights if path.is_file()), 0),
        "val_examples": len(run.validation) if run.validation else 0,
        "val_dropped": run.validation.dropped if run.validation else 0,
        "device": device_name(run.device),
        "precision": "bf16" if run.bf16 else "fp32",
        "data_fingerprint": run.fingerprint,
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
        "checkpoint": checkpoint if recipe.steps else None,
        "weights_sha256": weights_sha256(run.folder / checkpoint) if recipe.steps else run.base.weights_sha256,
        "train_sha256": run.train_sha256,
        **run.scored_on,
        "references_sha256": sha256(run.folder / REFERENCES) if run.validation else None,
    }
    result |= scores or {name: value for name, value in rows[-1].items() if name.startswith(("val_", "retained_"))}
    write_json(run.folder / "result.json", result, sealed=True)
    return result
