"""Files are whole or absent; errors are one line and exit code 2."""

import errno
import gzip
import hashlib
import json
import os
import subprocess
import sys

import pytest

from llama_scale.cli import run_cli
from llama_scale.errors import InputError, nearest
from llama_scale.files import append_jsonl, atomic_write, locked, open_file, read_json, read_jsonl, sha256, write_json
from tests.conftest import ROOT
from tests.launch.inputs import at_most, bind


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
    for torn in (b'{"a": 1}\n\n{"a": \xff}', b'{"a": 1}\n\n{"a"', b"{}\n\n" + b"[" * 10**5):
        path.write_bytes(torn)
        with pytest.raises(InputError, match=r"m\.jsonl: line 3 is not JSON"):
            read_jsonl(path, whole=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "ascii:strict", "utf-8", "cp437"])
def test_what_a_terminal_cannot_show_is_replaced(tmp_path, encoding):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom llama_scale.cli import run_cli\ndef main():\n    print('a 3×10⁵ – \\ud800 b')\n"
        "    print('é \\udcff', file=sys.stderr)\nrun_cli(main)\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"a 3") and done.stdout.endswith(b" b\n")


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o022])
def test_files_follow_the_umask(tmp_path, mask):
    """In a process of its own: the umask is the process's."""
    code = f"""
import os, torch
from pathlib import Path
from llama_scale.checkpoint.folder import save_weights
from llama_scale.files import write_json
os.umask({mask})
write_json("a.json", 1)
Path("t").write_text("x")
save_weights("s", {{name: torch.zeros(2) for name in ("head.weight", "embedding.weight")}}, {{}}, Path("t"))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_flock_has_another_lock_or_is_named(tmp_path, monkeypatch, number):
    monkeypatch.setattr("llama_scale.files.LOCK_PATIENCE", 0.1)

    def refuse(*_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr("fcntl.flock", refuse)
    code = "import sys; from llama_scale.files import locked\nwith locked(sys.argv[1], 'busy: {}'): pass"
    code = (
        f"import fcntl; fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError({getattr(errno, number)}, 'x')); {code}"
    )
    with locked(tmp_path / "lock", "busy: {}"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True)
        assert f"busy: process {os.getpid()}" in done.stderr
    with locked(tmp_path / "lock", "busy: {}"):
        pass
    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(InputError, match=r"lock: cannot be locked here \(flock: "), locked(tmp_path / "lock", "busy"):
        pass


def test_a_changed_value_of_a_sealed_file_is_named_and_its_layout_may_change(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1.5, "b": [None, "é"], "c": {"1": 1e-5}}, sealed=True)
    value = {"a": 1.5, "b": [None, "é"], "c": {"1": 1e-5}}
    assert read_json(path) == value
    loose = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(loose.items()))))
    assert read_json(path) == value
    path.write_text(json.dumps(loose | {"a": 1.25}))
    with pytest.raises(InputError, match=r"a\.json: its values have changed since it was written"):
        read_json(path)


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
        (f"OSError({errno.ELOOP}, 'x', 'a/b')", 2, "too many levels of symbolic links at a/b: name another path"),
        (f"OSError({errno.EIO}, 'x', 'a/b')", 2, "input/output error at a/b: check the disk"),
        (f"OSError({errno.EMFILE}, 'x')", 2, "too many open files: this shell allows "),
        ("ImportError('libx.so: cannot open shared object file: Too many open files')", 2, "(ulimit -n); raise that"),
        ("ImportError('no module x')", 1, "Traceback"),
        ("MemoryError()", 2, "not enough memory: ask for less"),
        ('RuntimeError("DefaultCPUAllocator: can\'t allocate memory")', 2, "not enough memory (Default"),
        ("RuntimeError('x')", 1, "Traceback"),
        ("KeyboardInterrupt()", 130, "script.py: interrupted\n"),
        ("ZeroDivisionError()", 1, "Traceback"),
    ],
)
def test_exit_codes(capsys, raised, code, words):
    def fail():
        raise eval(raised)

    with pytest.raises(BaseException) as ended:
        run_cli(fail, name="script.py")
    said = capsys.readouterr().err
    if code == 1:  # as Python ends where nobody catches it, with its traceback
        assert ended.type is type(eval(raised)) and said == ""
    else:
        assert ended.type is SystemExit and ended.value.code == code
        assert words in said and said.count("\n") == 1


@pytest.mark.parametrize(("raised", "code"), [("InputError('data/x: missing')", 2), ("ZeroDivisionError()", 1)])
def test_exit_codes_of_a_process(tmp_path, raised, code):
    script = tmp_path / "script.py"
    head = "from llama_scale.cli import run_cli\nfrom llama_scale.errors import InputError\n"
    script.write_text(f"{head}def main():\n    raise {raised}\nrun_cli(main)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith("script.py: error: data/x: missing\n" if code == 2 else "Traceback")


SPECIAL = {"a pipe": os.mkfifo, "a socket": bind, "a device": lambda path: path.symlink_to("/dev/zero")}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path, kind):
    path = tmp_path / "a.json"
    SPECIAL[kind](path)
    with at_most(20):
        with pytest.raises(InputError, match=rf"a\.json: cannot be read \({kind}, not a regular file\)"):
            read_json(path)
        for use in (sha256, lambda p: append_jsonl(p, [{}]), lambda p: write_json(p, 1), lambda p: open_file(p, "wb")):
            with pytest.raises(OSError, match=f"{kind}, not a regular file"):
                use(path)
        with pytest.raises(OSError, match=f"{kind}, not a regular file"), locked(path, "busy"):
            pass
    assert os.listdir(tmp_path) == ["a.json"] and not path.is_file()


def test_a_device_is_not_replaced(monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("it would have been"))
    for path in ("/dev/null", "/dev/stdout"):
        with pytest.raises(OSError, match="not a regular file"):
            write_json(path, {})


def test_a_pipe_of_the_shell_is_taken_where_it_is_read_once():
    reader, writer = os.pipe()
    os.write(writer, b"N,D,loss\n")
    os.close(writer)
    with pytest.raises(OSError, match="a pipe, not a regular file"):
        open_file(f"/dev/fd/{reader}")
    with open_file(f"/dev/fd/{reader}", pipes=True) as file:
        assert file.read() == b"N,D,loss\n"
    os.close(reader)


def test_lists_of_numbers_are_paragraphs(tmp_path):
    value = {
        "few": [1, -2.5e-7, None],
        "many": [i / 7 for i in range(60)],
        "text": ["a\n  1,\n", "[\n  1\n]"],
        "none": [],
    }
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert read_json(tmp_path / "a.json") == value
    assert text.startswith('{\n  "few": [1, -2.5e-07, null],\n  "many": [\n    0.0, 0.14285714285714285, ')
    assert len(text.splitlines()) == 20 and max(map(len, text.splitlines())) <= 120
    nested = {"rows": [[1, 2], [3, float("inf")]], "mixed": [1, "b"]}
    write_json(tmp_path / "b.json", nested)
    assert read_json(tmp_path / "b.json") == nested and "[3, Infinity]" in (tmp_path / "b.json").read_text()
