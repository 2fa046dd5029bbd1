"""Models that are not scripted: a server that keeps all it is sent, and a small chat model from a wheel."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evals.repair.runner import paths, run
from tests.conftest import ROOT, run_script
from tests.evals.repair.helpers import CANARIES, rows_of, settings, write_tasks

MBPP = ROOT.parent / "shared" / "data" / "eval" / "mbpp.jsonl"


@contextmanager
def server(answer):
    """A chat server that answers with ``answer(messages)``; its log is every byte that it got."""
    log = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            log.append(f"{self.path} {self.headers} {body}")
            message = {"role": "assistant", "content": answer(json.loads(body)["messages"])}
            reply = {
                "model": "m-0711", "system_fingerprint": "fp_1", "usage": {"prompt_tokens": 7, "completion_tokens": 3},
                "choices": [{"message": message, "finish_reason": "stop"}],
            }  # fmt: skip
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads, http.block_on_close = True, False
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/v1", log
        finally:
            http.shutdown()


def test_a_server_sees_no_hidden_test_and_is_named_in_the_result(tmp_path):
    """It writes a program that is never right, and as the critic it repeats what it is told."""

    def answer(messages):
        told = messages[-1]["content"]
        return told if "Say in at most" in messages[0]["content"] else f"```python\nx = {len(str(messages))}\n```"

    arms = {"plan.arms": "resample,tests:model,logic,generic", "plan.rounds": 1}
    with server(answer) as (url, log):
        model = {"backend.model": url, "critic.model": url, "backend.parameters": 5_000_000}
        config = settings(write_tasks(tmp_path / "tasks.jsonl", 2), **arms | model)
        result = run(config, tmp_path)
        asked = len(log)
        paths(config, tmp_path)["result"].unlink()
        again = run(config, tmp_path)
    assert asked == len(log), "what was answered is not asked for again"
    assert again == result and result["parameters"] == 5_000_000
    assert not [text for text in log for canary in CANARIES if canary in text]
    assert any("assert add_11(1) == 12" in text for text in log), "the visible test is shown"
    rows = rows_of(tmp_path / "repair-mbpp-steps.jsonl.gz")
    assert result["served"] == {"m-0711 fp_1": len(rows)}
    assert {(row["prompt_tokens"], row["tokens"]) for row in rows} == {(7, 3)}
    reviewed = [row for row in rows if row["critic"] == "model"]
    assert {row["critic_tokens"] for row in reviewed} == {3}
    assert result["critic_served"] == {"m-0711 fp_1": len(reviewed)} and reviewed
    assert {row["critic_served"] for row in rows if row["critic"] != "model"} == {""}
    page = (tmp_path / "repair-mbpp-report.html").read_text()
    assert f"<dt>critic served by</dt><dd>m-0711 fp_1 ({len(reviewed)} reviews)</dd>" in page


@pytest.fixture(scope="module")
def chat_model(request):
    """SmolLM2-135M-Instruct as a transformers folder."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    if not MBPP.exists():
        pytest.skip(f"{MBPP} is not here")
    gguf = request.getfixturevalue("smollm2_gguf")
    made, load = gguf.parent / "SmolLM2-135M-Instruct", {"gguf_file": gguf.name, "local_files_only": True}
    transformers.AutoTokenizer.from_pretrained(gguf.parent, **load).save_pretrained(made)
    read = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **load)
    config = read.config.to_dict()
    del config["quantization_config"]  # else it would not be saved, though its weights are plain by now
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(made)
    return made


@pytest.mark.slow
def test_a_chat_model_goes_through_all_arms_and_the_result_says_what_beat_what(chat_model, tmp_path):
    """25 minutes of CPU time."""
    argv = ["--config", "chat", "--backend.model", chat_model, "--mbpp.data", MBPP, "--out", tmp_path]
    argv += ["--backend.processes", "2", "--backend.threads", "1"]
    done = run_script("repair.py", *argv, cwd=tmp_path, timeout=7200)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    result = json.loads((tmp_path / "repair-mbpp.json").read_text())
    assert result["n_tasks"] == 50 and list(result["arms"]) == ["resample", "syntax", "tests", "logic", "generic"]
    assert len({arm["curve"][0]["solved"] for arm in result["arms"].values()}) == 1, "all begin with the same programs"
    assert out.count("resampling at equal programs: ") == out.count("resampling at equal tokens: ") == 4
    for arm in result["arms"].values():
        gaps = arm.get("against_resample", {}).get("equal_tokens", {"tokens": [1, 1]})
        ours, theirs = gaps["tokens"]
        assert abs(theirs / ours - 1) < 0.02
    gain = result["arms"]["resample"]["gain"]
    assert gain["difference"] > 0 and gain["interval"][0] >= 0, "a visible test tells better samples"
    assert (tmp_path / "repair-mbpp-report.html").exists()
