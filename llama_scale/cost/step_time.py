"""Time of a training step on a GPU whose parts were measured: products, attention, memory traffic.

From the profiles of M2 (32 x 1), M3 (16 x 1), M4 (8 x 8) and M5 (4 x 1) on one H200, compiled, bf16 autocast, torch
2.11, context 2,048 (docs/results/gpu.md). The rates there are nearly the same over these sizes, so each is one share of
the card's data sheet; how well the shares hold on another card of the same chip has not been measured.
"""

from dataclasses import dataclass

from llama_scale.config import ModelConfig
from llama_scale.cost.accounting import count_parameters
from llama_scale.cost.hardware import Hardware
from llama_scale.cost.memory import BFLOAT16, FLOAT32, head_rows

# Shares of the bf16 peak: matrix products 682, 673, 700 and 700 TFLOP/s for M2 to M5; causal attention, forward and
# backward, 302 with heads of 64 (M2) and 354, 353 and 348 with heads of 128.
PRODUCTS = 0.70
ATTENTION = {64: 0.305, 128: 0.356}
# Shares of the memory's bandwidth: 4,138 GB/s read and written by a copy, 3.4 TB/s by fused AdamW.
COPIES = 0.86
ADAMW = 0.70
# Bytes of memory traffic. Of a token and layer for each of d_model, fitted: norms, rope and residual read and write
# about 85, by kernels that are slower than a copy. SwiGLU for each of d_ff, counted: 6 forward, 12 backward.
RESIDUAL_TRAFFIC = 140
SWIGLU_TRAFFIC = 9 * BFLOAT16
LOGIT_TRAFFIC = 3 * BFLOAT16  # read twice, its gradient written
# Of a weight in each micro-step, the cast to bf16 and that of its gradient back; then the sum of two gradients.
CAST_TRAFFIC = 2 * (FLOAT32 + BFLOAT16)
SUM_TRAFFIC = 3 * FLOAT32
# Of a parameter in each step: weight, gradient and moments read and written, and the gradient read for its norm.
OPTIMIZER_TRAFFIC = 9 * FLOAT32

IDLE_SECONDS = 4e-3  # of a step, without a kernel: 4.2, 4.3 and 2.8 ms at M2, M3 and M5, which wait for each step
# Of a layer in a forward and backward pass, launching its kernels. The fastest steps of S1 to S4 took 2.0 to 2.6 ms a
# layer, with up to six such runs on the card; one alone may be faster.
LAUNCH_SECONDS = 2.2e-3
RECOMPUTE = 4 / 3  # a second forward pass beside one forward and one backward of twice its work

LAW = (
    f"{PRODUCTS:.0%} of the peak in matrix products, {ATTENTION[64]:.1%} (heads to 64) or {ATTENTION[128]:.1%} in "
    f"causal attention; {COPIES:.0%} of the bandwidth in {RESIDUAL_TRAFFIC} d + {SWIGLU_TRAFFIC} d_ff bytes a token "
    f"and layer, {LOGIT_TRAFFIC} a logit, {CAST_TRAFFIC} a weight and micro-step and {SUM_TRAFFIC} more where "
    f"gradients are summed; {ADAMW:.0%} of it in {OPTIMIZER_TRAFFIC} bytes a parameter and step; "
    f"{1e3 * IDLE_SECONDS:.0f} ms a step idle; at least {1e3 * LAUNCH_SECONDS:.1f} ms a layer and micro-step to launch"
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step by what the GPU does, and of the host that launches it, which runs beside."""

    products: float
    attention: float
    elementwise: float
    weights: float
    optimizer: float
    idle: float
    host: float

    @property
    def total(self) -> float:
        """Seconds of the step: of the GPU's parts, or of the host where it is slower."""
        return max(sum(vars(self).values()) - self.host, self.host)

    def __str__(self) -> str:
        parts = {name: seconds for name, seconds in vars(self).items() if name != "host"}
        if self.total == self.host:
            return f"{1e3 * self.total:,.1f} ms a step (the host's launches; GPU {1e3 * sum(parts.values()):,.1f})"
        shares = ", ".join(f"{name} {seconds / self.total:.0%}" for name, seconds in parts.items())
        return f"{1e3 * self.total:,.1f} ms a step ({shares})"


def step_time(
    config: ModelConfig,
    micro_batch: int,
    card: Hardware,
    checkpoint_activations: str = "none",
    shards: int = 1,
    micro_steps: int = 1,
) -> StepTime:
    """Estimate the seconds of a training step on each device: compiled blocks, bf16 autocast, AdamW, one H200's rates.

    Communication between devices is not counted, recomputation is taken to cost a second forward pass, and eager blocks
    take longer: none of the three was measured.
    """
    count = count_parameters(config)
    assert card.bandwidth is not None, card.words
    copies = COPIES * card.bandwidth  # bytes a second
    again = RECOMPUTE if checkpoint_activations == "block" else 1
    d, layers, sequences = config.d_model, config.n_layers, micro_batch * micro_steps
    tokens = sequences * config.context_length
    attention_rate = card.peak * ATTENTION[64 if config.head_dim <= 64 else 128]
    attention = 6 * layers * d * config.context_length  # FLOPs of a token, causal
    embedding = config.vocab_size * d
    rows = head_rows(micro_batch * config.context_length, config.vocab_size, "cuda")
    chunks = micro_steps * micro_batch * config.context_length / rows
    # The head's gradient comes in bf16 from each chunk and is added to one in float32.
    head = LOGIT_TRAFFIC * tokens * config.vocab_size + (BFLOAT16 + 2 * FLOAT32) * chunks * embedding
    block = again * tokens * layers * (RESIDUAL_TRAFFIC * d + SWIGLU_TRAFFIC * config.d_ff)
    sums = SUM_TRAFFIC * (micro_steps - 1)
    return StepTime(
        products=6 * tokens * (again * (count.matmul - embedding) + embedding) / (PRODUCTS * card.peak),
        attention=again * tokens * attention / attention_rate,
        elementwise=(block + head) / copies,
        weights=count.matmul * (CAST_TRAFFIC * micro_steps + sums) / copies,
        optimizer=OPTIMIZER_TRAFFIC * count.total / shards / (ADAMW * card.bandwidth),
        idle=IDLE_SECONDS,
        host=LAUNCH_SECONDS * layers * micro_steps,
    )
