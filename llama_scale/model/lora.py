"""Low-rank adapters by the peft library, in Llama or in a transformers model, in peft's own files.

An adapter is adapter_config.json and adapter_model.safetensors, with the names of the transformers model. One trained
here is opened by ``peft.PeftModel`` on the exported base, and one trained by peft is opened here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from llama_scale.config import LoraSettings
from llama_scale.errors import InputError, nearest
from llama_scale.files import check_regular, read_json
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.hf import to_hf_name
from llama_scale.model.llama import Block, Llama

if TYPE_CHECKING:
    from peft import LoraConfig

PREFIX = "base_model.model."  # of each name in an adapter's file
NAME = "default"  # peft's name of the one adapter
FACTORS = (f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Model = Llama | ForeignModel


def foreign_name(model: Model, name: str) -> str:
    """Return the name in transformers of a module or parameter of ``model``."""
    if isinstance(model, ForeignModel):
        return name.removeprefix("inner.")
    return to_hf_name(f"{name}.").removesuffix(".")


def linear_layers(model: Model) -> dict[str, nn.Linear]:
    """Return the layers that may get an adapter, by name: all matrix products but the output head.

    Those of GPT-2 are of a class of transformers, with the same matrix transposed.
    """
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    return {name: module for name, module in layers.items() if module is not model.head}


def find_targets(model: Model, settings: LoraSettings) -> list[str]:
    """Return the names of the layers that ``settings`` mean; raise InputError naming an unknown one."""
    layers = linear_layers(model)
    if settings.target_names == ["all-linear"]:
        return list(layers)
    known: dict[str, list[str]] = {}
    for name in layers:
        for last in {name.rpartition(".")[2], foreign_name(model, name).rpartition(".")[2]}:
            known.setdefault(last, []).append(name)
    tables = {name for name, module in model.named_modules() if module is model.head or module is model.embedding}
    tables |= {foreign_name(model, name) for name in tables}
    found: list[str] = []
    for target in settings.target_names:
        if target in tables or target in {name.rpartition(".")[2] for name in tables}:
            why = "token embedding and output head are one matrix" if model.tied else "the head takes no adapter"
            raise InputError(f"lora.targets: {target} cannot be adapted: {why}; use all-linear or leave it out")
        if target not in known:
            names = ", ".join(sorted(known))
            raise InputError(f"lora.targets: no layer {target!r}{nearest(target, known)}; there are {names}")
        found += known[target]
    return [name for name in layers if name in found]


def peft_config(settings: LoraSettings, targets: list[str], transposed: bool, base: str | None = None) -> "LoraConfig":
    """Return ``settings`` as peft's, for the layers of these names; ``transposed`` says that they are GPT-2's."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float is read and written as well
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        fan_in_fan_out=transposed,
        target_modules=targets,
    )


def adapt(model: Model, settings: LoraSettings, seed: int) -> list[str]:
    """Put new adapters into ``model``, drawn from ``seed``, freeze the rest; return the adapted layers' names."""
    targets, layers = find_targets(model, settings), linear_layers(model)
    transposed = not any(isinstance(layers[name], nn.Linear) for name in targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject(model, peft_config(settings, targets, transposed))
    return targets


def inject(model: Model, config: "LoraConfig") -> None:
    """Put the adapters of ``config``, whose targets are names of ``model``, into it and freeze the rest."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    if config.lora_dropout and isinstance(model, Llama):
        for block in model.blocks:
            assert isinstance(block, Block)
            block.random = True


def file_names(model: Model) -> dict[str, str]:
    """Return the name in an adapter's file of each adapter parameter of ``model``."""
    names = {}
    for name, _ in model.named_parameters():
        if name.endswith(FACTORS):
            module, _, factor = name.removesuffix(f".{NAME}.weight").rpartition(".")
            names[name] = f"{PREFIX}{foreign_name(model, module)}.{factor}.weight"
    return names


def config_json(model: Model, settings: LoraSettings, base: str) -> dict[str, Any]:
    """Return adapter_config.json for adapters that ``model`` has: the shortest names that mean these layers alone."""
    adapted = list(dict.fromkeys(name.rpartition(".lora_")[0] for name in file_names(model)))
    names = [foreign_name(model, name) for name in adapted]
    last = {name.rpartition(".")[2] for name in names}
    plain = (foreign_name(model, name.removesuffix(".base_layer")) for name in linear_layers(model))
    meant = {name for name in plain if name.rpartition(".")[2] in last and ".lora_" not in name}
    transposed = any(layer.fan_in_fan_out for _, _, layer in adapter_layers(model))
    fields = peft_config(settings, sorted(last if meant == set(names) else names), transposed, base).to_dict()
    fields["target_modules"] = sorted(fields["target_modules"])
    return fields | {"inference_mode": True, "peft_type": "LORA", "task_type": "CAUSAL_LM"}


def load_adapter(model: Model, folder: Path) -> None:
    """Put the adapter in ``folder``, of this project or of peft, into ``model``; raise InputError if it is not its."""
    from peft import LoraConfig

    fields = read_json(folder / CONFIG)
    problems = {
        "peft_type": fields.get("peft_type") != "LORA",
        "bias": fields.get("bias", "none") != "none",
        **{name: bool(fields.get(name)) for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")},
    }
    for name, found in problems.items():
        if found:
            raise InputError(f"{folder / CONFIG}: {name} is {fields.get(name)!r}; merge such an adapter with peft")
    try:
        check_regular(folder / WEIGHTS)
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS}: cannot be read ({error})") from None
    modules = {foreign_name(model, name): name for name in linear_layers(model)}
    wanted = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in weights}
    if unknown := sorted(wanted - modules.keys()):
        raise InputError(f"{folder / WEIGHTS}: adapts {unknown[0]}, which this base lacks; it is of another base")
    config = LoraConfig.from_pretrained(str(folder))
    assert isinstance(config, LoraConfig)
    config.target_modules = sorted(modules[name] for name in wanted)
    config.inference_mode = False
    inject(model, config)
    load_factors(model, weights, str(folder / WEIGHTS))


@torch.no_grad()
def load_factors(model: Model, weights: dict[str, Tensor], source: str) -> None:
    """Copy the tensors of an adapter's file into the adapters of ``model``; raise InputError where they differ."""
    parameters, names = dict(model.named_parameters()), file_names(model)
    for name in sorted(names.values() ^ weights.keys()):
        raise InputError(f"{source}: {name} is {'unknown' if name in weights else 'missing'}; the file is damaged")
    for ours, theirs in names.items():
        if weights[theirs].shape != parameters[ours].shape:
            found = f"{theirs} is {tuple(weights[theirs].shape)}, not {tuple(parameters[ours].shape)}"
            raise InputError(f"{source}: {found}; it is of another base")
        parameters[ours].copy_(weights[theirs])


def adapter_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield the parent, the name in it and the layer of each adapted layer."""
    from peft.tuners.lora import LoraLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                yield parent, name, child


def merge(model: Model) -> None:
    """Add the adapters' products to the weights of ``model`` and take them out; raise InputError if not finite."""
    for parent, name, layer in adapter_layers(model):
        try:
            layer.merge(safe_merge=True)
        except ValueError:
            raise InputError("the adapter's weights are not finite; use an earlier checkpoint") from None
        setattr(parent, name, layer.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
