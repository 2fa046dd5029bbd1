"""Files are whole or absent; errors are one line and exit code 2."""

import errno
import gzip
import hashlib
import os
import subprocess
import sys

import pytest

from llama_scale.errors import InputError, nearest
from llama_scale.files import atomic_write, read_json, read_jsonl, sha256, write_json


def test_atomic_write_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail():
        with atomic_write(path) as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_read_json_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"absent.json: no such file"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad.json: not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_torn_last_line_is_left_out_and_a_bad_one_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        read_jsonl(path)


def test_only_a_line_feed_ends_a_line_and_a_whole_file_has_its_last(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y\x85z"}\r\n\n{"a": 2}'.encode())
    assert read_jsonl(path) == [{"a": "x\u2028y\x85z"}]
    assert read_jsonl(path, whole=True) == [{"a": "x\u2028y\x85z"}, {"a": 2}]
    packed = tmp_path / "m.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_jsonl(packed, whole=True) == read_jsonl(path, whole=True)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"m\.jsonl\.gz: damaged"):
        read_jsonl(packed, whole=True)
    for torn in (b'{"a": 1}\n\n{"a": \xff}', b'{"a": 1}\n\n{"a"', b"1\n\n" + b"[" * 10**5):
        path.write_bytes(torn)
        with pytest.raises(InputError, match=r"m\.jsonl: line 3 is not JSON"):
            read_jsonl(path, whole=True)


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_nearest():
    assert nearest("lrr", ["lr", "seed"]) == " (did you mean 'lr'?)"
    assert nearest("zzz", ["lr"]) == ""


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        ("InputError('data/x: missing')", 2, "script.py: error: data/x: missing"),
        (f"OSError({errno.ENOSPC}, 'x', 'out/a.bin')", 2, "no space left on device at out/a.bin"),
        (f"OSError({errno.EACCES}, 'x', 'out/a.bin')", 2, "permission denied at out/a.bin"),
        (f"OSError({errno.ENOTDIR}, 'x', 'f/a')", 2, "not a directory at f/a: name another path"),
        (f"OSError({errno.EISDIR}, 'x', 'out')", 2, "is a directory at out: name another path"),
        (f"OSError({errno.ENOENT}, 'x')", 1, "Traceback"),
        ("KeyboardInterrupt()", 130, "script.py: interrupted\n"),
        ("ZeroDivisionError()", 1, "Traceback"),
    ],
)
def test_exit_codes(tmp_path, raised, code, words):
    script = tmp_path / "script.py"
    script.write_text(
        "from llama_scale.cli import run_cli\nfrom llama_scale.errors import InputError\n"
        f"def main():\n    raise {raised}\n"
        "run_cli(main)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == code
    assert words in done.stderr
    if code != 1:
        assert done.stderr.count("\n") == 1
