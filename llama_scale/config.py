"""Typed configuration: dataclasses filled from YAML files and ``--dotted.overrides``."""

import dataclasses
import re
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from llama_scale.errors import (
    UserError,
    at_least_0,
    at_least_1,
    check_fields,
    nearest,
    positive,
)

CONFIGS = Path(__file__).parent.parent / "configs"
Auto = Literal["auto"]
T = TypeVar("T")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a LLaMA model. A rung of the ladder differs from another by these alone.

    Args:
        d_model: Width of the residual stream.
        n_layers: Number of transformer blocks.
        n_heads: Number of query heads; the head dimension is d_model / n_heads.
        d_ff: Inner width of the SwiGLU feed-forward layer.
        n_kv_heads: Number of key and value heads; null is one for each query head.
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens.
        rope_theta: Base of the rotary position embedding.
        norm_eps: Epsilon of RMSNorm.
        tie_embeddings: Share the token embedding with the output head.
        document_mask: Let no token attend to another document of its window.
    """

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_kv_heads: int | None = None
    vocab_size: int = 32_000
    context_length: int = 2_048
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    document_mask: bool = False

    def __post_init__(self) -> None:
        check = partial(check_fields, self, prefix="model.")
        sizes = "d_model n_layers n_heads d_ff n_kv_heads vocab_size context_length"
        check("at least 1", at_least_1, sizes)
        check("a positive number", positive, "rope_theta norm_eps")
        if self.d_model % (2 * self.n_heads):
            raise UserError(
                f"model.n_heads: {self.n_heads} heads do not divide d_model = {self.d_model} into "
                "even head dimensions"
            )
        if self.n_heads % self.kv_heads:
            raise UserError(
                f"model.n_kv_heads: {self.kv_heads} does not divide n_heads = {self.n_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule.

    Args:
        lr: Peak learning rate; auto is the Step Law, capped.
        batch_tokens: Tokens in one optimizer step, whole sequences; auto is the Step Law.
        warmup_steps: Steps of linear warmup; auto is about one token per parameter.
        schedule: Decay after the warmup; cooldown is the linear end of a constant run that
            branch_from names.
        min_lr_ratio: Final learning rate as a share of the peak.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Term added to the denominator.
        weight_decay: Decoupled decay of matrices; norms have none.
        clip: Largest gradient norm; .inf clips nothing.
    """

    lr: float | Auto = "auto"
    batch_tokens: int | Auto = "auto"
    warmup_steps: int | Auto = "auto"
    schedule: Literal["cosine", "constant", "cooldown"] = "cosine"
    min_lr_ratio: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        check = partial(check_fields, self, prefix="optim.")
        check("a positive number", positive, "lr eps")
        check("a positive number, or .inf for none", lambda x: x > 0, "clip")
        check("at least 1", at_least_1, "batch_tokens")
        check("at least 0", at_least_0, "warmup_steps weight_decay")
        check("at least 0 and below 1", lambda x: 0 <= x < 1, "beta1 beta2")
        check("a share from 0 to 1", lambda x: 0 <= x <= 1, "min_lr_ratio")


