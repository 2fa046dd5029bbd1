"""Held-out bits per byte during training, as a Lightning callback handed in by the launcher."""

import time

import lightning.pytorch as pl

from evals.perplexity import score
from llama_scale.data.shards import open_tokens
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.training.callbacks import StepCallback


class Validation(StepCallback):
    """Scores the first ``max_tokens`` of the validation split every ``every`` steps.

    The set is the same for every model of a study. val_loss (nats per token) and
    val_bits_per_byte stand in the next row of metrics.jsonl, and always in the last one.
    """

    def __init__(self, data: str, every: int, max_tokens: int) -> None:
        super().__init__()
        self.tokens = open_tokens(data, "val")
        self.byte_lengths = Tokenizer(self.tokens.folder / "tokenizer.model").byte_lengths
        self.every, self.max_tokens = every, max_tokens

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Score the model when it is time."""
        if step % self.every and step != trainer.max_steps:
            return
        start = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            result = score(module.model, self.tokens, self.byte_lengths, self.max_tokens)
        module.scores |= {"val_loss": result.loss, "val_bits_per_byte": result.bits_per_byte}
        module.seconds_scoring += time.perf_counter() - start
