"""Broken inputs and a failing Hub through the prepare command: counted, named, never a crash."""

import gzip
import json
import os
import shutil
import subprocess
import sysconfig
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from pyarrow import parquet

from data_tools.sources import hub, retry
from llama_scale.errors import InputError
from tests.conftest import run_here, run_script
from tests.data_tools.helpers import CODE, V1, V1_COUNTS, V2_COUNTS, v2_rows


def filtered(tmp_path, *flags):
    """Run the command up to the filters and return what it counted and named."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    flags = ["--name=x", f"--out={tmp_path}/x", "--workers=1", "--until=filter", *flags]
    done = run_here("prepare.py", *flags, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / ".x.tmp" / "filter.json").read_text())
    return {reason: row["files"] for reason, row in state["dropped"].items()}, state["examples"]


def test_broken_files_in_a_folder(tmp_path):
    root = tmp_path / "code"
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("json", "email", "html", "logging"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(library / name, root / name, ignore=ignore)
    (root / "bom.py").write_bytes(b"\xef\xbb\xbf" + CODE.encode())
    (root / "latin.py").write_bytes("name = 'é'\n".encode("latin-1"))
    (root / "nul.py").write_bytes(CODE.encode() + b"# \0\n")
    (root / "line.py").write_bytes(b"x = '" + b"y" * (100 << 20) + b"'\n")
    (root / "loop").symlink_to(root)
    (root / "round.py").symlink_to("round.py")
    subprocess.run(["git", "init", "-q", str(root / "json")], check=True)
    (root / "json" / "gone.py").write_text(CODE)
    subprocess.run(["git", "-C", str(root / "json"), "add", "."], check=True)
    (root / "json" / "gone.py").unlink()
    flags = ["--source=folder", f"--path={root}", "--license=MIT", "--humaneval=false"]
    flags += ["--vocab_size=500", "--val_share=0.2", "--max_file_bytes=200000000"]
    dropped, examples = filtered(tmp_path, *flags)
    counted = {name: dropped[name] for name in ("not_utf8", "nul", "long_line", "symlink")}
    assert counted == {"not_utf8": 1, "nul": 1, "long_line": 1, "symlink": 1}
    assert dropped["unreadable"] == 1
    assert examples["unreadable"] == ["json: gone.py"]
    assert examples["long_line"] == ["code: line.py"]
    done = run_script("prepare.py", "--name=x", f"--out={tmp_path}/x", "--workers=1", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert manifest["examples"]["nul"] == ["code: nul.py"]
    with gzip.open(tmp_path / "x" / "documents.jsonl.gz", "rt") as file:
        assert "bom.py" in {json.loads(line)["path"] for line in file}


def test_broken_json_lines(tmp_path):
    rows = [{"content": CODE, "license": "MIT"}, {"license": "MIT"}, {"content": None}]
    lines = [json.dumps(row).encode() for row in rows] + [b"{not json", b"\xff\xfe"]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    packed = gzip.compress(b"\n".join([lines[0], os.urandom(9000).hex().encode()]))
    (tmp_path / "b.jsonl.gz").write_bytes(packed[:-3000])
    dropped, examples = filtered(tmp_path, "--source=jsonl", f"--path={tmp_path}")
    assert dropped == {"no_content": 2, "bad_json": 2, "truncated_gzip": 1}
    assert examples["truncated_gzip"] == ["b.jsonl.gz:2: b.jsonl.gz:2"]


def test_broken_rows_of_the_stack(tmp_path):
    folder = tmp_path / "stack" / "data" / "python"
    folder.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(V1), folder / "train.parquet")
    dropped, examples = filtered(tmp_path, "--source=the-stack-dedup", f"--path={tmp_path / 'stack'}")
    assert dropped == V1_COUNTS | {"nul": 1}
    assert examples["nul"] == ["frank/six: a.py"]


def test_broken_rows_of_the_stack_v2(tmp_path, objects):
    folder = tmp_path / "v2"
    (folder / "data" / "Python").mkdir(parents=True)
    table = pa.Table.from_pylist(list(v2_rows()))
    parquet.write_table(table, folder / "data" / "Python" / "train-00000.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: Python\n  data_files:\n  - split: train\n    path: data/Python/*.parquet\n---\n"
    )
    flags = ["--source=the-stack-v2", f"--path={folder}", f"--store={objects.as_uri()}"]
    dropped, examples = filtered(tmp_path, *flags)
    assert dropped == V2_COUNTS
    assert examples["hash_mismatch"] == ["owner/wrong_git_hash: a.py", "owner/wrong_hash: a.py"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "your token has no access; accept the terms at https://huggingface.co/"),
        (401, "GatedRepo", "your token has no access; accept the terms at https://huggingface.co/"),
        (404, "RepoNotFound", "no such data set"),
    ],
)
def test_a_hub_that_refuses(tmp_path, status, code, message):
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "Access to this dataset is gated")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = run_script(
            "prepare.py", "--name=x", "--source=the-stack-dedup", "--workers=1", cwd=tmp_path,
            HF_HOME=str(tmp_path), HF_TOKEN="hf_" + "x" * 34, HF_HUB_OFFLINE="0",
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", NO_PROXY="127.0.0.1",
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 2, done.stderr
    assert asked
    assert done.stderr.count("\n") == 1
    assert f"source: bigcode/the-stack-dedup: {message}" in done.stderr


class Rows:
    """A streamed data set whose connection breaks at some rows, once each."""

    def __init__(self, breaks, first=0):
        self.breaks, self.first = breaks, first

    def skip(self, n):
        return Rows(self.breaks, n)

    def __iter__(self):
        for row in range(self.first, 9):
            if row in self.breaks:
                raise self.breaks.pop(row)
            yield {"content": f"x = {row}", "max_stars_repo_name": "a", "number": row}


def status(code):
    request = httpx.Request("GET", "https://huggingface.co")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(code))


def test_a_broken_connection_is_taken_up_at_the_row(monkeypatch):
    import datasets

    breaks = {0: httpx.ConnectError("refused"), 3: httpx.ReadTimeout("slow"), 7: status(503)}
    pauses, skips = [], []
    skip = Rows.skip
    monkeypatch.setattr(Rows, "skip", lambda self, n: skips.append(n) or skip(self, n))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Rows(breaks))
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    rows = list(hub.dataset_rows("the-stack", "Python", None))
    assert [row["number"] for row in rows] == list(range(9))
    assert skips == [0, 0, 3, 7]
    assert pauses == [2, 2, 2]
    documents = hub.hub_documents("the-stack", "Python", None, None, "MIT", 99, start=6)
    assert [document.content for document in documents] == [b"x = 6", b"x = 7", b"x = 8"]
    assert skips[-1] == 6


def test_a_network_that_stays_away_is_one_line(monkeypatch):
    import datasets

    def load(*_, **__):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(InputError, match=r"the-stack: row 0: the network failed 6 times"):
        list(hub.dataset_rows("the-stack", "Python", None))
