"""Known models by name: which family a folder of theirs is of, and how they are asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_scale.errors import InputError
from llama_scale.files import read_json


@dataclass(frozen=True)
class Preset:
    """A model on the Hub: ``hub`` its name there, ``model_type`` what its config.json calls its family."""

    hub: str
    model_type: str
    form: Literal["chat", "completion"]


# The seven models whose two- and three-stage pipelines were first compared, and the small one that a wheel holds.
PRESETS = {
    "distilgpt2": Preset("distilbert/distilgpt2", "gpt2", "completion"),
    "deberta": Preset("microsoft/deberta-v3-base", "deberta-v2", "completion"),
    "starcoderbase-1b": Preset("bigcode/starcoderbase-1b", "gpt_bigcode", "completion"),
    "qwen2.5-coder-1.5b": Preset("Qwen/Qwen2.5-Coder-1.5B-Instruct", "qwen2", "chat"),
    "flan-t5-small": Preset("google/flan-t5-small", "t5", "completion"),
    "deepseek-coder-1.3b": Preset("deepseek-ai/deepseek-coder-1.3b-instruct", "llama", "chat"),
    "phi-3-mini": Preset("microsoft/Phi-3-mini-4k-instruct", "phi3", "chat"),
    "smollm2-135m": Preset("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", "chat"),
}
ENCODERS = ("deberta-v2",)  # they write no text


def find_preset(name: str, setting: str) -> Preset:
    """Return the preset of that name; raise InputError if there is none, or if its model cannot write."""
    if name not in PRESETS:
        raise InputError(f"{setting}.preset: {name} is not known; give one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if preset.model_type in ENCODERS:
        raise InputError(f"{setting}.preset: {preset.hub} is an encoder, which writes no text; choose another model")
    return preset


def check_family(folder: Path, preset: Preset, setting: str) -> None:
    """Raise InputError if a folder holds a model of another family than the preset's."""
    config = read_json(folder / "config.json")
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != preset.model_type:
        problem = f"{folder} is of the family {found}, {preset.hub} of {preset.model_type}"
        raise InputError(f"{setting}.preset: {problem}; name its folder, or leave the preset out")
