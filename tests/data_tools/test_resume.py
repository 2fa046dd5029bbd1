"""What a kill leaves is continued: inside every step, only the unfinished part is done again."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from data_tools import prepare
from data_tools.corpus import corpus
from data_tools.corpus.records import Record, Records, row_of, write_array, write_sorted
from data_tools.sources import hub, installed, local
from data_tools.sources.installed import Document
from data_tools.workers import journalled
from tests.data_tools.test_prepare import built, config, contents, script, site  # noqa: F401


def documents(n):
    """Documents in no order, some of them not wanted or without content."""
    texts = [b"x" * (37 * i % 50) for i in range(n)]
    rows = [Document(f"p{i * 7 % 5}", "1", "MIT", f"{i * 31 % 97}.py", t)
            for i, t in enumerate(texts)]  # fmt: skip
    rows[3] = None
    rows[5] = Document("p", "1", "GPL-3.0", "gpl.py", b"1")
    return rows


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("stop", [0, 1, 4, 17, 39])
def test_collect_goes_on_at_its_checkpoint(tmp_path, monkeypatch, stop):
    rows, opened = documents(40), []

    def broken(start):
        yield from rows[start:stop]
        raise KeyboardInterrupt

    def whole(start):
        opened.append(start)
        return rows[start:]

    expected = corpus.collect(whole, tmp_path / "a")
    monkeypatch.setattr(corpus, "BETWEEN", 60)
    with pytest.raises(KeyboardInterrupt):
        corpus.collect(broken, tmp_path / "b")
    for name in (corpus.CONTENTS, corpus.ROWS):
        with open(tmp_path / "b" / name, "ab") as file:
            file.write(b"written after the checkpoint")
    found = corpus.collect(whole, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert list(found.records) == list(expected.records)
    assert opened[1] >= stop - 6, "what was collected is not read again"


def test_collect_starts_over_when_the_source_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "BETWEEN", 60)
    rows = documents(40)

    def broken(start):
        yield from rows[start:30]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corpus.collect(broken, tmp_path / "b")
    rows = [row for row in rows if row is None or row.path != "31.py"]
    corpus.collect(lambda start: rows[start:], tmp_path / "a")
    corpus.collect(lambda start: rows[start:], tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_sources_open_anywhere(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "code" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "code" / name / f"{i}.py").write_text(f"x = {i}\n")
    for name in ("a.jsonl", "b.jsonl"):
        lines = [json.dumps({"content": f"{name} {i}"}) for i in range(3)]
        (tmp_path / name).write_text("\n".join([*lines, "no json"]) + "\n")
    v2 = [{"files": [{"language": "Python", "path": f"{r}/{i}"} for i in range(2)]}
          for r in range(3)]  # fmt: skip
    opened = {
        "folder": lambda n: local.folder_documents(str(tmp_path / "code"), "Python", None, 99, n),
        "jsonl": lambda n: local.jsonl_documents(str(tmp_path), None, n),
        "installed": lambda n: installed.installed(["packaging"], start=n),
        "v2": lambda n: hub.stack_v2_documents(iter(v2), None, "Python", 99, n),
    }
    for name, open_at in opened.items():
        rows = list(open_at(0))
        assert len(rows) >= 6
        for start in range(len(rows) + 2):
            assert list(open_at(start)) == rows[start:], name


def test_a_journal_keeps_what_is_whole(tmp_path):
    calls = []

    def square(x):
        calls.append(x)
        return np.full(3, x * x)

    def run():
        map_ = journalled(tmp_path / "j", map)
        return [int(row[0]) for row in map_(square, range(5))] + list(map_(str, range(2)))

    first = run()
    assert first == [0, 1, 4, 9, 16, "0", "1"]
    for cut in (1, 60, 200):
        content = (tmp_path / "j.0").read_bytes()
        (tmp_path / "j.0").write_bytes(content[:-cut])
        calls.clear()
        assert run() == first
        assert calls == list(range(5 - len(calls), 5))
        assert 1 <= len(calls) < 5
    (tmp_path / "j.0").write_bytes(b"\x05\0\0\0\0\0\0\0nonsense")
    assert run() == first


def test_every_step_goes_on_where_it_was_killed(built, config, monkeypatch):  # noqa: F811
    """Kill a build after every few batches: all batches together are done once."""
    calls, limit = [], [10**9]

    def counted(function, *arguments):
        def call(*args):
            if len(calls) == limit[0]:
                raise KeyboardInterrupt
            calls.append(function)
            return function(*args)

        return map(call, *arguments)

    @contextmanager
    def mapper(workers):
        yield counted

    monkeypatch.setattr(prepare, "mapper", mapper)
    monkeypatch.setattr(corpus, "BATCH", 1 << 17)
    prepare.prepare(config)
    assert contents(config.folder) == contents(built[0].folder), "batches do not matter"
    n_calls = len(calls)
    assert n_calls > 60
    for path in config.folder.iterdir():
        path.unlink()
    config.folder.rmdir()
    calls.clear()
    manifest, kills = None, 0
    for stop in range(4, 10 * n_calls, 7):
        limit[0] = stop
        try:
            manifest = prepare.prepare(config)
            break
        except KeyboardInterrupt:
            kills += 1
    assert manifest
    assert kills > 8
    assert len(calls) == n_calls
    assert contents(config.folder) == contents(built[0].folder)


def test_sigkill_inside_collect(built, config, site, tmp_path):  # noqa: F811
    flags, environment = script(config, site)
    code = (
        "import sys, time; from data_tools.corpus import corpus; corpus.BETWEEN = 50_000; "
        "save = corpus._save; corpus._save = lambda *a: (save(*a), time.sleep(.05)); "
        "sys.argv[0] = 'prepare.py'; from launch.prepare import main; main()"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags], cwd=tmp_path, env=environment,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    work = tmp_path / ".tiny.tmp"
    state = {"seen": 0}
    while process.poll() is None and state["seen"] < 40:
        time.sleep(0.01)
        if (work / corpus.CHECKPOINT).exists():
            state = json.loads((work / corpus.CHECKPOINT).read_text())
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (work / corpus.SUMMARY).exists()
    opened = []
    documents = prepare._documents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            prepare, "_documents", lambda c, start: opened.append(start) or documents(c, start)
        )
        prepare.prepare(config)
    assert opened[0] >= 39
    assert len(opened) == 1
    assert contents(config.folder) == contents(built[0].folder)


def test_rows_are_sorted_in_bounded_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.corpus.records.RUN", 7)
    rng = np.random.default_rng(0)
    rows = [Record(f"p{rng.integers(4)}", "", "MIT", f"é {rng.integers(9)}\n", str(i), 0, i)
            for i in range(60)]  # fmt: skip
    (tmp_path / "rows").write_bytes(b"".join(map(row_of, rows)))
    records = write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
    expected = sorted(rows, key=lambda r: (r.package, r.path, r.sha256))
    assert list(records) == list(Records.open(tmp_path / "r.jsonl")) == expected
    assert list(records.take(np.array([5, 2]))) == [records[5], records[2]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.npy", "rows"]


def test_an_even_sample_takes_small_packages_whole(tmp_path):
    sizes = {"large": [10] * 90, "middle": [10] * 20, "small": [10] * 3}
    rows = [Record(name, "", "MIT", str(i), "", 0, n)
            for name, row in sizes.items() for i, n in enumerate(row)]  # fmt: skip
    np.random.default_rng(0).shuffle(rows)
    (tmp_path / "rows").write_bytes(b"".join(map(row_of, rows)))
    write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
    records = Records.open(tmp_path / "r.jsonl")
    chosen = prepare.sample(records, 330, even=True)
    counts = {name: sum(r.package == name for r in chosen) for name in sizes}
    assert counts == {"large": 15, "middle": 15, "small": 3}
    assert list(prepare.sample(records, 330, even=False)) == list(records)[:33]
    assert list(prepare.sample(records, 10**6, even=True)) == list(records)


def test_an_even_sample_equals_a_plain_count(tmp_path):
    """Taken by how many bytes of the same package come before each file, until the limit."""
    rng = np.random.default_rng(0)
    for case in range(40):
        sizes = rng.integers(1, 50, rng.integers(1, 25)).tolist()
        rows = [Record(f"p{rng.integers(1 + case % 6)}", "", "MIT", str(i), "", 0, size)
                for i, size in enumerate(sizes)]  # fmt: skip
        (tmp_path / "rows").write_bytes(b"".join(map(row_of, rows)))
        records = write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
        records = records.take(rng.permutation(len(records)))
        shuffled, before, seen = list(records), [], {}
        for record in shuffled:
            before.append(seen.get(record.package, 0))
            seen[record.package] = before[-1] + record.size
        limit, total, expected = int(rng.integers(1, 400)), 0, []
        for i in sorted(range(len(shuffled)), key=before.__getitem__):
            if total < limit:
                expected.append(i)
                total += shuffled[i].size
        assert list(prepare.sample(records, limit, True)) == [shuffled[i] for i in sorted(expected)]


def test_more_runs_than_may_be_open_are_merged_in_turns(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.corpus.records.RUN", 2)
    monkeypatch.setattr("data_tools.corpus.records.OPEN", 3)
    rng = np.random.default_rng(0)
    rows = [Record(f"p{rng.integers(9)}", "", "MIT", f"{i}", str(i), 0, i) for i in range(999)]
    (tmp_path / "rows").write_bytes(b"".join(map(row_of, rows)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 8, hard))
    try:
        records = write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(records) == sorted(rows, key=lambda r: (r.package, r.path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.npy", "rows"]


def test_an_array_that_does_not_fit_on_the_disk(tmp_path):
    """The error has a number, by which launch scripts say what to do, and a name; no file stays."""
    values = np.arange(10**4)
    write_array(tmp_path / "whole.npy", values)
    assert (np.load(tmp_path / "whole.npy") == values).all()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"a\.npy") as raised:
            write_array(tmp_path / "a.npy", values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == ["whole.npy"]