@dataclass(frozen=True)
class TrainConfig:
    """One pretraining run.

    Args:
        model: The model's shape; --size NAME reads it from configs/size/NAME.yaml.
        size: Name of the rung.
        data: Folder of token shards made by launch/prepare.py.
        run: Folder of the run; null is runs/<size>-<tokens>-seed<seed>.
        tokens: Training tokens; auto is 20 for each non-embedding parameter.
        seed: Seed of the initial weights and of the data order.
        optim: The optimizer.
        device: Where to train; auto is the GPU if there is one.
        precision: Compute precision; auto is bf16 where the hardware multiplies it fast.
        compile: Compile each block; auto is on where the run repays it.
        micro_batch: Sequences in one forward pass on a device; auto is what fits.
        checkpoint_activations: What the backward pass recomputes to save memory.
        devices: Processes of a node, one for each GPU.
        nodes: Number of nodes.
        strategy: How several devices share the work; auto is ddp, or fsdp where splitting the
            weights makes room for a larger micro-batch.
        threads: CPU threads; null leaves the library's choice.
        log_every: Optimizer steps between two rows of metrics.jsonl.
        val_every: Steps between two validations; auto is ten in a run, or as many as a tenth of
            its compute pays for; 0 is at the end only.
        val_tokens: Size of the fixed held-out set in tokens.
        checkpoint_every: Steps between two checkpoints; auto is ten in a run.
        keep: Number of latest checkpoints kept.
        keep_every: Steps between two checkpoints that are kept for good; 0 keeps none.
        keep_steps: Steps whose checkpoints are written and kept for good, for branches to continue.
        max_skips: Skipped steps in a row after which a run goes back to an earlier checkpoint.
        branch_from: Checkpoint of a constant-rate run that this run continues.
        wandb: Mirror the metrics to a Weights & Biases project of this name.
        group: Study that the run belongs to.
    """

    model: ModelConfig
    size: str = "custom"
    data: str = "data/installed"
    run: str | None = None
    tokens: float | Auto = "auto"
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | Auto = "auto"
    micro_batch: int | Auto = "auto"
    checkpoint_activations: Literal["none", "block"] = "none"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    threads: int | None = None
    log_every: int = 10
    val_every: int | Auto = "auto"
    val_tokens: int = 262_144
    checkpoint_every: int | Auto = "auto"
    keep: int = 2
    keep_every: int = 0
    keep_steps: list[int] = field(default_factory=list)
    max_skips: int = 16
    branch_from: str | None = None
    wandb: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        check = partial(check_fields, self)
        counts = "tokens micro_batch devices nodes threads log_every val_tokens keep max_skips"
        check("at least 1", at_least_1, f"{counts} keep_steps")
        check("at least 0", at_least_0, "val_every checkpoint_every keep_every")
        check("a whole number from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32, "seed")


def parse(
    config_class: type[T],
    description: str,
    argv: list[str] | None = None,
    positional: str | None = None,
) -> T:
    """Fill ``config_class`` from ``--config FILE``, ``--size NAME`` and ``--dotted.overrides``.

    Later arguments win, but ``--size`` wins over the size of a file wherever it stands;
    ``--dry-run`` is ``--dry_run``, and a switch needs no value.
    ``positional`` names the field that a leading argument without a flag fills. Raises UserError
    with one line on an unknown key (naming the nearest one), a wrong type, a missing file or an
    unknown size.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file to read")
    parser.add_class_arguments(config_class, None)
    argv = list(sys.argv[1:] if argv is None else argv)
    if positional and argv and not argv[0].startswith("-"):
        argv[0] = f"--{positional}={argv[0]}"
    argv = _normalise(argv, config_class)
    for path in _config_files(argv):
        _check_mappings(path, config_class)
    try:
        sized = {"size", "model"} <= set(_field_names(config_class))
        values = parser.instantiate(parser.parse_args(_expand_sizes(argv) if sized else argv))
    except jsonargparse.ArgumentError as error:
        raise UserError(_one_line(str(error), config_class, argv)) from None
    return config_class(**{f.name: values[f.name] for f in dataclasses.fields(config_class)})


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file; raise UserError naming the file and line when it cannot be."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted ones: {"optim": {"lr": 1}} is {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def size_path(name: str) -> Path:
    """Return the YAML file of a rung; raise UserError naming the nearest rung if unknown."""
    path = CONFIGS / "size" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise UserError(
            f"size: no configs/size/{name}.yaml{nearest(name, known)}; known: {', '.join(known)}"
        )
    return path


def load_size(name: str, **overrides: Any) -> ModelConfig:
    """Return the model of a rung, with some fields replaced."""
    return ModelConfig(**(read_yaml(size_path(name)) | overrides))


def _normalise(argv: list[str], config_class: type) -> list[str]:
    """Write hyphens in a flag's name as underscores and ``--switch`` as ``--switch=true``."""
    switches = {f"--{name}" for name in _field_names(config_class, of_type=bool)}
    result = []
    for argument, following in pairwise([*argv, "--"]):
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            flag = "--" + flag[2:].replace("-", "_")
            if flag in switches and not equals and following.startswith("-"):
                equals, value = "=", "true"
            argument = flag + equals + value
        result.append(argument)
    return result


def _expand_sizes(argv: list[str]) -> list[str]:
    """Put the shape of each named size where it counts, as ``--model=FILE``.

    The size of a flag goes over that of a file, label and shape, wherever it stands. The
    ``model`` of a file goes over the shape of that file's own size.
    """
    flags, expanded = _joined(argv, ("--size", "--config")), []
    chosen = [flag.removeprefix("--size=") for flag in flags if flag.startswith("--size=")][-1:]
    for flag in flags:
        value = flag.partition("=")[2]
        values = read_yaml(value) if flag.startswith("--config=") else {}
        values = values if isinstance(values, dict) else {}
        size, model = values.get("size"), values.get("model")
        if flag.startswith("--size="):
            expanded += [flag, f"--model={size_path(value)}"]
        elif size and chosen and chosen != [size]:
            expanded += [flag, f"--size={chosen[0]}", f"--model={size_path(chosen[0])}"]
        elif size and not (isinstance(model, dict) and "d_model" in model):
            expanded += [f"--model={size_path(str(size))}", flag]
        else:
            expanded.append(flag)
    return expanded


def _joined(argv: list[str], names: tuple[str, ...]) -> list[str]:
    """Write ``--name value`` as ``--name=value`` for the given names."""
    rest, joined = iter(argv), []
    for argument in rest:
        value = next(rest, None) if argument in names else None
        joined.append(argument if value is None else f"{argument}={value}")
    return joined


def _field_names(config_class: type, prefix: str = "", of_type: type | None = None) -> list[str]:
    names = []
    for item in dataclasses.fields(config_class):
        if of_type in (None, item.type):
            names.append(prefix + item.name)
        if dataclasses.is_dataclass(item.type):
            names.extend(_field_names(item.type, f"{prefix}{item.name}.", of_type))
    return names


def _one_line(message: str, config_class: type, argv: list[str]) -> str:
    """Turn the parser's message into one line that names the key and its nearest match."""
    message = " ".join(message.split())
    unknown = re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message)
    if match := re.search(r"Group '(\S+)' does not accept option '(\S+)'", message):
        key = f"{match[1]}.{match[2]}"
    elif match := re.search(r"Option '(\S+)' is not accepted", message):
        key = match[1].split(".")[0]
    elif unknown:
        key = unknown[1]
    else:
        missing = re.search(r"arguments are required: model\.d_model", message)
        hint = "no model shape: pass --size NAME (configs/size/NAME.yaml)"
        message = hint if missing else re.sub(r'^Parser key "([\w.]+)":', r"\1:", message)
        key = None
    if key:
        message = f"unknown key {key!r}{nearest(key, _field_names(config_class))}"
    wrong = re.match(r"([\w.]+): (?:Does not|Expected a).*(?:Got|Given) value: (.*)$", message)
    if wrong and (kind := _field_type(config_class, wrong[1])):
        key, message = wrong[1], f"{wrong[1]}: expected {_words(kind)}, found {wrong[2]}"
    flags = {argument.partition("=")[0] for argument in argv}
    files = _config_files(argv)
    given = unknown or not files or f"--{key}" in flags
    return message if given else f"{', '.join(files)}: {message}"


def _config_files(argv: list[str]) -> list[str]:
    flags = _joined(argv, ("--config",))
    return [a.removeprefix("--config=") for a in flags if a.startswith("--config=")]


def _check_mappings(path: str, config_class: type) -> None:
    """Raise UserError if a file, or a field of it that has fields of its own, is no mapping."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of fields, found {values!r:.80}")
    for item in dataclasses.fields(config_class):
        value = values.get(item.name, {})
        if dataclasses.is_dataclass(item.type) and not isinstance(value, dict | str):
            raise UserError(f"{path}: {item.name}: expected fields or a file, found {value!r:.80}")


def _field_type(config_class: type, key: str) -> Any:
    """Return the type of a dotted field, or None where there is no such field."""
    first, _, rest = key.partition(".")
    kind = {f.name: f.type for f in dataclasses.fields(config_class)}.get(first)
    if not rest or kind is None:
        return kind
    return _field_type(kind, rest) if dataclasses.is_dataclass(kind) else None


def _words(kind: Any) -> str:
    """Say in words what values a type has."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text",
             type(None): "null", list: "a list", dict: "fields"}  # fmt: skip
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, parts))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_words, parts))
    return plain.get(get_origin(kind) or kind, str(kind))
