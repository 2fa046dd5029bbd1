"""Settings of sampling, readable without torch."""

from dataclasses import dataclass

from llama_scale.errors import InputError, at_least_0, at_least_1, check_fields


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
        check_fields(self, "at least 0", at_least_0, "temperature seed")
        check_fields(self, "more than 0 and at most 1", lambda x: 0 < x <= 1, "top_p")
        check_fields(self, "at least 1 or null", at_least_1, "top_k")
        check_fields(self, "at least 1", at_least_1, "max_new_tokens")
        if "" in self.stop:
            raise InputError("stop: an empty string would end every completion")
