"""llama.cpp's /infill as llama.vim and llama.vscode ask it."""

import asyncio

import httpx2
import pytest

from llama_scale.data.fim import with_fim_marks
from llama_scale.generation.generate import stream
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.serving.batch import Piece
from llama_scale.serving.infill import Filling, cut_at_indent, gap_ids, read_infill
from llama_scale.serving.protocol import fim_context

# What llama.vim sends, beside the texts.
VIM = {
    "input_extra": [{"text": "x", "time": [1, 2], "filename": "a.py"}], "n_predict": 12, "stop": [], "n_indent": 0,
    "top_k": 40, "top_p": 0.90, "stream": False, "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True,
    "t_max_prompt_ms": 500, "t_max_predict_ms": 60_000,
    "response_fields": ["content", "timings/prompt_n", "timings/prompt_ms", "timings/predicted_n",
                        "timings/predicted_per_second", "truncated", "tokens_cached", "timings/none"],
}  # fmt: skip


def ask(server, **body):
    return httpx2.post(f"{server.url}/infill", json=body, timeout=120)


def test_an_editor_is_answered_in_the_fields_that_it_names(server, served):
    """A model that fills no gaps goes on from what stands before."""
    asked = VIM | {"input_prefix": "import os\n", "prompt": "def f(", "input_suffix": "):\n    pass\n", "seed": 5}
    found = ask(server, **asked).json()
    sampling = SamplingConfig(0.2, 0.90, 40, 12, 5)
    text = "".join(stream(served.llama, served.tokenizer, "import os\ndef f(", sampling))
    count = 1 + len(served.tokenizer.encode("import os\ndef f("))
    assert found["content"] == cut_at_indent(text, 0) and found["truncated"] is False
    assert found["timings/prompt_n"] == count and found["timings/predicted_n"] <= 12
    assert found["tokens_cached"] == count + found["timings/predicted_n"] and found["timings/prompt_ms"] > 0
    assert set(found) == {*VIM["response_fields"]} - {"timings/none"}
    whole = ask(server, **asked | {"response_fields": []}).json()
    assert whole["content"] == found["content"] and whole["suffix_used"] is False
    assert whole["generation_settings"] == {"seed": 5} and whole["timings"]["prompt_n"] == count
    warm = ask(server, **asked | {"n_predict": 0}).json()
    assert (warm["content"], warm["timings/predicted_n"]) == ("", 0)
    assert ask(server, input_prefix="x", seed=-1).json()["generation_settings"]["seed"] >= 0


def test_a_text_that_is_too_long_is_cut_far_from_the_cursor_and_told(server, served):
    found = ask(server, **VIM | {"input_prefix": "x = 1\n" * 2000, "prompt": "y", "input_suffix": ""}).json()
    assert found["truncated"] is True and found["timings/prompt_n"] <= served.llama.config.context_length - 12


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"stream": True}, "stream"),
        ({"n_predict": "x"}, "n_predict"),
        ({"response_fields": "content"}, "response_fields"),
        ({"n_indent": -1}, "n_indent"),
        ({"input_prefix": 3}, "input_prefix"),
        ({"t_max_predict_ms": "1"}, "t_max_predict_ms"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_what_cannot_be_served_is_named(server, body, words):
    answer = ask(server, **body)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(words)


@pytest.mark.parametrize("order", ["psm", "spm"])
def test_the_ids_of_a_gap(tokenizer, order):
    """The cursor's line is the beginning of the middle, as after llama.cpp's mark; cuts are far from the cursor."""
    asked = read_infill({"input_prefix": "a = 1\n", "prompt": "b = ", "input_suffix": "\nc\n", "n_predict": 8})
    prompt, cut = asked.prompt(tokenizer, order, 256)
    parts = (tokenizer.encode(text) for text in ("a = 1\n", "b = ", "\nc\n"))
    assert prompt.ids == (tokenizer.eos, *with_fim_marks(order, *parts, tokenizer.fim)) and not cut
    long, short = "".join(f"p{n}\n" for n in range(300)), "s\n"
    whole = len(tokenizer.encode(long))
    for before, after, kept_after in ((long, long, 29), (long, short, 2), (short, long, 116 - 2)):
        ids, cut = gap_ids(tokenizer, before, after, 120, order)  # of which 4 are marks
        assert cut and len(ids) == 120
        expected = tokenizer.encode(before)[kept_after - 116 :], tokenizer.encode(after)[:kept_after]
        assert ids == (tokenizer.eos, *with_fim_marks(order, expected[0], [], expected[1], tokenizer.fim))
    uncut = fim_context(tokenizer, long, short, order)
    assert gap_ids(tokenizer, long, short, whole + 6, order) == (uncut, False)


@pytest.mark.parametrize(
    ("text", "indent", "kept"),
    [
        ("x\n    y\n\n    z", 4, "x\n    y\n\n    z"),
        ("x\n    y\n\nz = 1\n", 4, "x\n    y\n"),
        ("x\n  y", 4, "x"),
        ("x\n  ", 4, "x\n  "),  # its indent may still grow
        ("x\n\ty", 1, "x\n\ty"),
        ("x\ny", 0, "x\ny"),
    ],
)
def test_a_text_ends_where_it_leaves_its_indent(text, indent, kept):
    assert cut_at_indent(text, indent) == kept


@pytest.mark.parametrize(
    ("settings", "texts", "expected"),
    [
        ({"n_indent": 4}, ["x", "\n    y\n", "de", "f"], ("x\n    y", "indent")),
        ({"t_max_predict_ms": 1e-6}, ["x", "y\n", "z"], ("xy", "time")),
        ({}, ["x", "\n", "z"], ("x\nz", "eos")),
    ],
)
def test_an_answer_ends_early_as_it_was_asked_to(settings, texts, expected):
    async def events():
        for number, text in enumerate(texts):
            yield 0, Piece(0, text, (), "stop" if number == len(texts) - 1 else None)

    filling = asyncio.run(Filling(read_infill(settings)).take(events()))
    assert (filling.text, filling.reason) == expected
