"""One training run as decided: every ``auto`` replaced, checked against device, data and past."""

import dataclasses
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

import llama_scale
from llama_scale.checkpoint.folder import verify
from llama_scale.config import FinetuneConfig, ModelConfig, OptimConfig, TrainConfig, flatten, read_yaml, with_new_names
from llama_scale.cost.accounting import flops_per_token
from llama_scale.cost.dry_run import recipe_lines
from llama_scale.cost.hardware import GIB, Machine, describe_machine
from llama_scale.cost.layout import Layout, layout_memory, pick_compile, pick_layout, why_no_compiling
from llama_scale.data.shards import Tokens, open_tokens
from llama_scale.device import pick_device, pick_precision, set_threads
from llama_scale.errors import InputError
from llama_scale.files import read_json
from llama_scale.model.llama import EOS
from llama_scale.text import count_in_name
from llama_scale.training.distributed import ProcessRank, find_rank, forget_other_launchers
from llama_scale.training.recipe import OPTIM_VALUES, Recipe, resolve

VALIDATION_SHARE = 0.1  # of the run's compute, at most
# What runs had whose config.yaml was written before there was such a field, where that is not the default.
BEFORE = {"init_std": 0.02}
# Fields that may differ when a run continues, and why they change no result:
FREE_FIELDS = {
    # what the run is called and where it is shown
    "run", "group", "wandb",
    # how a step is computed: its sums differ by rounding alone
    "device", "devices", "nodes", "strategy", "threads", "compile", "micro_batch",
    "checkpoint_activations", "deterministic", "memory_share",
    # what is written beside training, and how long it stays
    "log_every", "checkpoint_every", "keep_last", "keep_every", "keep_steps", "bases",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Everything a run needs, with every ``auto`` decided."""

    config: TrainConfig
    recipe: Recipe
    folder: Path
    tokens: Tokens
    device: str
    bf16: bool
    precision_source: str
    compile: bool  # the blocks
    compile_loss: bool
    layout: Layout
    process: ProcessRank

    @property
    def resolved(self) -> dict[str, Any]:
        """The configuration as written to config.yaml."""
        fields = dataclasses.asdict(self.config)
        fields["optim"] |= {name: getattr(self.recipe, name) for name in OPTIM_VALUES}
        return fields | {
            "run": str(self.folder),
            "tokens": self.recipe.tokens,
            "precision": "bf16" if self.bf16 else "fp32",
            "init_std": self.recipe.init_std,
            "compile": self.compile or ("loss" if self.compile_loss else False),
            "micro_batch": self.layout.micro_batch,
        }


def plan_run(config: TrainConfig) -> Run:
    """Decide every ``auto``, check data and memory, and open the run folder's past.

    Raises InputError if the data is missing or damaged, its tokenizer does not match the model, the device cannot hold
    the model, or the run folder belongs to another configuration.
    """
    folder = run_folder(config)
    config = as_begun(config, folder)
    recipe = resolve(config)
    set_threads(config.threads)
    machine = describe_machine(None, None, pick_device(config.device), config.threads, config.memory_share)
    device = machine.device
    bf16, why = pick_precision(config.precision, device, config.model.d_model, config.model.d_ff)
    process = find_rank(config.devices, config.nodes)
    forget_other_launchers(process)
    reason = why_no_compiling(device)
    if reason and config.compile in (True, "loss"):
        raise InputError(f"compile: {config.compile} cannot work here: {reason}; mend that, or set compile to false")
    compiled, compile_loss = pick_compile(config, recipe.tokens, recipe.batch, machine, reason is None)
    layout = fit_layout(config, recipe.batch, bf16, compiled, machine)
    run = Run(
        config=config,
        recipe=recipe,
        folder=folder,
        tokens=open_data(config),
        device=device,
        bf16=bf16,
        precision_source=why,
        compile=compiled,
        compile_loss=compile_loss,
        layout=layout,
        process=process,
    )
    parts = {"model": ModelConfig, "optim": OptimConfig}
    fingerprint = run.tokens.manifest["fingerprint"]
    check_same_run(run.folder, run.resolved, TrainConfig, parts=parts, fingerprint=fingerprint, data=config.data)
    return run


def run_folder(config: TrainConfig) -> Path:
    """Return the run's folder, by default runs/<size>-<tokens>-seed<seed>."""
    name = f"{config.size}-{count_in_name(resolve(config).tokens, digits=3)}-seed{config.seed}"
    return Path(config.run or f"runs/{name}")


def as_begun(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return the settings with what laws and measurements gave a run that has begun, where they leave it open.

    So a run ends as it began: by the laws of its time, in the precision of its first start.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return config
    recorded: dict[str, Any] = BEFORE | with_new_names(read_mapping(path), TrainConfig)
    try:
        kept = {name: recorded[name] for name in ("precision", "init_std") if getattr(config, name) == "auto"}
        if config.optim.lr == "auto" and not config.branch_from:  # a branch has its parent's
            kept["optim"] = dataclasses.replace(config.optim, lr=recorded["optim"]["lr"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged, it lacks a setting ({error}); restore it, or name another run") from None
    return dataclasses.replace(config, **kept)


def open_data(config: TrainConfig) -> Tokens:
    """Return the training tokens; raise InputError if they suit neither the model nor the parent of a branch."""
    tokens = open_tokens(config.data, "train")
    if config.model.document_mask and tokens.eos != EOS:
        raise InputError(f"model.document_mask: {config.data} ends a document with id {tokens.eos}, not {EOS}")
    if config.branch_from:
        meta = verify(config.branch_from)
        if meta["data_fingerprint"] != tokens.fingerprint:
            found = f"{config.branch_from} was trained on {meta['data']}"
            raise InputError(f"branch_from: {found}, which is not the data in {config.data}")
    if tokens.vocab_size != config.model.vocab_size:
        raise InputError(
            f"{config.data}: its tokenizer has {tokens.vocab_size:,} pieces and the model "
            f"{config.model.vocab_size:,}; set model.vocab_size to {tokens.vocab_size}"
        )
    return tokens


def fit_layout(config: TrainConfig, batch: int, bf16: bool, compiled: bool, machine: Machine) -> Layout:
    """Return how a step is laid out on the devices.

    Raises InputError when the device cannot hold the model, or when devices or micro_batch do not divide the batch.
    """
    device, have = machine.device, machine.memory
    if device == "cpu":
        have /= config.devices
    elif config.devices > torch.cuda.device_count():
        raise InputError(f"devices: {config.devices} asked for, this machine has {torch.cuda.device_count()}")
    layout = pick_layout(config, batch, bf16, compiled, device, have)
    need = layout_memory(config, layout, bf16, compiled, device)
    if need.total > have:
        raise InputError(
            f"size {config.size}: training needs {need} and this {device} device offers {have / GIB:.1f} GiB; choose a "
            "smaller size or a larger device (a dry run names the nearest change that fits)"
        )
    return layout


def checkpoint_interval(config: TrainConfig | FinetuneConfig, recipe: Recipe) -> int:
    """Return the steps between checkpoints: ``auto`` is ten in a run, 0 is at the end only."""
    if config.checkpoint_every == "auto":
        return max(1, recipe.steps // 10)
    return config.checkpoint_every or recipe.steps


def validation_interval(config: TrainConfig, recipe: Recipe) -> int:
    """Return the steps between validations; 0 is at the end only.

    ``auto`` is ten in a run, or as many as a tenth of its compute pays for: a validation token costs a third of a
    training token.
    """
    affordable = int(VALIDATION_SHARE * 3 * recipe.tokens / config.val_tokens)
    if config.val_every == "auto":
        return max(1, recipe.steps // min(10, max(1, affordable)))
    return config.val_every or recipe.steps


def check_same_run(
    folder: Path, resolved: dict[str, Any], config_class: type, *, parts: dict[str, type], fingerprint: str, data: str
) -> None:
    """Raise InputError if the run ``folder`` holds another configuration than ``resolved`` or was fed other data.

    ``parts`` are the nested classes of ``config_class`` whose fields may be newer than the run. ``fingerprint`` is that
    of the ``data``.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    recorded = flatten(with_new_names(read_mapping(path), config_class))
    now = flatten(yaml.safe_load(yaml.safe_dump(resolved)))  # as a YAML file gives it back
    # A field that the run's file does not have is newer than the run, which had its default.
    parts_before = {name: defaults(kind) for name, kind in parts.items()}
    before = flatten(defaults(config_class) | BEFORE | parts_before) | recorded
    names = [n for n in recorded.keys() | now.keys() if n.split(".")[0] not in FREE_FIELDS]
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        name = min(changed, key=lambda n: ("." in n, n))  # what optim.* follows from comes first
        found = f"this run has {name} = {before.get(name)}, the command asks for {now.get(name)}"
        raise InputError(f"{path}: {found}; choose another run, or delete the folder to start over")
    if read_mapping(folder / "provenance.json").get("data_fingerprint") != fingerprint:
        found = f"{data} has changed since this run began"
        raise InputError(f"{folder}: {found}; choose another run, or delete the folder to start over")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file of the run's; raise InputError when it is damaged or was changed."""
    fields = read_json(path) if path.suffix == ".json" else read_yaml(path, check_seal=True)
    if not isinstance(fields, dict) or not fields:
        raise InputError(f"{path}: damaged (no fields in it); restore it, or choose another run")
    return fields


def defaults(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def provenance(run: Run) -> dict[str, Any]:
    """Return what a reader needs to repeat the run: code, versions, hardware, data."""
    return code_and_machine(run.device, run.config.deterministic) | {
        "precision": {"value": run.resolved["precision"], "source": run.precision_source},
        "data_fingerprint": run.tokens.manifest["fingerprint"],
        "tokenizer_fingerprint": run.tokens.tokenizer_fingerprint,
    }


def code_and_machine(device: str, deterministic: bool) -> dict[str, Any]:
    """Return which code a run was made with, by which command and where."""
    root = Path(llama_scale.__file__).parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        commit = ""
    processor = platform.processor() or platform.machine()
    return {
        "llama_scale": llama_scale.__version__,
        "commit": commit or None,
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "hardware": torch.cuda.get_device_name() if device == "cuda" else processor,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "deterministic": deterministic,
    }


def describe(run: Run) -> str:
    """Return the run's settings in a few lines, each derived value with the law that set it."""
    config, recipe = run.config, run.recipe
    batch = f" = {recipe.batch} x {config.model.context_length} ({run.layout})"
    compiled = "compiled" if run.compile else ("loss compiled" if run.compile_loss else "")
    mode = ", ".join(
        filter(None, [run.device, "bf16" if run.bf16 else "fp32", compiled, "deterministic" * config.deterministic])
    )
    return "\n".join(
        [
            f"{config.size} -> {run.folder} ({mode})",
            *recipe_lines(config, recipe, run.tokens.n_tokens, batch),
            f"  precision     {run.resolved['precision']}  [{run.precision_source}]",
            f"  compute       {recipe.tokens * flops_per_token(config.model):.3g} FLOPs (exact, causal attention)",
            f"  memory        {layout_memory(config, run.layout, run.bf16, run.compile, run.device)} on each device",
        ]
    )
