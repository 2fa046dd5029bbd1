"""OpenAI's protocol: requests checked field by field, answers and errors in its shapes."""

import codecs
import json
import math
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_scale.config import ModelConfig
from llama_scale.data.fim import FimOrder, with_fim_marks
from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig
from llama_scale.serving.batch import Piece, Prompt, TokenScore

MOST_STOPS, MOST_STOP_BYTES = 64, 1024
MOST_PROMPTS = 1024
MOST_LOGPROBS, MOST_CHAT_LOGPROBS = 5, 20
DEFAULT_TOKENS = 16  # of a completion, as the protocol has it
FIM_TOKENS = 128  # of a middle
Kind = Literal["completions", "chat", "fim"]


class ProtocolError(Exception):
    """A request that is refused: the HTTP ``status``, the field ``param`` and a ``code`` beside the message."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """Return the error in OpenAI's shape."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refuse(param: str, expected: str, found: Any) -> ProtocolError:
    """Return the error of a field that is not as expected."""
    text = json.dumps(found, default=str)
    return ProtocolError(400, f"{param}: expected {expected}, found {text[:80]}", param)


@dataclass(frozen=True)
class Ask:
    """A request whose fields are checked; what its model decides is not yet.

    Attributes:
        model: Name of the model; None is the server's first.
        prompts: Texts or ids to continue, or the one chat.
        suffix: What stands after the gap, for fill-in-the-middle.
        max_tokens: Most tokens drawn of a sample; None is what the context has room for.
        logprobs: Likeliest tokens told with each token, None for none.
        echo: Whether the prompt is part of the answer.
        stream: Whether the answer comes in parts; ``usage``: and its tokens are counted in a last one.
    """

    kind: Kind
    model: str | None
    prompts: tuple[str | tuple[int, ...], ...]
    messages: tuple[Mapping[str, str], ...]
    suffix: str | None
    n: int
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int | None
    seed: int
    stop: tuple[str, ...]
    logprobs: int | None
    echo: bool
    stream: bool
    usage: bool

    def sampling(self, context_length: int) -> SamplingConfig:
        """Return how samples are drawn."""
        most = min(self.max_tokens or context_length, context_length)
        return SamplingConfig(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, max_new_tokens=max(1, most),
            seed=self.seed, stop=self.stop,
        )  # fmt: skip


