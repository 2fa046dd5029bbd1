"""The transformers LLaMA layout, both ways: weights are renamed, nothing is permuted."""

import re
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import ESCAPE
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama, rope_table

# Ours -> theirs, applied in this order to a parameter's name.
RENAMES = [
    (r"^embedding\.", "model.embed_tokens."),
    (r"^norm\.", "model.norm."),
    (r"^head\.", "lm_head."),
    (r"^blocks\.", "model.layers."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
    (r"\.attention\.([qkvo])\.", r".self_attn.\1_proj."),
    (r"\.ffn\.(gate|up|down)\.", r".mlp.\1_proj."),
]
# Field of our shape -> field of a transformers config.json.
CONFIG_FIELDS = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
}
# Fields of a config.json that must be so. All but the first are so where they are missing.
READABLE = {
    "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_type": "default"
}  # fmt: skip


def to_hf_name(name: str) -> str:
    """Return the transformers name of a parameter of ``Llama``."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def to_hf(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ``Llama`` state dictionary to that of ``LlamaForCausalLM``."""
    return {to_hf_name(name): value for name, value in weights.items()}


def from_hf(weights: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Rename a ``LlamaForCausalLM`` state dictionary to the given parameter names of ``Llama``.

    A missing ``lm_head.weight`` (tied embeddings) is the token embedding.
    """
    tied = {"lm_head.weight": weights["model.embed_tokens.weight"]}
    return {name: (tied | weights)[to_hf_name(name)] for name in names}


@torch.no_grad()
def as_llama(inner: Any) -> Llama | None:
    """Return a transformers model as a ``Llama`` that has its weights, not a copy of them; None where it is no LLaMA.

    What it is is read from its configuration, and one pass over a few tokens has to give the same logits.
    """
    try:
        config = model_config(inner.config.to_dict(), Path("config.json"))
        names = check_weights(weights := inner.state_dict(), config, Path("weights"))
    except InputError:
        return None
    embedding = inner.get_input_embeddings().weight
    model = Llama.empty_model(config, "meta")
    model.load_state_dict(from_hf(weights, names), assign=True)
    model.rope = rope_table(config, embedding.device)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    tokens = torch.arange(min(8, config.vocab_size), device=embedding.device)[None]  # (1, T)
    theirs, ours = inner(input_ids=tokens, use_cache=False).logits.float(), model.eval()(tokens).float()  # (1, T, V)
    rounding = (1e-3 if embedding.dtype == torch.float32 else 5e-2) * theirs.abs().max()
    return model if bool((theirs - ours).abs().max() <= rounding) else None


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a transformers ``LlamaConfig`` for this shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(config, ours) for ours, theirs in CONFIG_FIELDS.items()},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rope_theta": config.rope_theta,  # for transformers before version 5
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    }


def model_config(fields: dict[str, Any], path: Path) -> ModelConfig:
    """Return our shape for the ``fields`` of a transformers config.json; raise InputError naming what is not ours."""
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected the fields of a model, found {type(fields).__name__}")
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters should have fields, found {rope!r:.40}")
    given = {"model_type": None} | fields | {"rope_type": rope.get("rope_type", rope.get("type", "default"))}
    for name, readable in READABLE.items():
        if (value := given.get(name, readable)) != readable:
            raise InputError(f"{path}: {name} is {value!r}; only {readable!r} can be read")
    for name in CONFIG_FIELDS.values():
        if type(fields.get(name)) is not int:
            raise InputError(f"{path}: {name} should be a whole number, found {fields.get(name)!r}")
    tied, kv_heads = fields.get("tie_word_embeddings", False), fields.get("num_key_value_heads")
    if type(tied) is not bool or type(kv_heads) not in (int, type(None)):
        found = f"tie_word_embeddings is {tied!r:.40} and num_key_value_heads {kv_heads!r:.40}"
        raise InputError(f"{path}: {found}; expected true or false, and a whole number")
    theta, eps = rope.get("rope_theta", fields.get("rope_theta", 10_000.0)), fields.get("rms_norm_eps", 1e-6)
    if {type(theta), type(eps)} - {int, float}:
        raise InputError(f"{path}: rope_theta is {theta!r:.40} and rms_norm_eps {eps!r:.40}; expected numbers")
    config = ModelConfig(
        **{ours: fields[theirs] for ours, theirs in CONFIG_FIELDS.items()},
        n_kv_heads=kv_heads,
        rope_theta=float(theta),
        norm_eps=float(eps),
        tie_embeddings=tied,
    )
    if fields.get("head_dim") not in (None, config.head_dim):
        raise InputError(f"{path}: head_dim is {fields['head_dim']}, not {config.head_dim}")
    return config


def tokenizer_json(model_file: str | Path) -> dict[str, Any]:
    """Return tokenizer.json of the ``tokenizers`` library for a SentencePiece BPE of ours.

    Its ids equal ours. Pieces hold real spaces, so that U+2581 in a text falls back to its bytes as it does here. A
    merge stands for each way to put a piece together from two others, in the order of the pieces and with the longer
    left part first: SentencePiece joins the leftmost of equal pairs, and runs of one character grow from the left. The
    piece "abc" gives the merges (ab, c) and (a, bc), as far as those are pieces too.

    Control ids are no added tokens here: of those the library finds the spelling in a text. A document end stands
    before each text, as before a prompt in generate.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    names = [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]
    special = [i for i in range(len(names)) if pieces.is_control(i) or pieces.is_unknown(i)]
    plain = {i for i in range(len(names)) if not pieces.is_byte(i)} - set(special)
    vocab = {name.replace(ESCAPE, " ") if i in plain else name: i for i, name in enumerate(names)}
    scores = {i: pieces.get_score(i) for i in plain}
    symbols = [i for i in plain if scores[i] == 0 and names[i] == "\t"]
    by_score = sorted(plain - set(symbols), key=lambda i: (-scores[i], i))
    merges = []
    for name in (names[i].replace(ESCAPE, " ") for i in by_score):
        for cut in range(len(name) - 1, 0, -1):
            if name[:cut] in vocab and name[cut:] in vocab:
                merges.append([name[:cut], name[cut:]])
    added = [{"id": i, **added_token(names[i], special=False)} for i in sorted(symbols)]
    end = pieces.eos_id()
    start = {"SpecialToken": {"id": names[end], "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B")]
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding")),
        "added_tokens": added,
        **dict.fromkeys(("normalizer", "pre_tokenizer")),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, texts[0]],
            "pair": [start, texts[0], start, texts[1]],
            "special_tokens": {names[end]: {"id": names[end], "ids": [end], "tokens": [names[end]]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            **dict.fromkeys(("continuing_subword_prefix", "end_of_word_suffix")),
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def added_token(content: str, special: bool) -> dict[str, Any]:
    """Return the fields of a token of the ``tokenizers`` library that stands for exactly its own text."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": content, **off, "special": special}


def tokenizer_config(model_file: str | Path, context_length: int) -> dict[str, Any]:
    """Return tokenizer_config.json of transformers for a SentencePiece BPE of ours.

    Padding is the id that no text makes, on the left, so that a padded batch can be continued.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    ids = range(pieces.vocab_size())
    special = {i: pieces.id_to_piece(i) for i in ids if pieces.is_control(i) or pieces.is_unknown(i)}
    unknown, end = special[pieces.unk_id()], special[pieces.eos_id()]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": unknown,
        "bos_token": end,
        "eos_token": end,
        "pad_token": unknown,
        "padding_side": "left",
        "added_tokens_decoder": {str(i): added_token(name, special=True) for i, name in special.items()},
        "additional_special_tokens": [name for name in special.values() if name not in (unknown, end)],
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
    }


def check_weights(weights: dict[str, Tensor], config: ModelConfig, path: Path) -> list[str]:
    """Return our names of the weights of ``config``; raise InputError naming a missing, unknown or misshapen one."""
    with torch.device("meta"):
        ours = Llama(config).state_dict()
    shapes = {name: tuple(value.shape) for name, value in to_hf(ours).items()}
    for name in sorted(shapes.keys() | weights.keys()):
        if (name == "lm_head.weight" and config.tie_embeddings) or name.endswith("rotary_emb.inv_freq"):
            continue
        if name not in shapes:
            raise InputError(f"{path}: the weights have {name}, which this model lacks")
        if name not in weights:
            raise InputError(f"{path}: the weights lack {name}")
        if (shape := tuple(weights[name].shape)) != shapes[name]:
            problem = f"{name} is {shape} and config.json asks for {shapes[name]}"
            raise InputError(f"{path}: {problem}; they are not of one model")
    return list(ours)
