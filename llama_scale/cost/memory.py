"""Peak memory of a training step, derived from the tensors that autograd keeps."""

from dataclasses import dataclass

from llama_scale.config import ModelConfig
from llama_scale.cost.accounting import count_parameters
from llama_scale.cost.hardware import GIB, MIB

FLOAT32 = 4  # bytes
BFLOAT16 = 2

# Logits that the chunked head holds at a time, by device type.
HEAD_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}
# cuBLAS takes 32 MiB on an H100 or H200 for each thread that calls it, here forward and backward. Beyond the tensors
# that are counted, nine peaks measured on an H200 have 66 to 102 MiB, and M5's 279 (docs/results/gpu.md).
WORKSPACES = {"cpu": 0, "cuda": 64 * MIB}


def head_rows(tokens: int, vocab_size: int, device: str) -> int:
    """Return the rows of logits that the chunked head holds at a time: ``tokens`` in parts as equal as can be."""
    parts = -(-tokens // max(1, HEAD_LOGITS[device] // vocab_size))
    return -(-tokens // parts)


@dataclass(frozen=True)
class Memory:
    """Peak training memory in bytes, by what holds it."""

    parameters: int
    gradients: int
    optimizer: int
    compute_copy: int
    activations: int
    logits: int
    workspaces: int = 0

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

    Kept in eager mode are: the input of both norms (float32; their normalized value too where the norm is not one
    kernel), what the seven matrices multiply, queries, keys and values, and of the feed-forward its gate, its up
    projection and the gate's SiLU. Under autocast each matrix keeps its own bf16 copy of its input. A compiled block
    keeps its own input in float32, and the rest in the products' type: both normalized values once, the attention's
    share of the residual, and neither the second norm's input nor the gate's SiLU, which it makes again.
    """
    d, kv, ff = config.d_model, config.kv_heads * config.head_dim, config.d_ff
    width = BFLOAT16 if bf16 else FLOAT32
    attention = width * (2 * d + 2 * kv) + FLOAT32 * config.n_heads  # q, k, v, output, log-sum
    if compiled:
        return FLOAT32 * (d + 2) + width * (3 * d + 3 * ff) + attention
    norms = 2 * FLOAT32 * (d if fused_norm else 2 * d) + 2 * FLOAT32  # and the scale of a row
    inputs = 5 * d if bf16 else 2 * d  # of q, k, v and of gate, up
    return norms + width * (inputs + 4 * ff) + attention


def logit_bytes(bf16: bool, compiled: bool, parts: int) -> int:
    """Return the bytes that the chunked head holds for a logit: product, float32 copy, gradient; see loss.py.

    Compiled code makes the gradient from the product. Eager code works in float32, in place where the product is that.
    The gradient of the part before lives until the next one takes its name.
    """
    width = BFLOAT16 if bf16 else FLOAT32
    before = width if parts > 1 else 0
    if compiled:
        return before + 2 * width
    return before + (2 * width + FLOAT32 if bf16 else FLOAT32)


def training_memory(
    config: ModelConfig,
    micro_batch: int,
    bf16: bool,
    checkpoint_activations: str = "none",
    shards: int = 1,
    device: str = "cuda",
    compiled: bool = False,
    micro_steps: int = 2,
    compiled_loss: bool | None = None,
) -> Memory:
    """Estimate the peak memory in bytes on each device of a training step with AdamW.

    The peak stands at the end of the forward pass of a micro-batch, with the gradients of those before it. Where a step
    is one of them (``micro_steps`` is 1), gradients take the place of what the backward pass frees, and what they need
    beyond that counts. Weights, gradients and both moments are in float32, split over ``shards`` devices. Under bf16
    autocast each matrix has a bf16 copy that the backward pass needs, so it is not split. With
    ``checkpoint_activations`` "block" the input of each block is kept and one block is recomputed at a time. The logits
    are those of a chunk (see logit_bytes) beside the head's input and the gradients of its input and weight.
    ``compiled`` is said of the blocks, and of the loss where ``compiled_loss`` does not say otherwise.
    """
    count = count_parameters(config)
    d, tokens = config.d_model, micro_batch * config.context_length
    fused_norm = device == "cuda"
    # Bytes of activations for each token: of all blocks, or their inputs and one block in full.
    block = block_activations(config, bf16, fused_norm, compiled)
    per_token = config.n_layers * block
    if checkpoint_activations == "block":
        per_token = config.n_layers * FLOAT32 * d + block
    per_token += FLOAT32 * ((d if fused_norm else 2 * d) + 1)  # the last norm
    angles = (2 if compiled else 4) * config.context_length * config.head_dim  # cosines and sines, for q and for k
    rotary = BFLOAT16 * config.n_layers * angles if bf16 else 0
    rows = head_rows(tokens, config.vocab_size, device)
    # Two blocks and the tables are whole while they are computed with.
    tables, two_blocks = count.total - count.non_embedding, 2 * (count.non_embedding // config.n_layers)
    gathered = FLOAT32 * (two_blocks + tables) if shards > 1 else 0
    split = FLOAT32 * -(-count.total // shards)
    compute_copy = BFLOAT16 * count.matmul if bf16 else 0
    activations = tokens * per_token + rotary
    compiled_loss = compiled if compiled_loss is None else compiled_loss
    logits = rows * config.vocab_size * logit_bytes(bf16, compiled_loss, parts=-(-tokens // rows))
    logits += FLOAT32 * (2 * tokens + config.vocab_size) * d
    freed = compute_copy + activations + logits if micro_steps == 1 else 0
    return Memory(
        parameters=split + gathered,
        gradients=max(0, split - freed),
        optimizer=2 * split,
        compute_copy=compute_copy,
        activations=activations,
        logits=logits,
        workspaces=WORKSPACES[device],
    )
