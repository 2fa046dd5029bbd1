"""Models of several kinds over the wire: with gaps in training, another tokenizer, more ids, adapters."""

import json
import math
from dataclasses import asdict

import httpx2
import pytest
import torch

from llama_scale import device as devices
from llama_scale.checkpoint.base import find_base
from llama_scale.checkpoint.folder import load_meta, save
from llama_scale.checkpoint.opened import load_model
from llama_scale.data.byte_level import ByteLevelTokenizer
from llama_scale.data.fim import with_fim_marks
from llama_scale.data.shards import MANIFEST
from llama_scale.files import write_json
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import stream
from llama_scale.model.lora import LoraSettings, adapt, config_json, file_names, merge
from tests.llama_scale.serving.conftest import Server, small_model, write_run

SESSION = httpx2.Client(timeout=120)


@pytest.fixture
def serve():
    servers = []

    def start(runs, **settings):
        servers.append(Server(runs, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def post(server, path, **body):
    return SESSION.post(f"{server.url}{path}", json=body)


def learn(model, rows, steps):
    """Fit a model to rows of ids."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # (B, T)
    for _ in range(steps):
        logits = model(tokens[:, :-1]).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(("order", "share"), [("psm", 0.25), ("spm", 0.5)])
def test_a_gap_is_filled_by_what_follows_it(tmp_path, tokenizer, serve, order, share):
    """The middle has a word of the prefix and one of the suffix, in the order in which the model learned it."""
    names = ["alpha", "beta", "gamma", "delta"]
    documents = [(f"def {name}(x):\n    return ", f"{name}_{after}(x)", f"\n# {after}\n") for name in names
                 for after in ("first", "second")]  # fmt: skip
    rows = [
        [tokenizer.eos, *with_fim_marks(order, *(tokenizer.encode(part) for part in document), tokenizer.fim),
         tokenizer.eos]
        for document in documents
    ]  # fmt: skip
    torch.manual_seed(0)
    model = small_model(tokenizer)
    model.init_weights(3).train()
    learn(model, rows, 120)
    data = tmp_path / "data"
    data.mkdir()
    (data / MANIFEST).write_text(json.dumps({"fingerprint": "f1", "settings": {"fim_rate": 0.5, "fim_spm": share}}))
    about = {"data": "data", "data_fingerprint": "f1"}
    write_run(tmp_path / "runs" / "gaps", model.eval(), tokenizer.path, **about)
    server = serve(tmp_path / "runs")
    assert SESSION.get(f"{server.url}/v1/models").json()["data"][0]["fim"] is True
    for prefix, middle, suffix in documents:
        body = {"prompt": prefix, "suffix": suffix, "max_tokens": 24, "temperature": 0}
        whole = post(server, "/v1/completions", **body).json()["choices"][0]
        assert (whole["text"], whole["finish_reason"]) == (middle, "stop")
        assert post(server, "/v1/fim/completions", **body).json()["choices"][0]["message"]["content"] == middle
        asked = {"input_prefix": prefix, "input_suffix": suffix, "prompt": "", "n_predict": 24, "temperature": 0}
        filled = post(server, "/infill", **asked).json()
        assert (filled["content"], filled["stop_type"], filled["suffix_used"]) == (middle, "eos", True)
    # Told in bits: with what follows, the middles cost less than after the prefix alone.
    with_suffix, without = [], []
    for prefix, middle, suffix in documents:
        before, new, after = (tokenizer.encode(part) for part in (prefix, middle, suffix))
        gap = with_fim_marks(order, before, [], after, tokenizer.fim)
        for known, ids in ((with_suffix, gap), (without, before)):
            answer = post(server, "/v1/completions", prompt=[*ids, *new], max_tokens=0, echo=True, logprobs=0).json()
            known.append(sum(answer["choices"][0]["logprobs"]["token_logprobs"][-len(new) :]))
    assert sum(with_suffix) > sum(without) + len(documents) * math.log(2)


def test_a_run_without_gaps_in_its_data_refuses_a_suffix(tmp_path, tokenizer, serve):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / MANIFEST).write_text(json.dumps({"fingerprint": "f2", "settings": {"fim_rate": 0}}))
    about = {"data": "data", "data_fingerprint": "f2"}
    write_run(tmp_path / "runs" / "plain", small_model(tokenizer), tokenizer.path, **about)
    answer = post(serve(tmp_path / "runs"), "/v1/completions", prompt="x", suffix="y", max_tokens=2)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "no_fim"


@pytest.mark.parametrize("adds", [False, True])
def test_a_tokenizer_that_is_not_ours_is_told_as_it_is(tmp_path, serve, adds):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(["def f(x):\n    return x\n"] * 20, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "add_bos_token": adds}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = ByteLevelTokenizer(tmp_path)
    folder = write_run(tmp_path / "runs" / "a", small_model(ours), ours.path)
    (folder / "checkpoints" / "step-00000010" / "tokenizer_config.json").write_text(json.dumps(settings))
    server = serve(tmp_path / "runs")
    info = SESSION.get(f"{server.url}/tokenizer_info").json()
    assert (info["eos_token"], info["eos_token_id"]) == ("<|im_end|>", made.token_to_id("<|im_end|>"))
    assert (info["bos_token"], info["bos_token_id"]) == ("<|im_start|>", made.token_to_id("<|im_start|>"))
    assert info["add_bos_token"] is adds
    found = post(server, "/tokenize", prompt="def f(x):", add_special_tokens=True).json()["tokens"]
    assert found == [info["bos_token_id"]] * adds + made.encode("def f(x):", add_special_tokens=False).ids
    assert post(server, "/detokenize", tokens=found).json()["prompt"] == "def f(x):"
    named = post(server, "/tokenize", prompt="f", add_special_tokens=True, return_token_strs=True).json()["token_strs"]
    assert named == ["<|im_start|>"] * adds + ["f"]


def test_ids_that_the_model_alone_has(tmp_path, tokenizer, serve):
    """Rows of an embedding that was rounded up have no text, and are never drawn."""
    model = small_model(tokenizer, vocab_size=tokenizer.vocab_size + 24)
    with torch.no_grad():
        model.head.weight[-24:] *= 50  # so that they would be among the likeliest
    write_run(tmp_path / "runs" / "a", model.eval(), tokenizer.path)
    server = serve(tmp_path / "runs")
    top = tokenizer.vocab_size + 20
    body = {"prompt": [65, top, 66], "max_tokens": 4, "seed": 1, "echo": True, "logprobs": 5}
    answer = post(server, "/v1/completions", **body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["text"].startswith(tokenizer.decode([65, 66])) and choice["logprobs"]["tokens"][1] == f"<{top}>"
    assert post(server, "/v1/completions", **body | {"prompt": [top + 4]}).status_code == 400
    streamed = post(server, "/v1/completions", **body | {"stream": True}).text
    assert '"error"' not in streamed and streamed.endswith("data: [DONE]\n\n")


def test_the_format_of_a_model_is_told(tmp_path, tokenizer, serve, monkeypatch):
    """What was measured when it was loaded, and its answers are those of bf16 weights."""
    model = small_model(tokenizer)
    write_run(tmp_path / "runs" / "a", model, tokenizer.path)
    monkeypatch.setattr(devices, "time_decoding", lambda *shape: [(2e-3, 1e-3)] * 2)
    body = {"prompt": "def f(x):", "max_tokens": 0, "echo": True, "logprobs": 0}
    found = {}
    for choice in ("fp32", "bf16", "auto"):
        server = serve(tmp_path / "runs", precision=choice)
        before = SESSION.get(f"{server.url}/v1/models").json()["data"][0]
        assert (before["loaded"], before["precision"]) == (False, None)
        found[choice] = post(server, "/v1/completions", **body).json()
        row = SESSION.get(f"{server.url}/v1/models").json()["data"][0]
        assert row["precision"] == found[choice]["system_fingerprint"].rpartition("-")[2]
        assert row["precision_why"].endswith("measured" if choice == "auto" else "as asked")
        counts = dict(line.split() for line in SESSION.get(f"{server.url}/metrics").text.splitlines())
        assert counts["llama_scale_models_loaded_bf16"] == ("0" if choice == "fp32" else "1")
    scores = {name: answer["choices"][0]["logprobs"]["token_logprobs"][1:] for name, answer in found.items()}
    assert scores["auto"] == scores["bf16"] != scores["fp32"]
    with torch.inference_mode():
        ids = torch.tensor([[tokenizer.eos, *tokenizer.encode("def f(x):")]])
        expected = model.to(torch.bfloat16)(ids).float().log_softmax(-1)[0]  # (T, V)
    told = [float(expected[t, ids[0, t + 1]]) for t in range(1, ids.shape[1] - 1)]
    assert scores["bf16"] == pytest.approx(told, abs=0.3)


def write_adapter(run, base, seed):
    """Write a run of an adapter of ``base``; return the model with it merged in."""
    settings, model = LoraSettings(4), load_model(base)
    adapt(model, settings, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    parameters = dict(model.named_parameters())
    factors = {f"model.{theirs}": parameters[ours].detach() for ours, theirs in file_names(model).items()}
    found, folder = find_base(str(base)), run / "checkpoints" / "step-00000005"
    meta = load_meta(found.folder) | {"step": 5, "base": found.meta, "method": "lora", "adapter": asdict(settings)}
    run.mkdir(parents=True)
    write_json(run / "adapter_config.json", config_json(model, settings, str(base)))
    state = {"state_dict": factors, "optimizer_states": [{"state": {}, "param_groups": []}]}
    save(folder, state, meta, *found.files(), run / "adapter_config.json")
    merge(model)
    return model.eval()


def test_adapters_answer_beside_their_base(tmp_path, tokenizer, serve):
    pytest.importorskip("peft")
    root = tmp_path / "runs"
    model = small_model(tokenizer)
    write_run(root / "base", model, tokenizer.path)
    merged = {f"tuned/{seed}": write_adapter(root / "tuned" / str(seed), root / "base", seed) for seed in (1, 2)}
    server = serve(root)
    rows = {row["id"]: row for row in SESSION.get(f"{server.url}/v1/models").json()["data"]}
    assert rows["base"]["adapter"] is None and rows["tuned/1"]["adapter"]["rank"] == 4
    assert f"/{rows['tuned/1']['base']['name']}/".count("/base/") == 1  # by which the page puts it beside its base
    sampling, texts = SamplingConfig(0.8, 0.95, None, 16, 3), set()
    for name, expected in {"base": model, **merged}.items():
        body = {"model": name, "prompt": "def f(x):", "temperature": 0.8, "top_p": 0.95, "max_tokens": 16, "seed": 3}
        text = post(server, "/v1/completions", **body).json()["choices"][0]["text"]
        assert text == "".join(stream(expected, tokenizer, "def f(x):", sampling)), name
        texts.add(text)
    assert len(texts) == 3
    (root / "base").rename(root / "moved")
    server.shelf.loaded.clear()
    answer = post(server, "/v1/completions", model="tuned/1", prompt="x", max_tokens=1)
    assert answer.status_code == 400 and "base" in answer.json()["error"]["message"]