class Fields:
    """The fields of a request; reading one checks it. Unknown fields are left alone, null is as good as absent."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ProtocolError(400, f"the body is a {type(body).__name__}, expected a JSON object")
        self.body = body

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field as it is."""
        value = self.body.get(name)
        return default if value is None else value

    def number(self, name: str, default: Any, low: float, high: float) -> Any:
        """Return a number from ``low`` to ``high``."""
        value = self.get(name, default)
        if value is not default and not (_is_number(value) and low <= value <= high):
            raise refuse(name, f"a number from {low:g} to {high:g}", value)
        return value

    def whole(self, name: str, default: Any, low: int, high: int) -> Any:
        """Return a whole number from ``low`` to ``high``."""
        value = self.get(name, default)
        if value is default:
            return value
        if _is_number(value) and float(value).is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise refuse(name, f"a whole number from {low} to {high}", value)
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.get(name, False)
        if not isinstance(value, bool):
            raise refuse(name, "true or false", value)
        return value

    def text(self, name: str, default: Any = None) -> Any:
        """Return a text that UTF-8 can hold."""
        value = self.get(name, default)
        if value is not default:
            _check_text(name, value)
        return value

    def stop(self) -> tuple[str, ...]:
        """Return the stop strings, one or a list of them."""
        value = self.get("stop", [])
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or len(stops) > MOST_STOPS:
            found = f"{len(stops)} of them" if isinstance(stops, list) else value
            raise refuse("stop", f"at most {MOST_STOPS} texts", found)
        for text in stops:
            _check_text("stop", text)
            if not 0 < len(text.encode()) <= MOST_STOP_BYTES:
                raise refuse("stop", f"texts of 1 to {MOST_STOP_BYTES} bytes", text)
        return tuple(dict.fromkeys(stops))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**1023 and math.isfinite(value)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise refuse(name, "a text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refuse(name, "text that UTF-8 can hold", value) from None


def read_request(body: Any, kind: Kind) -> Ask:
    """Check the fields of a request; raise ProtocolError naming the first that cannot be served."""
    fields = Fields(body)
    n = fields.whole("n", 1, 1, 1 << 30)
    if fields.whole("best_of", n, 1, 1 << 30) != n:
        raise ProtocolError(400, "best_of: only as many as n are drawn; leave it out", "best_of")
    for name in ("tools", "functions", "presence_penalty", "frequency_penalty", "logit_bias"):
        if fields.get(name):
            raise ProtocolError(400, f"{name}: this server has none; leave it out", name)
    if fields.get("response_format", {"type": "text"}) != {"type": "text"}:
        raise ProtocolError(400, "response_format: this server writes text alone; leave it out", "response_format")
    options = fields.get("stream_options", {})
    usage = isinstance(options, dict) and options.get("include_usage") is True
    least = 0 if kind == "completions" else 1
    defaults = {"completions": DEFAULT_TOKENS, "chat": None, "fim": FIM_TOKENS}
    most = fields.whole("max_tokens", defaults[kind], least, 1 << 30)
    if kind == "chat":
        most = fields.whole("max_completion_tokens", most, 1, 1 << 30)
    return Ask(
        kind=kind,
        model=fields.text("model"),
        prompts=() if kind == "chat" else read_prompts(fields.get("prompt", "")),
        messages=read_messages(fields.get("messages")) if kind == "chat" else (),
        suffix=fields.text("suffix", "" if kind == "fim" else None),
        n=n,
        max_tokens=most,
        temperature=float(fields.number("temperature", 1.0, 0, 100)),
        top_p=float(fields.number("top_p", 1.0, 1e-9, 1)),
        top_k=fields.whole("top_k", -1, -1, 1 << 30) if fields.get("top_k", -1) not in (-1, 0) else None,
        seed=fields.whole("seed", secrets.randbelow(1 << 31), 0, (1 << 63) - 1),
        stop=fields.stop(),
        logprobs=_logprobs(fields, kind),
        echo=kind == "completions" and fields.flag("echo"),
        stream=fields.flag("stream"),
        usage=usage,
    )


def _logprobs(fields: Fields, kind: Kind) -> int | None:
    """Return how many likeliest tokens are told: completions have a number, chats a switch and a number."""
    if kind != "chat":
        value = fields.get("logprobs")
        if isinstance(value, bool):
            return 0 if value else None
        return fields.whole("logprobs", None, 0, MOST_LOGPROBS)
    top = fields.whole("top_logprobs", 0, 0, MOST_CHAT_LOGPROBS)
    return top if fields.flag("logprobs") else None


def read_prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """Return the prompts of a request: a text, ids, or a list of either."""
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        value = [value]
    prompts = value if isinstance(value, list) else [value]
    if not 0 < len(prompts) <= MOST_PROMPTS:
        raise refuse("prompt", f"1 to {MOST_PROMPTS} prompts", f"{len(prompts)} of them")
    for prompt in prompts:
        if isinstance(prompt, str):
            _check_text("prompt", prompt)
        elif not isinstance(prompt, list) or not prompt or not all(type(item) is int for item in prompt):
            raise refuse("prompt", "a text, a list of token ids, or a list of those", prompt)
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts)


def read_messages(value: Any) -> tuple[Mapping[str, str], ...]:
    """Return the messages of a chat; a content in parts is joined where all are text."""
    if not isinstance(value, list) or not value:
        raise refuse("messages", "a list of messages", value)
    messages = []
    for number, message in enumerate(value):
        name = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant"):
            raise refuse(name, "an object with the role system, user or assistant", message)
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
                raise refuse(f"{name}.content", "text alone", content)
            content = "".join(part["text"] for part in content)
        _check_text(f"{name}.content", content)
        role = "system" if message["role"] == "developer" else message["role"]
        messages.append({"role": role, "content": content})
    return tuple(messages)


