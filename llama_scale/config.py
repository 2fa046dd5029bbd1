"""Typed configuration: dataclasses filled from YAML files and ``--dotted.overrides``."""

import hashlib
import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml

from llama_scale.errors import InputError, at_least_0, at_least_1, check_fields, nearest, positive
from llama_scale.files import atomic_write, read_text

# launch/ and configs/ lie beside the package, in a checkout as where it is installed.
ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
MOST_YAML_BYTES = 1 << 24
MOST_YAML_VALUES = 1_000_000  # each alias counted as what it stands for
YAML_SEAL = "# SHA-256 of the lines below: "
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
        check("at least 1", at_least_1, "d_model n_layers n_heads d_ff n_kv_heads vocab_size context_length")
        check("a positive number", positive, "rope_theta norm_eps")
        if self.d_model % (2 * self.n_heads):
            problem = f"{self.n_heads} heads do not divide d_model = {self.d_model} into even head dimensions"
            raise InputError(f"model.n_heads: {problem}")
        if self.n_heads % self.kv_heads:
            raise InputError(f"model.n_kv_heads: {self.kv_heads} does not divide n_heads = {self.n_heads}")

    @property
    def init_std(self) -> float:
        """Standard deviation of the initial matrices by the law sqrt(2 / (5 d)), .02 at d = 1,000.

        Nguyen and Salazar 2019 (arXiv 1910.05895). A fixed .02 leaves narrow models on the unigram plateau.
        """
        return math.sqrt(2 / (5 * self.d_model))

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
        lr: Peak learning rate; auto is the Step Law, capped by the model's width.
        batch_tokens: Tokens in one optimizer step, whole sequences; auto is the Step Law.
        warmup_steps: Steps of linear warmup; auto is about one token per parameter.
        schedule: Decay after the warmup; linear is transformers', to 1 / steps at the last step; cooldown is the linear
            end of a constant run that branch_from names.
        min_lr_ratio: Final learning rate as a share of the peak.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Term added to the denominator.
        weight_decay: Decoupled decay of matrices; norms have none.
        grad_clip: Largest gradient norm; .inf clips nothing.
    """

    RENAMED: ClassVar[dict[str, str]] = {"clip": "grad_clip"}

    lr: float | Auto = "auto"
    batch_tokens: int | Auto = "auto"
    warmup_steps: int | Auto = "auto"
    schedule: Literal["cosine", "linear", "constant", "cooldown"] = "cosine"
    min_lr_ratio: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        check = partial(check_fields, self, prefix="optim.")
        check("a positive number", positive, "lr eps")
        check("a positive number, or .inf for none", lambda x: x > 0, "grad_clip")
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
        seed: Seed of the initial weights and, unless data_seed is given, of the data order.
        data_seed: Seed of the data order; null is seed.
        init_std: Standard deviation of the initial matrices, before those that write to the residual stream are
            divided by sqrt(2 n_layers); auto is sqrt(2 / (5 d_model)).
        optim: The optimizer.
        device: Where to train; auto is the GPU if there is one.
        precision: Compute precision; auto is bf16 where the hardware multiplies it fast.
        compile: What is compiled: false nothing, loss its softmax, true each block too. auto is true where the
            run repays it, else loss on a GPU and false on a CPU.
        micro_batch: Sequences in one forward pass on a device; auto is what fits.
        checkpoint_activations: What the backward pass recomputes to save memory.
        devices: Processes of a node, one for each GPU.
        nodes: Number of nodes.
        strategy: How several devices share the work; auto is ddp, or fsdp where splitting the
            weights makes room for a larger micro-batch.
        deterministic: Make a resumed run on a GPU end with the same bytes as an unbroken one, with slower kernels.
        memory_share: Part of a GPU's memory that the run may plan for, where several share it.
        threads: CPU threads; null leaves the library's choice.
        log_every: Optimizer steps between two rows of metrics.jsonl.
        val_every: Steps between two validations; auto is ten in a run, or as many as a tenth of
            its compute pays for; 0 is at the end only.
        val_tokens: Size of the fixed held-out set in tokens.
        checkpoint_every: Steps between two checkpoints; auto is ten in a run.
        keep_last: Number of latest checkpoints kept.
        keep_every: Steps between two checkpoints that are kept for good; 0 keeps none.
        keep_steps: Steps whose checkpoints are written and kept for good, for branches to continue.
        max_skips: Skipped steps in a row after which a run goes back to an earlier checkpoint.
        branch_from: Checkpoint of a constant-rate run that this run continues.
        wandb: Mirror the metrics to a Weights & Biases project of this name.
        group: Study that the run belongs to.
    """

    RENAMED: ClassVar[dict[str, str]] = {"keep": "keep_last"}

    model: ModelConfig
    size: str = "custom"
    data: str = "data/installed"
    run: str | None = None
    tokens: float | Auto = "auto"
    seed: int = 0
    data_seed: int | None = None
    init_std: float | Auto = "auto"
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | Literal["auto", "loss"] = "auto"
    micro_batch: int | Auto = "auto"
    checkpoint_activations: Literal["none", "block"] = "none"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    deterministic: bool = False
    memory_share: float = 1.0
    threads: int | None = None
    log_every: int = 10
    val_every: int | Auto = "auto"
    val_tokens: int = 262_144
    checkpoint_every: int | Auto = "auto"
    keep_last: int = 2
    keep_every: int = 0
    keep_steps: list[int] = field(default_factory=list)
    max_skips: int = 16
    branch_from: str | None = None
    wandb: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        check = partial(check_fields, self)
        counts = "tokens micro_batch devices nodes threads log_every val_tokens max_skips"
        check("at least 1", at_least_1, f"{counts} keep_last keep_steps")
        check("at least 0", at_least_0, "val_every checkpoint_every keep_every")
        check("a share above 0 and at most 1", lambda x: 0 < x <= 1, "memory_share")
        check("a whole number from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32, "seed data_seed")
        check("a positive number", positive, "init_std")

    @property
    def order_seed(self) -> int:
        """Seed of the order in which the run reads its data."""
        return self.seed if self.data_seed is None else self.data_seed


@dataclass(frozen=True)
class TuneOptimConfig(OptimConfig):
    """AdamW and its schedule in fine-tuning: the settings of pretraining with other defaults.

    Args:
        lr: Peak learning rate; auto falls with the model's width, and is ten times as high for adapters.
        batch_tokens: Of pretraining alone; the batch of fine-tuning is in examples.
        warmup_steps: Steps of linear warmup; auto is a twentieth of the run.
        schedule: Decay after the warmup; linear is transformers', to 1 / steps at the last step.
        min_lr_ratio: Final learning rate of a cosine as a share of the peak.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Term added to the denominator.
        weight_decay: Decoupled decay of matrices; norms have none.
        grad_clip: Largest gradient norm; .inf clips nothing.
    """

    schedule: Literal["cosine", "linear", "constant", "cooldown"] = "linear"
    min_lr_ratio: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens != "auto":
            raise InputError(f"optim.batch_tokens: {self.batch_tokens} is of pretraining; set batch, in examples")
        if self.schedule == "cooldown":
            raise InputError("optim.schedule: cooldown is of pretraining; use linear, cosine or constant")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), by the peft library.

    An adapted matrix W acts as W + scale B A, with A (rank, inputs) drawn at random and B (outputs, rank) zero.

    Args:
        rank: Inner dimension of the two factors.
        alpha: Numerator of the scale, alpha / rank.
        dropout: Share of an adapter's inputs that training sets to 0.
        targets: Layers that get an adapter, separated by commas: all-linear (but the head), or names such as q,v or
            c_attn; q_proj is another name of q.
        rslora: Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all-linear"
    rslora: bool = False

    def __post_init__(self) -> None:
        check = partial(check_fields, self, prefix="lora.")
        check("at least 1", at_least_1, "rank")
        check("a positive number", positive, "alpha")
        check("at least 0 and below 1", lambda x: 0 <= x < 1, "dropout")
        if not self.target_names:
            raise InputError("lora.targets: no layer named; use all-linear or names such as q,v")

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def target_names(self) -> list[str]:
        """The names in ``targets``."""
        return [name.strip() for name in self.targets.split(",") if name.strip()]


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run: a base, pairs of prompt and completion, and what is trained.

    Args:
        base: A run or checkpoint of this project, a transformers folder, a GGUF file, or a model's name on the hub.
        train: JSONL file of pairs with the fields id, prompt and completion.
        validation: JSONL file of held-out pairs, scored as training goes and at the end.
        run: Folder of the run; null is runs/<base>-<method>-<examples>-seed<seed>.
        method: lora trains adapters, full every weight, base nothing: it scores the base as the other two are scored.
        lora: The adapters.
        only: Fields of pairs and the values that one must have to be trained on, such as third: [middle].
        examples: Number of pairs; null is all. A smaller number is a subset of a larger one.
        draw: Number of the random order of the pairs that subsets are the start of.
        order: shuffled anew each epoch, as listed in the file, or each epoch by the pairs' complexity, simple_first or
            complex_first, equal ones in an order of the seed's.
        epochs: Passes over the pairs.
        steps: Optimizer steps instead of epochs.
        batch: Examples in one optimizer step; the last of an epoch has what is left.
        max_tokens: Longest example in tokens; longer ones are left out and counted. null is the base's context.
        prompt_loss: Train on the prompt's tokens too.
        seed: Seed of the adapters, of the data order and of dropout.
        optim: The optimizer.
        device: Where to train; auto is the GPU if there is one.
        precision: Compute precision; auto is bf16 where the hardware multiplies it fast. Weights stay in float32.
        micro_batch: Examples in one forward pass; auto is what fits.
        checkpoint_activations: What the backward pass recomputes to save memory.
        devices: Processes of a node, one for each GPU.
        nodes: Number of nodes.
        deterministic: Make a resumed run on a GPU end with the same bytes as an unbroken one, with slower kernels.
        memory_share: Part of a GPU's memory that the run may plan for, where several share it.
        threads: CPU threads; null leaves the library's choice.
        log_every: Optimizer steps between two rows of metrics.jsonl.
        val_every: Steps between two validations; 0 is at the end only.
        retain: Folder of token shards, as the base was trained on; its validation text is scored too, at the end.
        retain_tokens: Tokens of it.
        checkpoint_every: Steps between two checkpoints; auto is ten in a run.
        keep_last: Number of latest checkpoints kept.
        keep_every: Steps between two checkpoints that are kept for good; 0 keeps none.
        keep_steps: Steps whose checkpoints are written and kept for good.
        max_skips: Skipped steps in a row after which a run goes back to an earlier checkpoint.
        wandb: Mirror the metrics to a Weights & Biases project of this name.
        group: Study that the run belongs to.
        bases: Folder where a GGUF file's weights are kept once they are read.
    """

    base: str
    train: str
    validation: str | None = None
    run: str | None = None
    method: Literal["lora", "full", "base"] = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    only: dict[str, Any] = field(default_factory=dict)
    examples: int | None = None
    draw: int = 0
    order: Literal["shuffled", "listed", "simple_first", "complex_first"] = "shuffled"
    epochs: int = 3
    steps: int | None = None
    batch: int = 8
    max_tokens: int | None = None
    prompt_loss: bool = False
    seed: int = 0
    optim: TuneOptimConfig = field(default_factory=TuneOptimConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    micro_batch: int | Auto = "auto"
    checkpoint_activations: Literal["none", "block"] = "none"
    devices: int = 1
    nodes: int = 1
    deterministic: bool = False
    memory_share: float = 1.0
    threads: int | None = None
    log_every: int = 10
    val_every: int = 0
    retain: str | None = None
    retain_tokens: int = 65_536
    checkpoint_every: int | Auto = "auto"
    keep_last: int = 1
    keep_every: int = 0
    keep_steps: list[int] = field(default_factory=list)
    max_skips: int = 16
    wandb: str | None = None
    group: str | None = None
    bases: str = "bases"

    def __post_init__(self) -> None:
        check = partial(check_fields, self)
        check("at least 1", at_least_1, "examples epochs steps batch max_tokens micro_batch devices nodes threads")
        check("at least 1", at_least_1, "log_every retain_tokens max_skips keep_last keep_steps")
        check("at least 0", at_least_0, "draw val_every checkpoint_every keep_every")
        check("a share above 0 and at most 1", lambda x: 0 < x <= 1, "memory_share")
        check("a whole number from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32, "seed")


class SettingsLoader(yaml.SafeLoader):
    """YAML 1.1 without the values that it turns into something else than a person means, or reads and forgets."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the document; raise YAMLError where it is small and its aliases stand for more than anyone can use."""
        node = super().get_single_node()
        if node is not None and _count_values(node, {}) > MOST_YAML_VALUES:
            problem = f"its aliases stand for more than {MOST_YAML_VALUES:,} values, or for themselves"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; raise YAMLError where a key is given twice, of which YAML keeps the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    problem = f"{key.value} is given twice; delete one"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _count_values(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node has, infinite where it contains itself; ``known`` are those counted already."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = inner if isinstance(node, yaml.MappingNode) else [(item,) for item in inner]
        known[id(node)] = 1 + sum(_count_values(item, known) for pair in pairs for item in pair)
    return known[id(node)]


def _refuse_surprise(loader: SettingsLoader, node: yaml.ScalarNode) -> Any:
    """Return a number or a date; raise YAMLError where the text looks like another value than it would be read as."""
    text = node.value
    if node.tag.endswith("timestamp") or ":" in text:
        kind = "a date" if node.tag.endswith("timestamp") else "a number of base 60"
        raise yaml.constructor.ConstructorError(
            None, None, f'{text} would be read as {kind}; quote it: "{text}"', node.start_mark
        )
    if node.tag.endswith("int"):
        value = yaml.SafeLoader.construct_yaml_int(loader, node)
        if re.fullmatch(r"[-+]?0[0-7_]+", text):
            problem = f'{text} would be read as {value} (base 8); leave the zero out, or quote it: "{text}"'
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value
    return yaml.SafeLoader.construct_yaml_float(loader, node)


for _tag in ("int", "float", "timestamp"):
    SettingsLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _refuse_surprise)


