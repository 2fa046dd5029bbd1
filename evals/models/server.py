"""A completion server with OpenAI's protocol as a model that completes prompts."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evals.models.request import Completion, Request, cut_at_stop
from llama_scale.errors import InputError


@dataclass
class ServerCompleter:
    """An OpenAI-compatible server: ``url`` ends before /completions, as in http://host/v1."""

    url: str
    name: str
    timeout: float = 600.0

    def complete(self, request: Request) -> Iterator[Completion]:
        """Ask for the completions of one prompt at a time; raise InputError if that fails."""
        sampling, count = request.sampling, request.n_samples
        for number, prompt in request.prompts.items():
            body = {"model": self.name, "prompt": prompt, "n": count, "max_tokens": sampling.max_new_tokens,
                    "temperature": sampling.temperature, "top_p": sampling.top_p,
                    "seed": sampling.seed + number, "stop": list(sampling.stop[:4]) or None}  # fmt: skip
            choices = self._ask(body)
            if len(choices) < count:
                raise InputError(f"{self.url}: {len(choices)} completions of {count} asked for")
            for index, choice in enumerate(choices[:count]):
                text = cut_at_stop(str(choice.get("text") or ""), sampling.stop)
                yield Completion(number, index, text, None, choice.get("finish_reason"))

    def _ask(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        url = f"{self.url.rstrip('/').removesuffix('/completions')}/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return json.load(reply)["choices"]
        except urllib.error.HTTPError as error:
            reply = error.read(200).decode("utf-8", "replace").replace("\n", " ")
            raise InputError(f"{url}: {error.code} {reply}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{url}: no completion ({type(error).__name__}: {error})") from None

    def score_references(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Servers give no probabilities of a given text that could be relied on."""
