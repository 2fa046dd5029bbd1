"""Texts before prompts: what is asked changes, what is judged does not."""

import json

import pytest

from evals.benchmarks.pairs import PairsConfig, read
from evals.benchmarks.text_before import put_before
from llama_scale.errors import InputError

ROW = {"prompt": "# Add one.\ndef f(x):\n", "completion": "    return x + 1\n", "format": "signature"}


def test_a_text_is_before_the_prompt_alone(tmp_path):
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(ROW | {"id": name}) + "\n" for name in "ab"))
    (tmp_path / "before.jsonl").write_text(json.dumps({"id": "b", "before": "def g():\n    pass\n\n"}) + "\n")
    plain = read(PairsConfig(data=str(tmp_path / "test.jsonl")))
    suite = put_before(plain, str(tmp_path / "before.jsonl"))
    assert [task.prompt for task in suite.tasks] == [ROW["prompt"], "def g():\n    pass\n\n" + ROW["prompt"]]
    assert suite.tasks[1].source("    return 1\n") == ROW["prompt"] + "    return 1\n"
    assert suite.about == plain.about | {"with_text_before": 1}
    (tmp_path / "before.jsonl").write_text(json.dumps({"id": "c", "before": "x"}) + "\n")
    with pytest.raises(InputError, match=r"before: .* has none of the 2 tasks of pairs; give JSON lines"):
        put_before(plain, str(tmp_path / "before.jsonl"))