def write_yaml(path: str | Path, value: Any) -> None:
    """Write YAML, atomically, with the SHA-256 of its lines in a comment before them."""
    text = yaml.safe_dump(value, sort_keys=False)
    with atomic_write(path) as file:
        file.write(f"{YAML_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_yaml(path: str | Path, check_seal: bool = False) -> Any:
    """Read a YAML file; raise InputError naming the file and line when it cannot be.

    With ``check_seal`` also where it is not as ``write_yaml`` left it. A file without that comment is taken as it is.
    """
    text = read_text(path, MOST_YAML_BYTES)
    first, _, rest = text.partition("\n")
    sealed = check_seal and first.startswith(YAML_SEAL)
    if sealed and first != YAML_SEAL + hashlib.sha256(rest.encode()).hexdigest():
        remedy = "restore it, or delete its first line if you changed it on purpose"
        raise InputError(f"{path}: has changed since it was written (its first line does not match); {remedy}")
    try:
        return yaml.load(text, SettingsLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45 is no date
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def nested_classes(config_class: type) -> dict[str, type]:
    """Return the class of each field of a settings class that is made of settings itself."""
    return {f.name: f.type for f in fields(config_class) if isinstance(f.type, type) and is_dataclass(f.type)}


def renamed_fields(config_class: type) -> dict[str, str]:
    """Return the old dotted name of each renamed setting with its new one.

    A settings class lists its own in ``RENAMED``, a ClassVar as {"clip": "grad_clip"}; those of a nested class get its
    field's name in front: {"optim.clip": "optim.grad_clip"}.
    """
    renamed = dict(getattr(config_class, "RENAMED", {}))
    for name, inner in nested_classes(config_class).items():
        renamed |= {f"{name}.{old}": f"{name}.{new}" for old, new in renamed_fields(inner).items()}
    return renamed


def with_new_names(values: dict[str, Any], config_class: type) -> dict[str, Any]:
    """Return ``values`` of a file under the new names of ``config_class``; raise InputError where both are given."""
    renamed = getattr(config_class, "RENAMED", {})
    for old, new in renamed.items():
        if old in values and new in values:
            raise InputError(f"{old}: is the old name of {new}, which is given too; delete {old}")
    result = {renamed.get(name, name): value for name, value in values.items()}
    for name, inner in nested_classes(config_class).items():
        if isinstance(result.get(name), dict):
            result[name] = with_new_names(result[name], inner)
    return result


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted ones: {"optim": {"lr": 1}} is {"optim.lr": 1}.

    Raises InputError where one is given in both ways.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        more = flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
        if twice := flat.keys() & more.keys():
            raise InputError(f"{min(twice)}: is given twice, nested and with a dotted name; give it once")
        flat |= more
    return flat


def nest(settings: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted settings into nested ones, {"optim": {"lr": 1}}; raise InputError on a value that has fields too."""
    nested: dict[str, Any] = {}
    for key, value in flatten(settings).items():
        *parents, last = key.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError(f"{key}: {parent} has a value already, {inner!r}; give one")
        if isinstance(inner.get(last), dict):
            raise InputError(f"{key}: has fields already; give them or a value")
        inner[last] = value
    return nested


def find_config(name: str, folder: str, root: Path | None = None, hint: str = "a YAML file") -> Path:
    """Return the settings file that a person means by ``name``.

    It is looked for from ``root`` (the working directory), then in the shipped configs/; a bare
    name is configs/<folder>/<name>.yaml: quickstart with the folder study is
    configs/study/quickstart.yaml. Raises InputError, which says to give ``hint``, if there is none.
    """
    bare = Path(name).name == name and not Path(name).suffix
    names = [name, f"configs/{folder}/{name}.yaml"] if bare else [name]
    for path in (base / each for base in (root or Path.cwd(), ROOT) for each in names):
        if path.is_file():
            return path
    known = [path.relative_to(ROOT).as_posix() for path in CONFIGS.glob("*/*.yaml")]
    known += [path.stem for path in CONFIGS.glob(f"{folder}/*.yaml")]
    raise InputError(f"no file {name}{nearest(name, known)}; give {hint}")


def size_path(name: str) -> Path:
    """Return the YAML file of a rung; raise InputError naming the nearest rung if unknown.

    Those of earlier ladders, whose runs and studies still open, are in configs/size/earlier.
    """
    folder = CONFIGS / "size"
    if Path(name).name == name:
        for path in (folder / f"{name}.yaml", folder / "earlier" / f"{name}.yaml"):
            if path.is_file():
                return path
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    raise InputError(f"size: no configs/size/{name}.yaml{nearest(name, known)}; known: {', '.join(known)}")


def load_size(name: str, **overrides: Any) -> ModelConfig:
    """Return the model of a rung, with some fields replaced."""
    return ModelConfig(**(read_yaml(size_path(name)) | overrides))
