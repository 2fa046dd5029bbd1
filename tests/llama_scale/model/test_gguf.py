"""GGUF files: a small one written by the gguf library, and SmolLM2, which a package carries (pytest -m slow)."""

import errno
import json
import os

import numpy as np
import pytest
import torch

from evals.benchmarks.mbpp import SPLITS, problems, prompt
from evals.metrics.pass_at_k import paired_difference
from launch.finetune import main
from llama_scale.checkpoint.base import find_base
from llama_scale.checkpoint.folder import newest
from llama_scale.checkpoint.opened import load_model
from llama_scale.data.byte_level import ByteLevelTokenizer
from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import generate
from llama_scale.model.llama import Llama

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
WIDTH, LAYERS, HEADS, KV_HEADS, INNER = 64, 2, 4, 2, 96
PIECES = [
    "<|end|>",
    *sorted(chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]),
    "de",
    "def",
]


def write_gguf(path, seed=0):
    """Write a random LLaMA with a byte-level tokenizer as llama.cpp's converter does; return its tensors."""
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "context_length": 64, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": INNER,
        "head_count": HEADS, "head_count_kv": KV_HEADS,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(PIECES))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(PIECES)
    writer.add_token_types([3, *[1] * (len(PIECES) - 1)])
    writer.add_token_merges(["d e", "de f"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd": (len(PIECES), WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        block = {
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH),
            "attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
        }  # fmt: skip
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        values = draw.normal(1.0 if len(shape) == 1 else 0.0, 0.05, shape).astype(np.float32)
        quantized = len(shape) == 2
        kind = gguf.GGMLQuantizationType.Q8_0
        data = gguf.quants.quantize(values, kind) if quantized else values
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind if quantized else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_is_read_once_and_kept_as_a_folder(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "small.gguf")
    base = find_base(str(path), tmp_path / "bases")
    assert base.kind == "llama" and base.folder.parent == tmp_path / "bases"
    model = base.load().eval()
    assert isinstance(model, Llama) and model.tied
    tokenizer = base.tokenizer()
    assert isinstance(tokenizer, ByteLevelTokenizer) and tokenizer.eos == 0
    assert tokenizer.decode(tokenizer.encode("def é\n")) == "def é\n"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="small.gguf").eval()
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: 1 / 0)
    assert find_base(str(path), tmp_path / "bases") == base
    sampling = SamplingConfig(temperature=0, max_new_tokens=5)
    assert next(generate(model, tokenizer, ["def f"], sampling)).tokens


def test_what_was_made_of_a_file_is_whole_unchanged_or_absent(tmp_path, monkeypatch):
    """Weights, shape and tokenizer lie there for good, apart from the file that they are named for."""
    path, bases = write_gguf(tmp_path / "small.gguf"), tmp_path / "bases"

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("llama_scale.model.gguf.write_weights", full)
        find_base(str(path), bases)
    assert not list(bases.iterdir())
    folder = find_base(str(path), bases).folder
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
        with pytest.raises(InputError, match=rf"{name}: has changed since it was read from small.gguf; delete"):
            find_base(str(path), bases)
        (folder / name).write_bytes(before)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json: has changed"):
        find_base(str(folder))


def test_a_damaged_file_is_told_in_one_line(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(InputError, match=r"bad.gguf: transformers cannot read it"):
        find_base(str(tmp_path / "bad.gguf"), tmp_path / "bases")
    assert not (tmp_path / "bases").exists()
    with pytest.raises(InputError, match="base: no "):
        find_base(str(tmp_path / "none.gguf"), tmp_path / "bases")


@pytest.mark.slow
def test_smollm2_native_logits_are_transformers(smollm2_gguf, tmp_path):
    base = find_base(str(smollm2_gguf), smollm2_gguf.parent / "bases")
    ours, tokenizer = base.load().eval(), base.tokenizer()
    assert isinstance(ours, Llama)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 134_515_008
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base.folder).eval()
    text = "import os\n\n\ndef walk(root):\n    for folder, _, files in os.walk(root):\n        yield from files\n"
    tokens = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_smollm2_learns_mbpp_in_one_epoch(smollm2_gguf, tmp_path, monkeypatch):
    """Held-out references get .09 bits a byte cheaper or more, on 63 test tasks, and the model learns to end.

    A solution ends with its line: after `return x` alone the end stands against each way in which an expression could
    go on, and one epoch leaves .4 nats and more. The tasks are read from LLAMA_SCALE_MBPP (mbpp.jsonl) or the Hub; a
    quarter of an hour to an hour on one thread.
    """
    try:
        known = problems(os.environ.get("LLAMA_SCALE_MBPP"))
    except InputError as error:
        pytest.skip(f"MBPP cannot be had: {error}")
    (first, last), (test_first, test_last) = SPLITS["train"], SPLITS["test"]
    train = [p for p in known if first <= p.number <= last]
    test = [p for p in known if test_first <= p.number <= test_last][::8][:63]
    assert (len(train), len(test)) == (374, 63)
    monkeypatch.chdir(tmp_path)
    for name, chosen in (("train", train), ("test", test)):
        rows = [
            {
                "id": f"MBPP/{p.number}",
                "prompt": prompt(p, "incoder", ()),
                "completion": f"{p.code.rstrip()}\n",
                "format": "incoder",
            }
            for p in chosen
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [f"--base={smollm2_gguf}", f"--bases={smollm2_gguf.parent / 'bases'}", "--train=train.jsonl"]
    common += ["--validation=test.jsonl", "--epochs=1", "--batch=8", "--optim.lr=1e-3", "--device=cpu"]
    common += ["--micro_batch=1", "--threads=1"]  # no padding, the least memory
    main([*common, "--run=base", "--method=base"])
    main([*common, "--run=tuned", "--lora.rank=16"])
    before, after = (read_jsonl(f"{run}/references.jsonl") for run in ("base", "tuned"))
    results = [read_json(f"{run}/result.json") for run in ("base", "tuned")]
    assert results[1]["trainable_params"] == 4_884_480
    assert results[1]["val_bits_per_byte"] <= results[0]["val_bits_per_byte"] - 0.09
    bits = [[row["nats"] / np.log(2) / row["bytes"] for row in rows] for rows in (before, after)]
    _, (_, high) = paired_difference(*bits)
    assert high < 0
    assert results[1]["val_end_nats"] < 0.1
    assert isinstance(load_model(newest("tuned")), Llama)
