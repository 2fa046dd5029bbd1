"""A collect step that was killed goes on at its checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from data_tools import prepare
from data_tools.corpus import collect as collect_module
from data_tools.corpus import corpus
from data_tools.corpus.collect import collect
from data_tools.sources.document import Document
from tests.data_tools.helpers import file_contents, flags_and_environment


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

    expected = collect(whole, tmp_path / "a")
    monkeypatch.setattr(collect_module, "CHECKPOINT_BYTES", 60)
    with pytest.raises(KeyboardInterrupt):
        collect(broken, tmp_path / "b")
    for name in (corpus.CONTENTS, collect_module.UNSORTED):
        with open(tmp_path / "b" / name, "ab") as file:
            file.write(b"written after the checkpoint")
    found = collect(whole, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert list(found.records) == list(expected.records)
    assert opened[1] >= stop - 6, "what was collected is not read again"


def test_collect_starts_over_when_the_source_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(collect_module, "CHECKPOINT_BYTES", 60)
    rows = documents(40)

    def broken(start):
        yield from rows[start:30]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(broken, tmp_path / "b")
    rows = [row for row in rows if row is None or row.path != "31.py"]
    collect(lambda start: rows[start:], tmp_path / "a")
    collect(lambda start: rows[start:], tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_sigkill_inside_collect(built, config, site, tmp_path):
    flags, environment = flags_and_environment(config, site)
    code = (
        "import sys, time; from data_tools.corpus import collect; "
        "collect.CHECKPOINT_BYTES = 50_000; save = collect._save_checkpoint; "
        "collect._save_checkpoint = lambda *a: (save(*a), time.sleep(.05)); "
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
        if (work / collect_module.CHECKPOINT).exists():
            state = json.loads((work / collect_module.CHECKPOINT).read_text())
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (work / corpus.SUMMARY).exists()
    opened = []
    documents = prepare.source_documents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "source_documents", lambda c, start: opened.append(start) or documents(c, start))
        prepare.prepare(config)
    assert opened[0] >= 39
    assert len(opened) == 1
    assert file_contents(config.folder) == file_contents(built[0].folder)
