"""The command: bad input in one line, the text of sample.py over HTTP, an end by Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from launch import serve
from tests.conftest import ROOT, run_script
from tests.launch.inputs import outcome
from tests.llama_scale.serving.conftest import runs, served, tokenizer  # noqa: F401, fixtures


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such"], "no-such: no such folder; name a folder of runs"),
        ([], "runs"),
        ([""], "runs: expected a folder"),
        (["nothing"], "nothing: no run in it"),
        (["broken.jinja"], "broken.jinja: a file; name a folder of runs"),
        (["HOLLOW"], "no checkpoint in it that can be read"),
        (["RUNS", "--host", ""], "host: expected an address"),
        (["RUNS", "--host", "192.0.2.1", "--access.token", "x"], "host: 192.0.2.1 is no address of this machine"),
        (["RUNS", "--host", "0.0.0.0"], "host: 0.0.0.0 can be reached from elsewhere; set access.token"),
        (["RUNS", "--port", "70000"], "port: expected from 0 to 65535"),
        (["RUNS", "--port", "TAKEN"], "cannot be listened on"),
        (["RUNS", "--host", "no-name.invalid", "--access.token", "x"], "host: no-name.invalid is no address of this"),
        (["RUNS", "--prot", "1"], "did you mean 'port'"),
        (["RUNS", "--engine.chunk", "0"], "engine.chunk: expected at least 1"),
        (["RUNS", "--engine.memory_gb=-1"], "engine.memory_gb: expected more than 0"),
        (["RUNS", "--models_gb", "0"], "models_gb: expected more than 0"),
        (["RUNS", "--template", "none.jinja"], "template: none.jinja: no such file"),
        (["RUNS", "--template", "BROKEN"], "template: broken.jinja: not a chat template"),
        (["RUNS", "--precision", "fp8"], "precision"),
        (["RUNS", "--access.allow_origin", "*"], "name each one"),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, monkeypatch, capsys, arguments, words):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jinja").write_text("{% for %}")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "hollow" / "checkpoints").mkdir(parents=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = {"RUNS": str(runs), "TAKEN": str(taken.getsockname()[1]), "BROKEN": "broken.jinja", "HOLLOW": "hollow"}
        assert outcome(serve, [given.get(word, word) for word in arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""


def test_the_text_is_that_of_sample_and_ctrl_c_ends_it(runs, tmp_path):  # noqa: F811
    command = [sys.executable, str(ROOT / "launch" / "serve.py"), str(runs), "--port", "0", "--access.token", "auto"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            line = server.stdout.readline()
            url, token = re.match(r"(http://127\.0\.0\.1:\d+)/#token=(\S+) serves 5 models", line).groups()
            settings = {"temperature": 0.7, "top_p": 0.9, "seed": 11}
            body = settings | {"model": "a", "prompt": "def f(x):\n", "max_tokens": 40, "stop": ["zz"]}
            path = f"{url}/v1/completions"
            assert httpx2.post(path, json=body).status_code == 401
            bearer = {"authorization": f"Bearer {token}"}
            text = httpx2.post(path, json=body, headers=bearer, timeout=60).json()["choices"][0]["text"]
            flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
            sampled = run_script("sample.py", runs / "a", "--prompt", "def f(x):\n", "--max_new_tokens", 40,
                                 '--stop=["zz"]', *flags, cwd=tmp_path)  # fmt: skip
            assert sampled.stdout == f"def f(x):\n{text}\n"
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=60)
            assert (server.returncode, out, err) == (0, "", "")
        finally:
            server.kill()
