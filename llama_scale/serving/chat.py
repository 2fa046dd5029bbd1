"""Chat templates: messages into the ids that a chat model was trained on."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.files import read_fields, read_text

MOST_BYTES = 1 << 20  # of a template
GUARD = "\ufdd0"  # a character that no text has: it parts a mark that a person wrote


@dataclass(frozen=True)
class ChatTemplate:
    """A jinja template as transformers writes it, with the marks that it may make.

    ``marks`` are texts that stand for one id each, such as <|im_start|>; a message that holds one is read as text.
    """

    source: str
    name: str
    marks: Mapping[str, int] = field(default_factory=dict)
    bos: str = ""
    eos: str = ""

    @classmethod
    def read(cls, path: Path, **settings: Any) -> "ChatTemplate":
        """Read a template file; raise InputError where it cannot be used."""
        try:
            return cls(read_text(path, MOST_BYTES), str(path), **settings).check()
        except InputError as error:
            raise InputError(f"template: {error}") from None

    def check(self) -> "ChatTemplate":
        """Raise InputError where it is no template; return it."""
        self.render([{"role": "user", "content": "x"}])
        return self

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text that an answer follows; raise InputError where the template refuses the messages."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise InputError(f"messages: the template says: {message}")

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        names = {"bos_token": self.bos, "eos_token": self.eos, "add_generation_prompt": True}
        try:
            return environment.from_string(self.source).render(messages=list(map(dict, messages)), **names)
        except InputError:
            raise
        except Exception as error:  # its own, and whatever the template's expressions raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{self.name}: not a chat template ({reason})") from None

    def ids(self, messages: Sequence[Mapping[str, str]], encode: Any) -> list[int]:
        """Return the ids of the prompt of a chat; ``encode`` gives those of a text without marks."""
        pattern = re.compile("|".join(map(re.escape, sorted(self.marks, key=len, reverse=True))) or r"(?!)")
        guarded = [
            {**message, "content": pattern.sub(lambda mark: mark[0][0] + GUARD + mark[0][1:], message["content"])}
            for message in messages
        ]
        text, ids, start = self.render(guarded), [], 0
        for mark in pattern.finditer(text):
            ids += encode(text[start : mark.start()].replace(GUARD, ""))
            ids.append(self.marks[mark[0]])
            start = mark.end()
        return ids + encode(text[start:].replace(GUARD, ""))


def find_template(folder: Path) -> ChatTemplate | None:
    """Return the chat template beside a checkpoint's tokenizer, None where there is none."""
    settings_path, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = read_fields(settings_path) if settings_path.is_file() else {}
    source = read_text(file, MOST_BYTES) if file.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # named ones
        named = [item for item in source if isinstance(item, dict) and item.get("name") == "default"]
        source = named[0].get("template") if named else None
    if not isinstance(source, str):
        return None
    marks_path = folder / "tokenizer.json"
    known = read_fields(marks_path).get("added_tokens") if marks_path.is_file() else []
    try:
        marks = {str(item["content"]): int(item["id"]) for item in known or [] if item.get("special")}
    except (TypeError, AttributeError, KeyError, ValueError):
        raise InputError(
            f"{marks_path}: added_tokens are not the tokens of a tokenizer; copy the model's own"
        ) from None

    def text(name: str) -> str:
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else ""

    return ChatTemplate(source, str(folder), marks, text("bos_token"), text("eos_token"))
