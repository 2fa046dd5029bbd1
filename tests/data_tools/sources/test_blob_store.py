"""Contents by their hash, from a real git repository and from a server that breaks off."""

import gzip
import hashlib
import http.server
import subprocess
import threading

import pytest

from data_tools.sources import blob_store, retry
from llama_scale.errors import InputError


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_ids_that_are_no_files_do_not_shift_the_others(tmp_path):
    """A tree, a commit, a tag and an unknown or ambiguous id stand among the files."""
    contents = [b"", b"one\n", b"two\r\n\0\n" * 99, "ünï\u2028".encode()]
    git(tmp_path, "init", "-q")
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.py").write_bytes(content)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a message of some length, so that it would shift what follows")
    git(tmp_path, "tag", "-am", "tag", "v1")
    ids = [git(tmp_path, "rev-parse", f"HEAD:{i}.py") for i in range(len(contents))]
    others = [git(tmp_path, "rev-parse", name) for name in ("HEAD^{tree}", "HEAD", "v1")]
    read = blob_store.open_store(f"git:{tmp_path}", 1000)
    for other in [*others, "0" * 40, "no id at all", ids[0][:1]]:
        with pytest.raises(blob_store.UnusableContent, match="missing_content"):
            read("", other)
        for content, name in zip(contents, ids, strict=True):
            assert read("", name) == content


def test_a_folder_that_is_no_clone_and_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    read = blob_store.open_store(f"git:{tmp_path}", 10)
    with pytest.raises(InputError, match="git cannot read it; is it a clone"):
        read("", "0" * 40)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs git, which is not installed"):
        blob_store.open_store(f"git:{tmp_path}", 10)


@pytest.mark.parametrize("failures", [1, retry.MAX_FAILURES])
def test_a_server_that_breaks_off(monkeypatch, failures):
    content = b"x = 1\n" * 50
    packed = gzip.compress(content)
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed[:9] if len(asked) <= failures else packed)

        def log_message(self, *_):
            pass

    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        read = blob_store.open_store(f"http://127.0.0.1:{server.server_port}", 1000)
        blob = hashlib.sha1(content).hexdigest()
        if failures < retry.MAX_FAILURES:
            assert read(blob, blob_store.git_hash(content)) == content
        else:
            with pytest.raises(InputError, match=r"IncompleteRead.*run the same command again"):
                read(blob, blob_store.git_hash(content))
        server.shutdown()
    assert len(asked) == min(failures + 1, retry.MAX_FAILURES)
