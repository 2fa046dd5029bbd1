"""What a tuned model still knows: loss on the text that its base was trained for, as a scorer of the metrics log."""

import lightning.pytorch as pl

from evals.perplexity import score
from llama_scale.data.shards import check_tokenizer, open_tokens
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError


class Retained:
    """Scores the first ``max_tokens`` of the validation split of ``data`` at the end of a run.

    Raises InputError if the shards were made with another tokenizer than the base's.
    """

    def __init__(self, data: str, max_tokens: int, tokenizer: object) -> None:
        self.tokens = open_tokens(data, "val")
        if not isinstance(tokenizer, Tokenizer):
            raise InputError(f"retain: {data} has SentencePiece tokens and the base's tokenizer is tokenizer.json")
        check_tokenizer(self.tokens, tokenizer)
        self.byte_lengths, self.max_tokens = tokenizer.byte_lengths, max_tokens

    def score(self, model: object) -> dict[str, float]:
        """Return retained_loss (nats per token) and retained_bits_per_byte."""
        result = score(model, self.tokens, self.byte_lengths, self.max_tokens)  # type: ignore[arg-type]
        return {"retained_loss": result.loss, "retained_bits_per_byte": result.bits_per_byte}

    def __call__(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> dict[str, float]:
        """Return the scores after the last step, else nothing."""
        if step != trainer.max_steps:
            return {}
        with trainer.precision_plugin.forward_context():
            return self.score(module.model)
