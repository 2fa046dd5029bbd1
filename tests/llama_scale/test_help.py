"""The text of --help, from the classes that the commands fill."""

from dataclasses import dataclass, field
from typing import Literal

from llama_scale.config import ModelConfig, OptimConfig
from llama_scale.help import help_text, type_words


@dataclass(frozen=True)
class Base:
    """What others extend.

    Args:
        seed: Seed of the numbers.
    """

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Made(Base):
    """A command's settings.

    Args:
        model: The shape.
        optim: The optimizer.
        size: Name of the rung.
        tokens: Training tokens; auto is 20 for each parameter, which is a text long enough for two lines of the help.
        device: Where to compute.
        keep_steps: Steps that are kept.
        out: Folder; null prints only.
    """

    model: ModelConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    size: str = "custom"
    tokens: float | Literal["auto"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    keep_steps: list[int] = field(default_factory=list)
    out: str | None = None


def test_types_are_words():
    assert type_words(float | Literal["auto"]) == "NUMBER|auto"
    assert type_words(int | None) == "INTEGER"
    assert type_words(list[int]) == "[INTEGER,...]"
    assert type_words(bool | Literal["auto"]) == "true|false|auto"
    assert type_words(dict[str, int]) == "{name: value}"


def test_settings_stand_in_groups_with_types_and_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text(Made, "made.py", "Make it.", "--size M1", positional="size")
    lines = text.splitlines()
    assert lines[:3] == ["usage: made.py [SIZE] [--config FILE] [--SETTING VALUE ...]", "", "Make it."]
    groups = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert groups == ["what:", "optimizer:", "machine:", "output:", "everywhere:", "example:"]
    assert lines[-1] == "  made.py --size M1"
    assert max(map(len, lines)) <= 100

    def row(flag: str) -> str:
        start = next(i for i, line in enumerate(lines) if line.startswith(f"  {flag} "))
        end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith("    "))
        return " ".join(" ".join(lines[start:end]).split())

    assert row("--seed") == "--seed INTEGER Seed of the numbers. (default: 0)"
    assert row("--model.d_ff").endswith("(required)")
    assert row("--tokens").startswith("--tokens NUMBER|auto Training") and row("--tokens").endswith("(default: auto)")
    assert row("--optim.lr").startswith("--optim.lr NUMBER|auto Peak learning rate")
    assert row("--keep_steps").endswith("(default: [])") and row("--out").endswith("(default: null)")
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(flags) == len(set(flags)) and flags.index("--size") < flags.index("--model.d_model")
