"""Pretraining with Lightning: one LightningModule, one Trainer, one run folder."""

import dataclasses
import gc
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.checkpoint.lightning import FolderCheckpointIO, random_state, set_random_state
from llama_scale.config import TrainConfig
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.cost.hardware import bf16_peak
from llama_scale.data.loader import StepSampler, TokenWindows, build_loader
from llama_scale.device import attention_backends, device_name
from llama_scale.files import atomic_write, locked, read_jsonl, write_json
from llama_scale.model.llama import Llama
from llama_scale.training.callbacks import Garbage, MetricsLog, Progress, SignalStop
from llama_scale.training.checkpointer import Checkpointer
from llama_scale.training.fsdp import ShardedStrategy, shard
from llama_scale.training.loss_spikes import Guard, Rollback
from llama_scale.training.optim import build_optimizer, lr_ratio
from llama_scale.training.recipe import Recipe
from llama_scale.training.rollback import (
    check_rollbacks,
    left_out,
    precedes,
    read_rollbacks,
    roll_back,
)
from llama_scale.training.run_plan import Run, provenance

VALIDATION_SHARE = 0.1


class Pretraining(pl.LightningModule):
    """Next-token training of a LLaMA model.

    Callbacks leave values for the next row of metrics.jsonl in ``scores`` and the seconds that
    they spent on them in ``seconds_scoring``. ``step_loss`` is the mean of the step's
    micro-batches over all ranks, NaN for a skipped step, and ``grad_norm`` is taken before
    clipping; both are tensors on the device.
    """

    def __init__(
        self,
        model: Llama,
        config: TrainConfig,
        recipe: Recipe,
        shards: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.recipe = model, config, recipe
        self.shards, self.seed = shards, seed
        self.flops_per_token = flops_per_token(config.model)
        self.flops_per_token_full = flops_per_token(config.model, causal=False)
        self.scores: dict[str, float] = {}
        self.seconds_scoring = 0.0
        self.losses: list[Tensor] = []
        self.step_loss: Tensor | float = 0.0
        self.grad_norm: Tensor | float = 0.0
        self.guard = Guard()
        self.peak_flops: float | None = None
        self.random_state: dict[str, Any] | None = None

    def configure_model(self) -> None:
        """Split the weights over the processes where the strategy asks for it.

        They are then on the meta device and get the values of ``seed``, if it is not None.
        """
        if self.shards > 1:
            shard(self.model, self.device_mesh["data_parallel"], self.seed)

    def on_fit_start(self) -> None:
        """Move the guard to the device; look up the device's peak."""
        state, self.guard = self.guard.state_dict(), Guard(self.device)
        self.guard.load_state_dict(state)
        peak = bf16_peak(device_name(self.device.type))
        self.peak_flops = peak and peak * self.trainer.world_size

    def on_train_start(self) -> None:
        """Set the rate of the first step, which a branch takes from its own schedule."""
        for group in self.optimizers().param_groups:
            group["lr"] = self.recipe.lr * (self.lr_at(self.global_step) / self.recipe.lr)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Set the random generators once the loader, which draws from them, has started."""
        if self.random_state is not None:
            set_random_state(self.random_state)
            self.random_state = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy in nats of ``batch`` (B, T + 1)."""
        loss = self.model.loss(batch)
        self.losses.append(loss.detach())
        return loss

    def lr_at(self, step: int) -> float:
        """Return the learning rate of optimizer step ``step`` (from 0)."""
        recipe = self.recipe
        return recipe.lr * lr_ratio(
            step, self.config.optim, recipe.warmup_steps, recipe.steps, recipe.first_step
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW whose rate follows ``lr_at``."""
        optimizer = build_optimizer(self.model, self.config.optim, self.recipe.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.lr_at(step) / self.recipe.lr
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the global norm; let the guard decide whether the step is taken."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        loss = torch.stack(self.losses).mean()
        self.losses = []
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(loss)
            loss = loss / self.trainer.world_size
        skip = self.guard.judge(loss, self.grad_norm)
        optimizer.found_inf = skip  # the fused kernel leaves everything as it is where this is 1
        self.step_loss = torch.where(skip.bool(), torch.nan, loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the guard's and the random generators' states."""
        checkpoint["guard"] = self.guard.state_dict()
        checkpoint["random"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back; the generators' when the first batch is there."""
        self.guard.load_state_dict(checkpoint["guard"])
        self.random_state = checkpoint["random"]


def build_strategy(run: Run) -> Strategy | str:
    """Return how the processes share a step: alone, DDP, or FSDP2."""
    if run.world == 1:
        return "auto"
    if run.layout.shards > 1:
        return ShardedStrategy(run.world)
    return DDPStrategy(gradient_as_bucket_view=True)


def build_trainer(
    run: Run, callbacks: list[pl.Callback], rollbacks: int, skipped: list[int]
) -> pl.Trainer:
    """Assemble the Trainer: ours are the checkpoints, the metrics and the signals."""
    config, recipe = run.config, run.recipe
    meta = {
        "model": dataclasses.asdict(config.model),
        "size": config.size,
        "seed": config.seed,
        "batch_tokens": recipe.batch_tokens,
        "steps_planned": recipe.steps,
        "lr": recipe.lr,
        "warmup_steps": recipe.warmup_steps,
        "schedule": config.optim.schedule,
        "data": str(config.data),
        "data_fingerprint": run.tokens.fingerprint,
        "tokenizer_fingerprint": run.tokens.tokenizer_fingerprint,
        "parent": recipe.parent,
        "rollbacks": rollbacks,
        "skipped": skipped,
    }
    accumulate = recipe.batch // run.world // run.micro_batch
    environments = {
        "torchrun": TorchElasticEnvironment,
        "slurm": lambda: SLURMEnvironment(auto_requeue=False),
        "self": LightningEnvironment,
    }
    plugins: list[Any] = [
        FolderCheckpointIO(meta, run.tokens.folder / "tokenizer.model", accumulate),
        environments[run.place.launcher](),
    ]
    return pl.Trainer(
        accelerator=run.device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=build_strategy(run),
        precision="bf16-mixed" if run.bf16 else "32-true",
        max_steps=recipe.steps,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=config.optim.grad_clip,
        callbacks=callbacks,
        plugins=plugins,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def every(setting: int | str, steps: int, last: int) -> int:
    """Return an interval in steps: ``auto`` is a tenth of the run, 0 is ``last``."""
    return max(1, steps // 10) if setting == "auto" else (setting or last)


def validation_interval(config: TrainConfig, recipe: Recipe) -> int:
    """Return the steps between validations; 0 is at the end only.

    ``auto`` is ten in a run, or as many as a tenth of its compute pays for: a validation token
    costs a third of a training token.
    """
    affordable = int(VALIDATION_SHARE * 3 * recipe.tokens / config.val_tokens)
    if config.val_every == "auto":
        return max(1, recipe.steps // min(10, max(1, affordable)))
    return config.val_every or recipe.steps


def fit(
    run: Run,
    callbacks: list[pl.Callback],
    listeners: list[Callable[[dict], None]] | None = None,
) -> int | None:
    """Train from the newest checkpoint to the end; return the signal that stopped it, or None.

    ``callbacks`` run after each step and before its row is logged and its checkpoint written, so
    their scores stand in the row. ``listeners`` are handed each row of metrics.jsonl. When many
    steps in a row had to be skipped, the run goes back to an earlier checkpoint and leaves their
    batches out; raises InputError when that does not help, or when another process trains the run.
    """
    _quieten()
    if run.place.rank != 0:
        return _fit(run, callbacks, listeners or [])
    run.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{run.folder}: {{}} is training this run; wait for it, stop it, or choose another --run"
    with locked(run.folder / ".lock", busy):
        write_json(run.folder / "provenance.json", provenance(run))
        with atomic_write(run.folder / "config.yaml") as file:
            yaml.safe_dump(run.resolved, file, sort_keys=False)
        checkpoint.clear_leftovers(run.folder)
        return _fit(run, callbacks, listeners or [])


def _fit(
    run: Run, callbacks: list[pl.Callback], listeners: list[Callable[[dict], None]]
) -> int | None:
    """Train, going back when steps fail; return the signal that stopped the run, or None."""
    while True:
        stop, rollback = SignalStop(), Rollback(run.config.max_skips)
        windows = TokenWindows(run.tokens, run.config.model.context_length, run.config.seed)
        _fit_once(run, windows, [stop, rollback, *callbacks], listeners)
        if rollback.first is not None:
            if run.place.rank == 0:
                roll_back(run.folder, windows, run.recipe, rollback.first, rollback.last)
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            check_rollbacks(run.folder)
            if run.place.rank == 0:
                row = read_rollbacks(run.folder)[-1]
                print(
                    f"steps {row['first_step']} to {row['last_step']} were skipped: going back to "
                    f"step {row['from_step']} and leaving their batches out (skipped.jsonl)",
                    flush=True,
                )
            gc.collect()  # the Trainer and the model are in reference cycles
            torch.cuda.empty_cache()
        if rollback.first is None or stop.received is not None:
            return stop.received


def _fit_once(
    run: Run,
    windows: TokenWindows,
    callbacks: list[pl.Callback],
    listeners: list[Callable[[dict], None]],
) -> None:
    """Train from where the run's checkpoints and rollbacks say until a callback stops it."""
    config, recipe, place = run.config, run.recipe, run.place
    rollbacks = read_rollbacks(run.folder)
    resume = newest_standing(run, rollbacks)
    first_step = checkpoint.load_meta(resume)["step"] if resume else 0
    if resume and place.rank == 0:
        print(f"continuing from {resume}", flush=True)
    if first_step == recipe.steps:
        return
    pl.seed_everything(config.seed, verbose=False)
    seed = None if resume else config.seed
    if run.layout.shards > 1:
        with torch.device("meta"):
            model = Llama(config.model)
    else:
        model = Llama.empty_model(config.model)
        if seed is not None:
            model.init_weights(seed)
    for block in model.blocks:
        block.recompute = config.checkpoint_activations == "block"
    if run.compile:
        model.compile_parts()
    skipped = left_out(rollbacks, recipe.skipped)
    (rollback,) = (c for c in callbacks if isinstance(c, Rollback))
    progress = Progress(recipe.steps, run.folder.name)
    log = MetricsLog(run.folder / "metrics.jsonl", config.log_every, [*listeners, progress.listen])
    save_every = every(config.checkpoint_every, recipe.steps, recipe.steps)
    saver = Checkpointer(
        run.folder, save_every, config.keep_last, config.keep_every, config.keep_steps, rollback
    )
    callbacks = [*callbacks, log, progress, saver, Garbage()]
    trainer = build_trainer(run, callbacks, len(rollbacks), skipped)
    sampler = StepSampler(recipe.batch, run.micro_batch, first_step, place.rank, run.world, skipped)
    module = Pretraining(model, config, recipe, run.layout.shards, seed)
    with attention_backends(run.device):
        trainer.fit(module, build_loader(windows, sampler), ckpt_path=resume)


def newest_standing(run: Run, rollbacks: list[dict[str, Any]]) -> Path | None:
    """Return the newest valid checkpoint that no rollback undid, else the branch's parent."""
    for folder in checkpoint.valid(run.folder):
        if precedes(checkpoint.load_meta(folder), rollbacks):
            return folder
    return Path(run.config.branch_from) if run.config.branch_from else None


def write_result(run: Run) -> dict[str, Any]:
    """Write result.json, the run's one row, from its last metrics row; return it."""
    config, recipe = run.config, run.recipe
    count = count_parameters(config.model)
    last = read_jsonl(run.folder / "metrics.jsonl")[-1]
    result = {
        "run": run.folder.name,
        "group": config.group,
        "size": config.size,
        "seed": config.seed,
        "n_params": count.total,
        "n_params_non_embedding": count.non_embedding,
        "n_params_matmul": count.matmul,
        "tokens": recipe.tokens,
        "data_tokens": run.tokens.n_tokens,
        "epochs": recipe.tokens / run.tokens.n_tokens,
        "steps": recipe.steps,
        "batch_tokens": recipe.batch_tokens,
        "lr": recipe.lr,
        "warmup_steps": recipe.warmup_steps,
        "schedule": config.optim.schedule,
        "annealed": config.optim.schedule != "constant",
        "parent": recipe.parent,
        "skips": last["skips"],
        "flops": recipe.tokens * flops_per_token(config.model),
        "flops_full": recipe.tokens * flops_per_token(config.model, causal=False),
        "flops_6nd": 6 * count.non_embedding * recipe.tokens,
        "train_loss": last["loss"],
        "val_loss": last["val_loss"],
        "val_bits_per_byte": last["val_bits_per_byte"],
        "data_fingerprint": run.tokens.manifest["fingerprint"],
        "tokenizer_fingerprint": run.tokens.tokenizer_fingerprint,
        "checkpoint": f"checkpoints/step-{recipe.steps:08d}",
    }
    write_json(run.folder / "result.json", result)
    return result


def _quieten() -> None:
    """Silence Lightning's hints that do not apply to a run like this."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*srun.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)
