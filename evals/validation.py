"""Held-out bits per byte during training, as a scorer of the metrics log."""

from evals.perplexity import score
from llama_scale.data.shards import open_tokens
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.lightning import pl


class Validation:
    """Scores the same first ``max_tokens`` of the validation split every ``every`` steps and at the end."""

    def __init__(self, data: str, every: int, max_tokens: int) -> None:
        self.tokens = open_tokens(data, "val")
        self.byte_lengths = Tokenizer(self.tokens.folder / "tokenizer.model").byte_lengths
        self.every, self.max_tokens = every, max_tokens

    def __call__(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> dict[str, float]:
        """Return val_loss (nats per token) and val_bits_per_byte when it is time, else nothing."""
        if step % self.every and step != trainer.max_steps:
            return {}
        with trainer.precision_plugin.forward_context():
            result = score(module.model, self.tokens, self.byte_lengths, self.max_tokens)
        return {"val_loss": result.loss, "val_bits_per_byte": result.bits_per_byte}
