"""Export to transformers and back: equal ids, logits and greedy text."""

import errno
import json
import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.checkpoint.export import export_checkpoint, import_checkpoint
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.generation.generate import generate
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.llama import EOS
from tests.conftest import TINY_MODEL, run_here

transformers = pytest.importorskip("transformers")

ODD = [
    "", " ", "\n", "\t", "\t\tx\t \t", "  \r\n\r\n a\r", "\u2581", "a\u2581\u2581 b \u2581",
    "</s>", "x = '<s></s><unk>'", "<0x41>", "é𝕏\x00\ufeff\u200b", "日本語 # ☃", "    " * 33,
    "#" + "=" * 79, "0123456789e-10", " \u2581 \t </s>\t\r\n",
]  # fmt: skip
PROMPTS = [
    "def ", "class A:\n    ", "import ", "for i in range(", "    return ", "if x ==", "# ", '"""',
    "try:\n\t", "with open(", "self.", "lambda x", "print(", "[x for", "raise ", "assert ", "    ",
    "a = {", "while True:", "\n\n\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    shape = [*TINY_MODEL, "--model.n_kv_heads=1", "--optim.batch_tokens=512", "--val_tokens=2000"]
    argv = [*shape, f"--data={tiny_data}", f"--run={folder}/run", "--tokens=30720"]
    done = run_here("train.py", *argv, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run) -> Path:
    out = run.parent / "hf"
    done = run_here("export.py", run, "--to", "hf", "--out", out, cwd=run.parent)
    assert done.returncode == 0, done.stderr
    return out


def test_token_ids_equal_ours(run, exported):
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    ours = Tokenizer(checkpoint.newest(run) / "tokenizer.model")
    library = Path(sysconfig.get_path("stdlib"))
    modules = [path.read_bytes().decode() for path in sorted(library.glob("*.py"))[::3]]
    dos = modules[0].replace("\n", "\r\n")
    count = 0
    for text in [*ODD, dos, *modules]:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text), text[:60]
        assert theirs.decode(ids) == text
        count += len(ids)
    assert count > 500_000
    assert (theirs.eos_token_id, len(theirs)) == (EOS, ours.vocab_size)


def test_the_exported_tokenizer_pads_begins_and_takes_text_as_text(run, exported):
    """As transformers and the tokenizers library load it; a padded batch is continued as one prompt alone."""
    ours = Tokenizer(checkpoint.newest(run) / "tokenizer.model")
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    raw = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    for text in [*ODD, "<fim_prefix>a<fim_suffix>b<fim_middle>", "<s>", "<unk>"]:
        ids = [EOS, *ours.encode(text)]
        assert theirs(text)["input_ids"] == raw.encode(text).ids == ids, text
        assert raw.encode(text, add_special_tokens=False).ids == ids[1:]
        assert theirs.decode(ids, skip_special_tokens=True) == text
    assert theirs.decode([EOS, 0, *ours.fim, *ours.encode("x")], skip_special_tokens=True) == "x"
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, EOS, EOS)
    assert set(theirs.all_special_ids) == {0, 1, EOS, *ours.fim}
    model = transformers.AutoModelForCausalLM.from_pretrained(exported)
    assert (model.config.pad_token_id, model.generation_config.eos_token_id) == (0, EOS)
    batch = theirs(PROMPTS, padding=True, return_tensors="pt")
    assert sorted(batch["attention_mask"].sum(1).tolist()) == sorted(len(ours.encode(p)) + 1 for p in PROMPTS)
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=20, do_sample=False)
    expected = greedy(checkpoint.load_model(run), ours, SamplingConfig(temperature=0, max_new_tokens=20))
    found = theirs.batch_decode(out, skip_special_tokens=True)
    assert found == [prompt + text for prompt, text in zip(PROMPTS, expected, strict=True)]


def resized(exported, path, rows):
    """Copy an exported folder with a vocabulary of ``rows`` more rows, large ones, or fewer."""
    shutil.copytree(exported, path)
    weights = load_file(path / "model.safetensors")
    for name in [name for name in weights if name in ("model.embed_tokens.weight", "lm_head.weight")]:
        more = 30 * torch.randn(max(rows, 0), weights[name].shape[1], generator=torch.Generator().manual_seed(0))
        weights[name] = torch.cat([weights[name], more]) if rows > 0 else weights[name][:rows].clone()
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    fields = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(fields | {"vocab_size": 512 + rows}))
    return path


