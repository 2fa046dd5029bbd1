"""What a model costs: parameters, FLOPs and memory, counted exactly and by stated conventions.

Three parameter counts are in use and the scaling exponent depends on which one is meant:
``total``, ``non_embedding`` (Kaplan et al. 2020, Hoffmann et al. 2022 in part) and ``matmul``,
every weight that a token is multiplied with, the output head included.
"""

from dataclasses import dataclass

from llama_scale.config import ModelConfig

MIB = 1024**2
GIB = 1024**3
FLOAT32 = 4
BFLOAT16 = 2

# Logits that the chunked head holds at a time, by device type.
HEAD_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}

# Part of a device's memory that tensors may take: the rest is the driver's context, the
# libraries' workspaces and fragmentation.
USABLE = {"cpu": 0.9, "cuda": 0.94}


@dataclass(frozen=True)
class Hardware:
    """An accelerator: the words of its device name, its memory in bytes, its bf16 peak in FLOP/s.

    The peak is the dense one of the vendor's data sheet, never the figure with sparsity.
    """

    words: str
    memory: int
    peak: float


HARDWARE = {
    "b200": Hardware("B200", 178 * GIB, 2250e12),
    "h200": Hardware("H200", 139 * GIB, 989e12),
    "h100-pcie": Hardware("H100 PCIe", 79 * GIB, 756e12),
    "h100": Hardware("H100", 79 * GIB, 989e12),
    "a100-40gb": Hardware("A100 40GB", 39 * GIB, 312e12),
    "a100": Hardware("A100", 79 * GIB, 312e12),
    "l40s": Hardware("L40S", 44 * GIB, 362e12),
}


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of a model: all, without embedding and head, and in matrix products."""

    total: int
    non_embedding: int
    matmul: int


def count_parameters(config: ModelConfig) -> Parameters:
    """Count the parameters of ``config`` from its shape, without building the model."""
    d, kv_dim = config.d_model, config.kv_heads * config.head_dim
    block = 2 * d * d + 2 * d * kv_dim + 3 * d * config.d_ff
    embedding = config.vocab_size * d
    norms = (2 * config.n_layers + 1) * d
    non_embedding = config.n_layers * block + norms
    tables = embedding if config.tie_embeddings else 2 * embedding
    return Parameters(
        total=non_embedding + tables,
        non_embedding=non_embedding,
        matmul=config.n_layers * block + embedding,
    )


def flops_per_token(config: ModelConfig, causal: bool = True) -> int:
    """Return training FLOPs (forward and backward) of one token at the full context length.

    Forward is two FLOPs for each matmul parameter plus 4 L d T of attention scores and values;
    ``causal`` counts the lower half of the score matrix alone (Megatron, llm.c), otherwise the
    full square (nanoGPT, torchtitan; Chowdhery et al. 2022, appendix B). Backward is twice the
    forward.
    """
    attention = 4 * config.n_layers * config.d_model * config.context_length
    forward = 2 * count_parameters(config).matmul + (attention // 2 if causal else attention)
    return 3 * forward


@dataclass(frozen=True)
class Memory:
    """Peak training memory in bytes, by what holds it."""

    parameters: int
    gradients: int
    optimizer: int
    compute_copy: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum of the parts in bytes."""
        return sum(vars(self).values())

    def __str__(self) -> str:
        unit, scale = ("GiB", GIB) if self.total >= GIB else ("MiB", MIB)
        sizes = {name.replace("_", " "): size / scale for name, size in vars(self).items() if size}
        parts = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
        return f"{self.total / scale:.1f} {unit} ({parts})"


def block_activations(config: ModelConfig, bf16: bool, fused_norm: bool, compiled: bool) -> int:
    """Return the bytes that one block keeps for backward for each token.

    Kept in eager mode are: the input of both norms (float32; their normalised value too where the
    norm is not one kernel), what the seven matrices multiply, queries, keys and values, and of the
    feed-forward its gate, its up projection and the gate's SiLU. Under autocast each matrix
    keeps its own bf16 copy of its input. A compiled block keeps its own input in float32, and the
    rest in the products' type: both normalised values once, the attention's share of the
    residual, and neither the second norm's input nor the gate's SiLU, which it makes again.
    """
    d, kv, ff = config.d_model, config.kv_heads * config.head_dim, config.d_ff
    width = BFLOAT16 if bf16 else FLOAT32
    attention = width * (2 * d + 2 * kv) + FLOAT32 * config.n_heads  # q, k, v, output, log-sum
    if compiled:
        return FLOAT32 * (d + 2) + width * (3 * d + 3 * ff) + attention
    norms = 2 * FLOAT32 * (d if fused_norm else 2 * d) + 2 * FLOAT32  # and the scale of a row
    inputs = 5 * d if bf16 else 2 * d  # of q, k, v and of gate, up
    return norms + width * (inputs + 4 * ff) + attention


def training_memory(
    config: ModelConfig,
    micro_batch: int,
    bf16: bool,
    checkpoint_activations: str = "none",
    shards: int = 1,
    device: str = "cuda",
    compiled: bool = False,
    micro_steps: int = 2,
) -> Memory:
    """Estimate the peak memory in bytes on each device of a training step with AdamW.

    The peak stands at the end of the forward pass of a micro-batch, with the gradients of those
    before it. Where a step is one of them (``micro_steps`` is 1), gradients take the place of what
    the backward pass frees, and what they need beyond that counts. Weights, gradients and both
    moments are in float32, split over ``shards`` devices. Under bf16 autocast each matrix has a
    bf16 copy that the backward pass needs, so it is not split. With ``checkpoint_activations``
    "block" the input of each block is kept and one block is recomputed at a time. The logits are a
    chunk in float32, as product and as gradient, beside the gradients of the head's input and
    weight. ``compiled`` is said of the blocks.
    """
    count = count_parameters(config)
    width = BFLOAT16 if bf16 else FLOAT32
    d, tokens = config.d_model, micro_batch * config.context_length
    fused_norm = device == "cuda"
    block = block_activations(config, bf16, fused_norm, compiled)
    kept = config.n_layers * block
    if checkpoint_activations == "block":
        kept = config.n_layers * FLOAT32 * d + block
    kept += FLOAT32 * ((d if fused_norm else 2 * d) + 1)  # the last norm
    angles = 4 * config.context_length * config.head_dim  # cosines and sines, for q and for k
    if compiled:
        angles //= 2
    rotary = BFLOAT16 * config.n_layers * angles if bf16 else 0
    rows = min(tokens, max(1, HEAD_LOGITS[device] // config.vocab_size))
    gathered = 0
    if shards > 1:  # two blocks and the tables are whole while they are computed with
        layer = count.non_embedding // config.n_layers
        gathered = FLOAT32 * (2 * layer + count.total - count.non_embedding)
    split = FLOAT32 * -(-count.total // shards)
    compute_copy = BFLOAT16 * count.matmul if bf16 else 0
    activations = tokens * kept + rotary
    logits = rows * config.vocab_size * (FLOAT32 + 2 * width)
    logits += FLOAT32 * (tokens + config.vocab_size) * d
    freed = compute_copy + activations + logits if micro_steps == 1 else 0
    return Memory(
        parameters=split + gathered,
        gradients=max(0, split - freed),
        optimizer=2 * split,
        compute_copy=compute_copy,
        activations=activations,
        logits=logits,
    )


def bf16_peak(device_name: str) -> float | None:
    """Return the dense bf16 peak of a GPU in FLOP/s, or None when its name is not known."""
    for hardware in HARDWARE.values():
        if all(word in device_name for word in hardware.words.split()):
            return hardware.peak
    return None
