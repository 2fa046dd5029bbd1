"""Training with Lightning: one LightningModule, one Trainer, one run folder."""

import dataclasses
import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.checkpoint.lightning import FolderCheckpointIO, random_state, set_random_state
from llama_scale.config import FinetuneConfig, TrainConfig, write_yaml
from llama_scale.cost.accounting import flops_per_token
from llama_scale.cost.hardware import bf16_peak
from llama_scale.cost.layout import Layout
from llama_scale.data.loader import StepSampler, TokenWindows, build_loader
from llama_scale.device import attention_backends, device_name
from llama_scale.files import append_jsonl, locked, write_json
from llama_scale.lightning import environments, pl, strategies
from llama_scale.model.llama import Block, Llama
from llama_scale.training.callbacks import (
    GarbageCollection,
    Listener,
    MetricsLog,
    Progress,
    Scorer,
    SlowSteps,
    StepCost,
    StepMetrics,
    StopOnSignal,
    unwritten_rows,
)
from llama_scale.training.checkpointer import Checkpointer
from llama_scale.training.distributed import ProcessRank
from llama_scale.training.fsdp import ShardedStrategy, shard
from llama_scale.training.loss_spikes import SkipLimit, SpikeGuard
from llama_scale.training.optim import build_optimizer, clip_in_step, lr_ratio
from llama_scale.training.recipe import Recipe
from llama_scale.training.rollback import (
    DocumentsOf,
    documents_in_batches,
    last_rollback,
    newest_checkpoint,
    read_rollbacks,
    record_rollback,
    skipped_batches,
)
from llama_scale.training.run_plan import Run, checkpoint_interval, provenance


