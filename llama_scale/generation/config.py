"""Settings of sampling, readable without torch."""

from dataclasses import dataclass

from llama_scale.errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn.

    Args:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Mass of the nucleus that tokens are drawn from (Holtzman et al. 2020); 1 is all.
        top_k: Number of likeliest tokens that are drawn from; null is all.
        max_new_tokens: Most tokens in a completion.
        seed: Seed of the random numbers.
        stop: Strings that end a completion, which is cut before them.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    top_k: int | None = None
    max_new_tokens: int = 512
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InputError(f"temperature: expected at least 0, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: expected more than 0 and at most 1, found {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k: expected at least 1 or null, found {self.top_k}")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens: expected at least 1, found {self.max_new_tokens}")
        if self.seed < 0:
            raise InputError(f"seed: expected at least 0, found {self.seed}")
        if "" in self.stop:
            raise InputError("stop: an empty string would end every completion")
