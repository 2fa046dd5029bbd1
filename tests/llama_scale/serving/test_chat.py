"""Chat templates that are none, whatever is wrong with them: one line that names the file."""

import json

import pytest

from llama_scale.errors import InputError
from llama_scale.serving.chat import ChatTemplate, find_template

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% for %}", "chat.jinja: not a chat template"),
        ("{{ 1 / 0 }}", "not a chat template .*division by zero"),
        ("{{ messages[0].content + 1 }}", "not a chat template"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "not a chat template"),
        ("{{ none.x.y }}", "not a chat template"),
        ("{% include 'other' %}", "not a chat template"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "not a chat template"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "not a chat template"),
        ("{{ raise_exception('no') }}", "the template says: no"),
    ],
)
def test_what_a_template_raises_is_told(tmp_path, text, words):
    path = tmp_path / "chat.jinja"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        ChatTemplate.read(path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tokenizer_config.json", [1], "tokenizer_config.json: expected fields"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not valid JSON"),
        ("tokenizer.json", [1], "tokenizer.json: expected fields"),
        ("tokenizer.json", {"added_tokens": 3}, "tokenizer.json: added_tokens are not"),
        ("tokenizer.json", {"added_tokens": [3]}, "tokenizer.json: added_tokens are not"),
        ("tokenizer.json", {"added_tokens": [{"special": True}]}, "tokenizer.json: added_tokens are not"),
    ],
)
def test_files_beside_a_template_are_named(tmp_path, name, value, words):
    (tmp_path / "chat_template.jinja").write_text(PLAIN)
    (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(InputError, match=words):
        find_template(tmp_path)


def test_a_template_is_found_by_its_name_and_marks_may_be_missing(tmp_path):
    settings = {"chat_template": [3, {"name": "tool", "template": "no"}, {"name": "default", "template": PLAIN}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": 5, "eos_token": {}}))
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": null}')
    template = find_template(tmp_path)
    assert template is not None and (template.source, template.bos, template.eos, template.marks) == (PLAIN, "", "", {})
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [3]}')
    assert find_template(tmp_path) is None
