"""Several suites of one command: their data, their results, files of one's own."""

import hashlib
import json
import shutil

import pytest

from llama_scale.errors import InputError
from tests.conftest import ROOT
from tests.evals.helpers import QUICK

FIXTURES = ROOT / "tests" / "fixtures"
SMALL = [
    "--suites=humaneval,mbpp,apps", *QUICK, f"--mbpp.data={FIXTURES / 'mbpp.jsonl'}",
    "--mbpp.profile=incoder", f"--apps.data={FIXTURES / 'apps.jsonl'}", "--apps.max_tests=2",
    "--mbpp.sampling.max_new_tokens=4", "--apps.sampling.max_new_tokens=4",
    "--execution.workers=2",
]  # fmt: skip


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_all_data_is_read_before_anything_is_drawn(run, launch, monkeypatch):
    """A file that is not there, a Hub that is not reached or too many tasks: nothing is drawn."""

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setattr("evals.models.checkpoint.generate", lambda *_, **__: pytest.fail("it drew"))
    folder = run / "evals" / "step-00000007"
    shutil.rmtree(folder, ignore_errors=True)
    hub = [arg for arg in SMALL if not arg.startswith("--mbpp.data")]
    for argv, message in (
        ([*SMALL, "--mbpp.data=none.jsonl"], "mbpp.data: none.jsonl cannot be read"),
        (hub, "mbpp: the Hub gave no data (ConnectionError); set mbpp.data to the published"),
        ([*SMALL, "--apps.n_tasks=5"], "apps.n_tasks: expected 1 to 4, found 5"),
        ([*SMALL, "--suites=humaneval,perplexity", "--perplexity.data=no"], "no: no such folder"),
        ([*SMALL, "--compare=none"], "compare: none/humaneval-samples.jsonl.gz is missing"),
        ([*SMALL, "--mbpp.k=[0]"], "mbpp.k: expected more than 0, found (0,)"),
    ):
        code, _, err = launch("evaluate.py", "runs/tiny", *argv)
        assert code == 2 and message in err and len(err.splitlines()) == 1
    assert not folder.exists()


def test_without_a_sandbox_nothing_is_drawn(run, launch, monkeypatch):
    def refuse(*_):
        raise InputError("no sandbox on this machine")

    monkeypatch.setattr("evals.verdicts.Sandbox", refuse)
    monkeypatch.setattr("evals.models.checkpoint.generate", lambda *_, **__: pytest.fail("it drew"))
    code, _, err = launch("evaluate.py", "runs/tiny", *SMALL)
    assert code == 2 and "no sandbox on this machine" in err


def test_suites_of_local_files_and_their_accuracy(run, launch):
    code, out, err = launch("evaluate.py", "runs/tiny", *SMALL, "--apps-judge", "legacy")
    assert code == 0, err
    folder = run / "evals" / "step-00000007"
    results = {n: json.loads((folder / f"{n}.json").read_text()) for n in ("mbpp", "apps")}
    assert (results["mbpp"]["n_tasks"], results["apps"]["n_tasks"]) == (2, 4)
    assert (results["apps"]["judge"], results["mbpp"]["profile"]) == ("legacy", "incoder")
    assert results["mbpp"]["gold_tasks"] == 2 and results["apps"]["gold_tasks"] == 3
    found = json.loads((folder / "aggregate.json").read_text())
    assert found["n_tasks"] == {"humaneval": 2, "mbpp": 2, "apps": 4} and found["macro"] == 0
    assert "aggregate   macro" in out
    assert results["apps"]["data_sha256"] == sha256((FIXTURES / "apps.jsonl").read_bytes())
    assert results["mbpp"]["data_sha256"] == sha256((FIXTURES / "mbpp.jsonl").read_bytes())
    assert "data_sha256" not in json.loads((folder / "humaneval.json").read_text())
    for path in folder.iterdir():
        path.unlink()


def test_other_data_under_the_same_name_is_scored_anew(run, launch, tmp_path):
    file, data = tmp_path / "mbpp.jsonl", (FIXTURES / "mbpp.jsonl").read_bytes()
    file.write_bytes(data)
    argv = [*SMALL, "--suites=humaneval,mbpp", f"--mbpp.data={file}"]
    assert launch("evaluate.py", "runs/tiny", *argv)[0] == 0
    code, out, err = launch("evaluate.py", "runs/tiny", *argv)
    assert code == 0 and out.count("already scored") == 2, err
    file.write_bytes(data.replace(b"circle", b"disc"))
    code, out, err = launch("evaluate.py", "runs/tiny", *argv)
    assert code == 0 and "humaneval: already scored" in out and "mbpp: already" not in out, err
    folder = run / "evals" / "step-00000007"
    result = json.loads((folder / "mbpp.json").read_text())
    assert result["data_sha256"] == sha256(file.read_bytes()) != sha256(data)
    shutil.rmtree(folder)


@pytest.mark.parametrize("suite", ["mbpp", "apps"])
def test_references_of_local_files_as_samples(suite, tmp_path, launch):
    if suite == "mbpp":
        rows = [json.loads(line) for line in (FIXTURES / "mbpp.jsonl").read_text().splitlines()]
        rows = [(f"MBPP/{r['task_id']}", r["code"]) for r in rows]
        argv = [f"--mbpp.data={FIXTURES / 'mbpp.jsonl'}", "--mbpp.split=all"]
    else:
        rows = [json.loads(line) for line in (FIXTURES / "apps.jsonl").read_text().splitlines()[:3]]
        rows = [(f"APPS/{r['problem_id']}", json.loads(r["solutions"])[0]) for r in rows]
        argv = [f"--apps.data={FIXTURES / 'apps.jsonl'}", "--apps-judge", "legacy"]
    file = tmp_path / "samples.jsonl"
    lines = [json.dumps({"task_id": task, "completion": code}) for task, code in rows]
    file.write_text("\n".join(lines))
    code, _, err = launch("evaluate.py", f"--samples={file}", f"--suite={suite}", f"--out={tmp_path}", *argv)
    assert code == 0, err
    result = json.loads((tmp_path / f"{suite}.json").read_text())
    assert result["pass_at_k"] == {"1": 1.0} and result["n_tasks"] == len(rows)
    assert result.get("judge", result.get("profile")) == ("google" if suite == "mbpp" else "legacy")