def context_of(tokenizer: AnyTokenizer, prompt: str | Sequence[int], vocab_size: int) -> tuple[tuple[int, ...], int]:
    """Return the ids that a model reads for a prompt, and how many at their start it does not name itself.

    A document end comes before each prompt, as in training, unless it begins with one; of a model from elsewhere what
    its own tokenizer begins a text with.
    """
    start = tokenizer.start
    if isinstance(prompt, str):
        return tuple(tokenizer.context(prompt)), len(start)
    ids = list(prompt)
    if wrong := [i for i in ids if not 0 <= i < vocab_size]:
        raise refuse("prompt", f"token ids from 0 to {vocab_size - 1}", wrong[0])
    if ids[: len(start)] == start:
        return tuple(ids), 0
    return (*start, *ids), len(start)


def fim_context(tokenizer: AnyTokenizer, prefix: str, suffix: str, order: FimOrder = "psm") -> tuple[int, ...]:
    """Return the ids of a gap to fill, arranged as in training."""
    return arrange_gap(tokenizer, tokenizer.encode(prefix), tokenizer.encode(suffix), order)


def arrange_gap(
    tokenizer: AnyTokenizer, prefix: Sequence[int], suffix: Sequence[int], order: FimOrder
) -> tuple[int, ...]:
    """Return the ids of a gap between ids."""
    if tokenizer.fim is None:
        raise ProtocolError(400, "suffix: this model's tokenizer has no marks of fill-in-the-middle", "suffix")
    return (tokenizer.eos, *with_fim_marks(order, prefix, [], suffix, tokenizer.fim))


class Place:
    """Where the next token begins in a text, in characters: bytes that are no UTF-8 are one U+FFFD as in the text."""

    def __init__(self) -> None:
        self.characters, self.decoder = 0, codecs.getincrementaldecoder("utf-8")(errors="replace")

    def take(self, piece: bytes) -> int:
        """Return where a token begins, and go past it."""
        start = self.characters
        self.characters += len(self.decoder.decode(piece))
        return start