class TrainingRun(Protocol):
    """What the trainer needs of a run, of pretraining or of fine-tuning, with every ``auto`` decided."""

    @property
    def config(self) -> TrainConfig | FinetuneConfig: ...  # noqa: D102
    @property
    def recipe(self) -> Recipe: ...  # noqa: D102
    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def bf16(self) -> bool: ...  # noqa: D102
    @property
    def layout(self) -> Layout: ...  # noqa: D102
    @property
    def process(self) -> ProcessRank: ...  # noqa: D102
    @property
    def resolved(self) -> dict[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Workload:
    """What a run trains, on what.

    Attributes:
        build_model: Returns the model, drawn from a seed, or to be filled from a checkpoint where that is None.
        module: Class of its steps.
        data: What the loader reads.
        sampler: Returns what each micro-batch is, from a step on and without the skipped batches.
        meta: What each checkpoint's manifest says of the run, beside what the trainer adds.
        files: Copied into each checkpoint, such as the tokenizer.
        cost: Of a step.
        provenance: What the run was made with.
        documents: Tells what was in given batches.
        parent: Checkpoint of another run that this one continues.
        masked: Whether attention has a mask of its own.
    """

    build_model: Callable[[int | None], nn.Module]
    module: "type[Pretraining]"
    data: Dataset
    sampler: Callable[[int, list[int]], Iterable[list]]
    meta: dict[str, Any]
    files: Sequence[Path]
    cost: StepCost
    provenance: dict[str, Any]
    documents: DocumentsOf
    parent: Path | None = None
    masked: bool = False


class Pretraining(pl.LightningModule):
    """Next-token training of a LLaMA model.

    Each of ``metrics_listeners`` is handed the StepMetrics of each optimizer step, before the callbacks of that step.
    Weights that are split over several processes are drawn from ``seed``, or left to a checkpoint if it is None.
    """

    def __init__(
        self,
        model: nn.Module,
        run: TrainingRun,
        metrics_listeners: Sequence[Callable[[StepMetrics], None]],
        seed: int | None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.config, self.recipe, self.shards = run.config, run.recipe, run.layout.shards
        self.metrics_listeners, self.seed = metrics_listeners, seed
        self.micro_batch_losses: list[Tensor] = []  # () each, of the step that is under way
        self.spike_guard = SpikeGuard()
        self.loaded_random_state: dict[str, Any] | None = None

    def configure_model(self) -> None:
        """Split the weights over the processes where the strategy asks for it: they are then on the meta device."""
        if self.shards > 1:
            assert self.device_mesh is not None, "the sharded strategy has made it"
            shard(self.model, self.device_mesh["data_parallel"], self.seed)

    def on_fit_start(self) -> None:
        """Move the spike guard to the device."""
        self.spike_guard = self.spike_guard.to(self.device)

    def on_train_start(self) -> None:
        """Set the rate of the first step, which a branch takes from its own schedule."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.recipe.lr * (self.lr_at(self.global_step) / self.recipe.lr)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Set the random generators once the loader, which draws from them, has started."""
        if self.loaded_random_state is not None:
            set_random_state(self.loaded_random_state, self.device.type)
            self.loaded_random_state = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy in nats of ``batch`` (B, T + 1)."""
        loss = self.model.loss(batch)
        self.micro_batch_losses.append(loss.detach())
        return loss

    def lr_at(self, step: int) -> float:
        """Return the learning rate of optimizer step ``step`` (from 0)."""
        recipe = self.recipe
        return recipe.lr * lr_ratio(step, self.config.optim, recipe.warmup_steps, recipe.steps, recipe.first_step)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW whose rate follows ``lr_at``."""
        optimizer = build_optimizer(self.model, self.config.optim, self.recipe.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_at(step) / self.recipe.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the global norm; let the spike guard decide whether the step is taken."""
        norm = clip_in_step(optimizer, self.parameters(), gradient_clip_val)  # ()
        loss = torch.stack(self.micro_batch_losses).mean()  # (micro-batches,) -> ()
        self.micro_batch_losses = []
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(loss)
            loss = loss / self.trainer.world_size
        skip = self.spike_guard.check_step(loss, norm)  # ()
        optimizer.found_inf = skip  # the fused kernel leaves everything as it is where this is 1
        metrics = StepMetrics(
            loss=torch.where(skip.bool(), torch.nan, loss),
            grad_norm=norm,
            lr=self.lr_at(self.global_step),
            skips=self.spike_guard.skipped,
            skips_in_row=self.spike_guard.in_row,
        )
        for listen in self.metrics_listeners:
            listen(metrics)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, then free the gradients.

        Lightning clears them just before the next backward pass, so that they would lie beside the activations of the
        forward pass before it: 4 bytes a parameter more at the peak of a step of one micro-batch.
        """
        super().optimizer_step(*args, **kwargs)
        self.trainer.optimizers[0].zero_grad()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states of the spike guard and of the random generators."""
        checkpoint["guard"] = self.spike_guard.state_dict()
        checkpoint["random"] = random_state(self.device.type)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back; the generators' when the first batch is there."""
        self.spike_guard.load_state_dict(checkpoint["guard"])
        self.loaded_random_state = checkpoint["random"]


def build_strategy(run: TrainingRun) -> strategies.Strategy | str:
    """Return how the processes share a step: alone, DDP, or FSDP2."""
    if run.layout.shards > 1 and isinstance(run.config, TrainConfig):
        return ShardedStrategy(run.layout.shards, run.config.model.tie_embeddings)
    return strategies.DDPStrategy(gradient_as_bucket_view=True) if run.layout.devices > 1 else "auto"


def checkpoint_meta(run: Run) -> dict[str, Any]:
    """Return what each checkpoint's manifest says of its run."""
    config, recipe = run.config, run.recipe
    return {
        "model": dataclasses.asdict(config.model),
        "size": config.size,
        "seed": config.seed,
        "data_seed": config.order_seed,
        "batch_tokens": recipe.batch_tokens,
        "steps_planned": recipe.steps,
        "lr": recipe.lr,
        "warmup_steps": recipe.warmup_steps,
        "schedule": config.optim.schedule,
        "data": str(config.data),
        "data_fingerprint": run.tokens.fingerprint,
        "tokenizer_fingerprint": run.tokens.tokenizer_fingerprint,
        "parent": recipe.parent,
    }


def pretraining(run: Run) -> Workload:
    """Return a model of ``run``'s shape on its token shards."""
    config, recipe, process = run.config, run.recipe, run.process
    windows = TokenWindows(run.tokens, config.model.context_length, config.order_seed)

    def sampler(first_step: int, skipped: list[int]) -> StepSampler:
        return StepSampler(recipe.batch, run.layout.micro_batch, first_step, process.rank, process.world, skipped)

    return Workload(
        build_model=partial(build_model, run),
        module=Pretraining,
        data=windows,
        sampler=sampler,
        meta=checkpoint_meta(run),
        files=[run.tokens.folder / "tokenizer.model"],
        cost=step_cost(run),
        provenance=provenance(run),
        documents=partial(documents_in_batches, windows, recipe.batch),
        parent=Path(config.branch_from) if config.branch_from else None,
        masked=config.model.document_mask,
    )


def build_trainer(run: TrainingRun, callbacks: list[pl.Callback], checkpoint_io: FolderCheckpointIO) -> pl.Trainer:
    """Assemble the Trainer; checkpoints, metrics and signals are ours."""
    config = run.config
    launchers = {
        "torchrun": environments.TorchElasticEnvironment,
        "slurm": lambda: environments.SLURMEnvironment(auto_requeue=False),
        "self": environments.LightningEnvironment,
    }
    plugins: list[Any] = [checkpoint_io, launchers[run.process.launcher]()]
    trainer = pl.Trainer(
        accelerator=run.device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=build_strategy(run),
        precision="bf16-mixed" if run.bf16 else "32-true",
        max_steps=run.recipe.steps,
        accumulate_grad_batches=checkpoint_io.accumulate,
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
    # Signals are StopOnSignal's. Lightning would broadcast whether one has come and wait for the device to know, before
    # each micro-batch; its handler, there before ours, would broadcast alone.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    trainer._signal_connector.register_signal_handlers = lambda: None
    return trainer


def step_cost(run: Run) -> StepCost:
    """Return what the metrics log needs to know of a step."""
    peak = bf16_peak(device_name(run.device))
    return StepCost(
        tokens=run.recipe.batch_tokens,
        flops_per_token=flops_per_token(run.config.model),
        flops_per_token_full=flops_per_token(run.config.model, causal=False),
        peak_flops=peak and peak * run.layout.devices,
    )


def fit(
    run: Run, callbacks: Sequence[pl.Callback] = (), scorers: Sequence[Scorer] = (), listeners: Sequence[Listener] = ()
) -> int | None:
    """Pretrain from the newest checkpoint to the end, as ``train`` does."""
    return train(run, pretraining(run), callbacks, scorers, listeners)


def train(
    run: TrainingRun,
    workload: Workload,
    callbacks: Sequence[pl.Callback] = (),
    scorers: Sequence[Scorer] = (),
    listeners: Sequence[Listener] = (),
) -> int | None:
    """Train from the newest checkpoint to the end; return the signal that stopped it, or None.

    After each step ``callbacks`` run, then ``scorers``, whose scores stand in the step's row of metrics.jsonl, then its
    checkpoint is written. ``listeners`` are handed each row. When many steps in a row had to be skipped, the run goes
    back to an earlier checkpoint and leaves their batches out; raises TrainingDiverged when that does not help, and
    InputError when another process trains the run.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*srun.*", ".*LeafSpec.*"):  # hints that do not apply here
        warnings.filterwarnings("ignore", message)
    own_folder = _own_folder(run, workload) if run.process.rank == 0 else nullcontext()
    with own_folder, _deterministic(run.config.deterministic):
        while True:
            stop, skip_limit = _fit_once(run, workload, callbacks, scorers, listeners)
            if skip_limit.first is not None:
                _go_back(run, workload, skip_limit.first, skip_limit.last)
            if skip_limit.first is None or stop.received is not None:
                return stop.received


@contextmanager
def _own_folder(run: TrainingRun, workload: Workload) -> Iterator[None]:
    """Keep other processes out of the run's folder and write what the run is."""
    run.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{run.folder}: {{}} is training this run; wait for it, stop it, or choose another run"
    with locked(run.folder / ".lock", busy):
        write_json(run.folder / "provenance.json", workload.provenance, sealed=True)
        write_yaml(run.folder / "config.yaml", run.resolved)
        checkpoint.clear_leftovers(run.folder)
        yield


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Let torch choose kernels whose results are the same each time, if ``wanted``.

    cuDNN's attention is then left out and flash attention adds up in a fixed order.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read with the first product on the device
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _go_back(run: TrainingRun, workload: Workload, first: int, last: int) -> None:
    """Leave the batches of steps ``first`` to ``last`` out; raise InputError if that was tried too often."""
    if run.process.rank == 0:
        record_rollback(run.folder, workload.documents, run.recipe, first, last)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    row = last_rollback(run.folder)
    if run.process.rank == 0:
        skipped, start = f"steps {row['first_step']} to {row['last_step']} were skipped", row["from_step"]
        print(f"{skipped}: going back to step {start} and leaving their batches out (skipped.jsonl)", flush=True)
    gc.collect()  # the Trainer and the model are in reference cycles
    torch.cuda.empty_cache()


def _fit_once(
    run: TrainingRun,
    workload: Workload,
    callbacks: Sequence[pl.Callback],
    scorers: Sequence[Scorer],
    listeners: Sequence[Listener],
) -> tuple[StopOnSignal, SkipLimit]:
    """Train from where the run's checkpoints and rollbacks say; return what may have stopped it before the end."""
    config, recipe, process = run.config, run.recipe, run.process
    stop, skip_limit = StopOnSignal(), SkipLimit(config.max_skips)
    rollbacks = read_rollbacks(run.folder)
    resume = newest_checkpoint(run.folder, rollbacks)
    resume = resume or workload.parent
    first_step = checkpoint.load_meta(resume)["step"] if resume else 0
    if resume and process.rank == 0:
        print(f"continuing from {resume}", flush=True)
    if resume and first_step == recipe.steps:
        if process.rank == 0:
            append_jsonl(run.folder / "metrics.jsonl", unwritten_rows(checkpoint.load_rest(resume)))
        return stop, skip_limit
    pl.seed_everything(config.seed, verbose=False)
    seed = None if resume else config.seed
    skipped = skipped_batches(rollbacks, recipe.skipped)
    make_room = partial(checkpoint.make_room, run.folder, config.keep_every, config.keep_steps)
    cost, meta = workload.cost, workload.meta | {"rollbacks": len(rollbacks), "skipped": skipped}
    checkpoint_io = FolderCheckpointIO(
        meta, workload.files, tokens_after=cost.tokens_after, accumulate=run.layout.micro_steps, make_room=make_room
    )
    progress = Progress(recipe.steps, run.folder.name)
    path, listeners = run.folder / "metrics.jsonl", [*listeners, progress.listen]
    if process.rank == 0:
        listeners.append(SlowSteps(recipe.batch_tokens, first_step).listen)
    log = MetricsLog(path, config.log_every, cost, scorers=scorers, listeners=listeners, make_room=make_room)
    every = checkpoint_interval(config, recipe)
    saver = Checkpointer(run.folder, config, every=every, skip_limit=skip_limit, writer=checkpoint_io.writer)
    # After each step in this order: who may stop the run comes before who saves it.
    order = [stop, skip_limit, *callbacks, log, progress, saver, GarbageCollection()]
    trainer = build_trainer(run, order, checkpoint_io)
    model = workload.build_model(seed)
    module = workload.module(model, run, metrics_listeners=[log.take, skip_limit.take], seed=seed)
    with attention_backends(run.device, masked=workload.masked):
        loader = build_loader(workload.data, workload.sampler(first_step, skipped), pin=run.device == "cuda")
        trainer.fit(module, loader, ckpt_path=resume)
    return stop, skip_limit


def build_model(run: Run, seed: int | None) -> Llama:
    """Return the model: drawn from ``seed``, with empty weights if it is None, on meta if split."""
    if run.layout.shards > 1:
        with torch.device("meta"):
            model = Llama(run.config.model)
        model.init_std = run.recipe.init_std
    else:
        model = Llama.empty_model(run.config.model)
        model.init_std = run.recipe.init_std
        if seed is not None:
            model.init_weights(seed)
    for block in model.blocks:
        assert isinstance(block, Block)
        block.recompute = run.config.checkpoint_activations == "block"
    if run.compile_loss:
        model.compile_parts(blocks=run.compile)
    return model