def test_a_vocabulary_of_more_rows_than_ids_is_imported(exported, tmp_path):
    """Rows that only fill up are never drawn, greedily or not."""
    import_checkpoint(resized(exported, tmp_path / "padded", 300), tmp_path / "ours")
    model, tokenizer = checkpoint.load_model(tmp_path / "ours"), Tokenizer(tmp_path / "ours/tokenizer.model")
    with torch.no_grad():
        assert model(torch.tensor([[EOS, 300, 301]])).argmax(-1).max() >= 512, "the test would prove nothing"
    for temperature in (0, 1.5):
        sampling = SamplingConfig(temperature=temperature, top_p=1, max_new_tokens=20)
        for row in generate(model, tokenizer, PROMPTS, sampling):
            assert row.tokens and max(row.tokens) < 512


def test_a_vocabulary_of_fewer_rows_than_ids_is_refused(exported, tmp_path):
    with pytest.raises(InputError, match=r"tokenizer.model has 512 ids, the model only 480 rows; they are not of one"):
        import_checkpoint(resized(exported, tmp_path / "small", -32), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_logits_and_greedy_text_equal_ours(run, exported):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported)
    model = checkpoint.load_model(run)
    tokens = torch.randint(3, 512, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ours = Tokenizer(checkpoint.newest(run) / "tokenizer.model")
    sampling = SamplingConfig(temperature=0, max_new_tokens=40)
    for prompt, completion in zip(PROMPTS, greedy(model, ours, sampling), strict=True):
        ids = [EOS, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            out = theirs.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False, pad_token_id=EOS)
        new = [i for i in out[0, len(ids) :].tolist() if i != EOS]
        assert ours.decode(new) == completion, prompt


def greedy(model, tokenizer, sampling) -> list[str]:
    done = {c.task: c for c in generate(model, tokenizer, PROMPTS, sampling)}
    return [tokenizer.decode([i for i in done[n].tokens if i != EOS]) for n in range(len(PROMPTS))]


@pytest.mark.parametrize("there", [False, True])
def test_an_export_is_whole_or_absent(run, tmp_path, monkeypatch, there):
    """Where the disk is full in the middle, nothing stays, and the same command takes the same folder again."""
    if there:
        (tmp_path / "out").mkdir()

    def full(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("llama_scale.checkpoint.export.write_json", full)
        export_checkpoint(run, tmp_path / "out")
    assert (tmp_path / "out").exists() == there and not list(tmp_path.glob("out/*"))
    (tmp_path / "out/.unfinished").mkdir(parents=True)  # of a process that was killed
    export_checkpoint(run, tmp_path / "out")
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_there_and_back_is_exact(run, exported, tmp_path):
    done = run_here("export.py", exported, "--from", "hf", "--out", tmp_path / "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    back, model = checkpoint.load_model(tmp_path / "b"), checkpoint.load_model(run)
    assert back.config == model.config
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in back.state_dict().items())
    assert checkpoint.load_meta(tmp_path / "b")["tokenizer_fingerprint"]


def test_a_sharded_untied_model_of_transformers_is_read(tmp_path):
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=160, vocab_size=99, max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="100KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    import_checkpoint(tmp_path / "hf", tmp_path / "ours")
    model = checkpoint.load_model(tmp_path / "ours")
    tokens = torch.randint(0, 99, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "hidden_size should be a whole number, found None"),
        ({"intermediate_size": 96}, r"mlp.down_proj.weight is \(32, 64\) .* asks for \(32, 96\)"),
        ({"num_key_value_heads": 2}, r"k_proj.weight is \(16, 32\) .* \(32, 32\)"),
        ({"vocab_size": 99}, r"embed_tokens.weight is \(512, 32\)"),
        ({"num_hidden_layers": 3}, r"the weights lack model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, r"have model.layers.1.input_layernorm.weight, which"),
        ({"tie_word_embeddings": False}, r"the weights lack lm_head.weight"),
    ],
)
def test_weights_of_another_shape_are_refused(exported, tmp_path, change, words):
    shutil.copytree(exported, tmp_path / "hf")
    fields = json.loads((exported / "config.json").read_text()) | change
    fields = {name: value for name, value in fields.items() if value is not None}
    (tmp_path / "hf/config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=words):
        import_checkpoint(tmp_path / "hf", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["absent", "--to=hf", "--out=x"], ["absent"]),
        (["RUN", "--out=x"], ["--to hf", "--from hf"]),
        (["RUN", "--to=hf", "--out=HF"], ["not empty"]),
        (["RUN", "--from=hf", "--out=x"], ["config.json"]),
    ],
)
def test_bad_input(run, exported, tmp_path, argv, words):
    argv = [a.replace("RUN", str(run)).replace("HF", str(exported)) for a in argv]
    done = run_here("export.py", *argv, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not list(tmp_path.iterdir())