class TokenTexts:
    """Names of tokens as the protocol writes them: their text, bytes:... where it is no UTF-8, marks by name."""

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, token: int) -> str:
        """Return the name of a token."""
        raw = self.tokenizer.decode_bytes([token])
        if not raw:
            return self.tokenizer.name(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def completion(self, scores: Sequence[TokenScore], place: Place) -> dict[str, Any]:
        """Return the logprobs object of tokens of a completion, which begin at ``place``."""
        texts = [self(score.token) for score in scores]
        return {
            "tokens": texts,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [self._top(score, text) for score, text in zip(scores, texts, strict=True)],
            "text_offset": [place.take(self.tokenizer.decode_bytes([score.token])) for score in scores],
        }

    def _top(self, score: TokenScore, text: str) -> dict[str, float] | None:
        """Return the likeliest tokens and the token itself by their texts; of two with one text the likelier stays."""
        if score.logprob is None:
            return None
        top: dict[str, float] = {}
        for token, logprob in score.top:
            top.setdefault(self(token), logprob)
        top.setdefault(text, score.logprob)
        return top

    def chat(self, scores: Sequence[TokenScore]) -> dict[str, Any]:
        """Return the logprobs object of a chat."""

        def entry(token: int, logprob: float | None) -> dict[str, Any]:
            return {"token": self(token), "logprob": logprob, "bytes": list(self.tokenizer.decode_bytes([token]))}

        rows = [
            entry(score.token, score.logprob) | {"top_logprobs": [entry(*pair) for pair in score.top]}
            for score in scores
        ]
        return {"content": rows, "refusal": None}


@dataclass
class Answer:
    """Writes the answers to one request, whole or in parts."""

    ask: Ask
    model: str
    fingerprint: str
    texts: TokenTexts

    def __post_init__(self) -> None:
        prefix = "chatcmpl" if self.ask.kind == "chat" else "cmpl"
        self.id, self.created = f"{prefix}-{secrets.token_hex(12)}", int(time.time())

    def _body(self, choices: list[dict[str, Any]], part: bool) -> dict[str, Any]:
        kind = self.ask.kind
        name = "text_completion" if kind == "completions" else "chat.completion" + (".chunk" if part else "")
        return {
            "id": self.id, "object": name, "created": self.created, "model": self.model, "choices": choices,
            "system_fingerprint": self.fingerprint, "seed": self.ask.seed,
        }  # fmt: skip

    def _choice(
        self, index: int, text: str, reason: str | None, scores: Sequence[TokenScore], place: Place, part: bool
    ) -> dict[str, Any]:
        told = self.ask.logprobs is not None
        if self.ask.kind == "completions":
            logprobs = self.texts.completion(scores, place) if told else None
            return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        message = {"content": text} if part else {"role": "assistant", "content": text, "refusal": None}
        logprobs = self.texts.chat(scores) if told else None
        return {"index": index, "delta" if part else "message": message, "logprobs": logprobs, "finish_reason": reason}

    def opening(self, count: int) -> Iterable[dict[str, Any]]:
        """Yield the parts that say that an assistant answers, in a chat."""
        if self.ask.kind == "completions":
            return
        for index in range(count):
            choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
            yield self._body([choice | {"finish_reason": None}], True)

    def part(self, index: int, piece: Piece, place: Place) -> dict[str, Any]:
        """Return a part of a streamed answer, whose tokens begin at ``place``."""
        choice = self._choice(index, piece.text, piece.finish_reason, piece.tokens, place, True)
        return self._body([choice], True)

    def whole(
        self, samples: Sequence[tuple[str, str | None, Sequence[TokenScore]]], usage: dict[str, int]
    ) -> dict[str, Any]:
        """Return the answer of samples (text, finish reason, scores)."""
        choices = [self._choice(number, *sample, Place(), False) for number, sample in enumerate(samples)]
        return self._body(choices, False) | {"usage": usage}

    def usage_part(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the last part of a stream, with no choice."""
        return self._body([], True) | {"usage": usage}


def usage_of(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """Return the counts of tokens as the protocol has them."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def make_prompts(
    ask: Ask, tokenizer: AnyTokenizer, config: ModelConfig, fim_order: FimOrder
) -> tuple[list[Prompt], list[int]]:
    """Return what the engine is to do for completions, and how many ids of each the client did not name."""
    context_length = config.context_length
    sampling, found, hidden = ask.sampling(context_length), [], []
    for task, prompt in enumerate(ask.prompts):
        if ask.suffix is not None:
            if not isinstance(prompt, str):
                raise ProtocolError(400, "prompt: beside a suffix it is a text, not token ids", "prompt")
            if ask.echo:
                raise ProtocolError(400, "echo: not beside a suffix", "echo")
            ids, extra = fim_context(tokenizer, prompt, ask.suffix, fim_order), 0
        else:
            ids, extra = context_of(tokenizer, prompt, config.vocab_size)
        if len(ids) + (ask.max_tokens != 0) > context_length:
            problem = f"this model's context is {context_length} tokens, the prompt alone has {len(ids)}; shorten it"
            raise ProtocolError(400, f"prompt: {problem}", "prompt", "context_length_exceeded")
        score = ask.echo and ask.logprobs is not None
        only = ask.max_tokens == 0
        found.append(Prompt(ids, sampling, ask.n, task, ask.logprobs, score, only))
        hidden.append(extra)
    return found, hidden


def as_protocol_error(error: Exception) -> ProtocolError:
    """Return an error as the protocol tells it; what is no fault of the request is a 500 without details."""
    if isinstance(error, ProtocolError):
        return error
    if isinstance(error, InputError):
        field = str(error).partition(":")[0]
        return ProtocolError(400, str(error), field if field.isidentifier() else None)
    return ProtocolError(500, "the server failed; its log says why")
