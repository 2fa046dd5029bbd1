"""From installed packages to verified shards, through the launch script where it matters."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_tools import build_folder, prepare
from data_tools.build_folder import find_finished_build
from data_tools.encode import encoder
from data_tools.prepare import PrepareConfig
from data_tools.report.page import build_table
from llama_scale.data.shards import load_tokenizer, open_tokens
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import sha256
from tests.conftest import ROOT, run_script
from tests.data_tools.helpers import document_rows, file_contents, flags_and_environment


def test_every_document_comes_back_from_the_shards(built, site):
    config, manifest = built
    by_split = {split: open_tokens(config.folder, split) for split in ("train", "val")}
    tokenizer = load_tokenizer(by_split["train"])
    documents = document_rows(config.folder)
    position = {"train": 0, "val": 0}
    for row in documents:
        tokens = by_split[row["split"]]
        shard = manifest["splits"][row["split"]]["shards"][row["shard"]]["file"]
        ids = np.fromfile(config.folder / shard, dtype="<u2")[row["start"] :][: row["tokens"]]
        assert ids[-1] == tokenizer.eos
        assert (ids == tokens.read(position[row["split"]], row["tokens"])).all()
        assert tokenizer.decode_bytes(ids.tolist()) == (site / row["path"]).read_bytes()
        assert tokenizer.byte_lengths[ids].sum() == row["bytes"]
        position[row["split"]] += row["tokens"]
    for split, tokens in by_split.items():
        facts = manifest["splits"][split]
        mine = [row for row in documents if row["split"] == split]
        assert position[split] == tokens.n_tokens == facts["tokens"]
        assert sum(row["bytes"] for row in mine) == tokens.n_bytes == facts["bytes"]
        assert len(mine) == facts["documents"]
    assert len(manifest["splits"]["train"]["shards"]) > 1


def test_splits_share_neither_packages_nor_contents(built):
    config, manifest = built
    packages, hashes = defaultdict(set), defaultdict(set)
    for row in document_rows(config.folder):
        packages[row["split"]].add(row["package"])
        hashes[row["split"]].add(row["sha256"])
    assert not packages["train"] & packages["val"]
    assert not hashes["train"] & hashes["val"]
    assert len(packages["val"]) >= 2
    share = manifest["splits"]["val"]["bytes"] / sum(r["bytes"] for r in manifest["sources"])
    assert 0.1 < share <= 0.15
    for row in manifest["sources"]:
        assert row["package"] in packages[row["split"]]


def test_what_is_left_out_is_counted_and_named(built, site):
    config, manifest = built
    paths = {row["path"] for row in document_rows(config.folder)}
    assert "fake_json/decoder.py" in paths
    assert {"fake_copy/escape.py", "fake_copy/bom.py", "fake_copy/odd.py"} <= paths
    dropped = manifest["dropped"]
    assert dropped["vendored"] == {"files": 1, "bytes": 108}
    assert dropped["generated"]["files"] >= 1
    assert dropped["license"]["files"] == len(list((site / "fake_html").rglob("*.py")))
    assert manifest["left_out"] == [
        {"package": "fake-copy", "version": "1.0", "license": "MIT", "reason": "vendored"} | dropped["vendored"],
        {"package": "fake-html", "version": "1.0", "license": "MPL-2.0 AND MIT"}
        | {"reason": "license"}
        | dropped["license"],
    ]
    on_disk = list(site.rglob("*.py"))
    counted = sum(row["files"] for row in dropped.values()) + len(paths)
    assert counted == len(on_disk)
    missing = {str(p.relative_to(site)) for p in on_disk} - paths
    assert "fake_copy/deep/decoder.py" in missing, "the copy with more folders goes"
    kept = [(site / path).read_bytes() for path in paths]
    assert len(kept) == len(set(kept))
    table = build_table(manifest, config.folder)
    assert f"{counted:,} files" in table
    assert "fake-html (MPL-2.0 AND MIT)" in table
    assert str(config.folder) in table


def test_the_tokenizer_saw_no_validation_text(built, config, monkeypatch):
    _, manifest = built
    val = {row["package"] for row in manifest["sources"] if row["split"] == "val"}
    seen = []
    monkeypatch.setattr(prepare, "train_on_records", lambda work, records, *_: seen.extend(records) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare.prepare(config)
    assert seen
    assert not val & {record.package for record in seen}
    size = sum(record.size for record in seen)
    assert size - seen[-1].size < config.tokenizer_bytes <= size


def test_two_workers_make_the_same_bytes(built, config):
    reference, _ = built
    prepare.prepare(replace(config, workers=2))
    assert file_contents(config.folder) == file_contents(reference.folder)


def test_documents_order_follows_the_seed(built, config):
    reference, manifest = built
    other = prepare.prepare(replace(config, seed=1))
    assert other["fingerprint"] != manifest["fingerprint"]
    assert document_rows(config.folder) != document_rows(reference.folder)


def test_a_finished_build_is_left_alone(built, site, tmp_path):
    config, manifest = built
    before = {p.name: p.stat().st_mtime_ns for p in config.folder.iterdir()}
    flags, environment = flags_and_environment(config, site)
    done = run_script("prepare.py", *flags, "--workers=2", cwd=tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "already prepared" in done.stdout
    assert manifest["fingerprint"][:12] in done.stdout
    assert {p.name: p.stat().st_mtime_ns for p in config.folder.iterdir()} == before
    changed = run_script("prepare.py", *flags, "--vocab_size=700", cwd=tmp_path, **environment)
    assert changed.returncode == 2
    assert changed.stderr.count("\n") == 1
    assert f"vocab_size: {config.folder} was built with 600, not 700" in changed.stderr
    assert "choose another out" in changed.stderr


def test_a_folder_that_is_no_build_or_damaged_is_refused(built, config):
    config.folder.mkdir()
    assert find_finished_build(config) is None, "an empty folder is no obstacle"
    (config.folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"tiny: is there already but is no build"):
        find_finished_build(config)
    (config.folder / "notes.txt").unlink()
    for name, content in file_contents(built[0].folder).items():
        (config.folder / name).write_bytes(content)
    assert find_finished_build(config) == built[1]
    (config.folder / "val-00000.bin").write_bytes(b"\0\0")
    with pytest.raises(InputError, match=r"val-00000\.bin: 2 bytes.*delete the folder"):
        find_finished_build(config)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("records.json", "tokenizer.model", "encode.json")]


@pytest.mark.parametrize("stage", ["dedup.json", "train-00000.bin", *SLOW])
def test_sigkill_and_rerun_make_the_same_bytes(built, config, site, tmp_path, stage):
    reference, _ = built
    flags, environment = flags_and_environment(replace(config, workers=2), site)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), *flags]
    work = tmp_path / ".tiny.tmp"
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not (work / stage).exists():
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the build ended before it was killed"
    assert not psutil.wait_procs(workers, timeout=20)[1], "workers outlive their parent"
    assert not config.folder.exists()
    assert (work / stage).exists()
    made = work / "tokenizer.model"
    kept = sha256(made) if made.exists() else None
    (work / ".contents.bin.x.tmp").write_text("left by a kill during a write")
    done = run_script("prepare.py", *flags, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert file_contents(config.folder) == file_contents(reference.folder)
    assert not work.exists()
    assert kept in (None, sha256(config.folder / "tokenizer.model"))


def test_an_interrupted_build_repeats_no_finished_stage(built, config, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_splits", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(config)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "collect", stop)
        patch.setattr(prepare, "train_on_records", stop)
        prepare.prepare(config)
    assert file_contents(config.folder) == file_contents(built[0].folder)


def test_each_step_alone(built, config, monkeypatch):
    def stop(*_, **__):
        raise AssertionError("a finished step ran again")

    work = config.folder.parent / ".tiny.tmp"
    steps = {
        "collect": ("records.json", prepare, "collect"),
        "filter": ("filter.json", prepare, "filter_corpus"),
        "dedup": ("dedup.json", prepare, "deduplicate"),
        "decontaminate": ("contamination.json", prepare, "decontaminate"),
        "tokenizer": ("tokenizer.model", prepare, "train_on_records"),
        "encode": ("encode.json", prepare, "write_splits"),
    }
    for step, (file, module, function) in steps.items():
        assert not (work / file).exists()
        assert prepare.prepare(replace(config, until=step)) is None
        assert (work / file).exists()
        assert not config.folder.exists()
        monkeypatch.setattr(module, function, stop)
    prepare.prepare(config)
    assert file_contents(config.folder) == file_contents(built[0].folder)


def test_other_settings_start_over(config, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_splits", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(config)
    other = prepare.prepare(replace(config, vocab_size=601, packages=config.packages[:6]))
    assert other["tokenizer"]["vocab_size"] == 601
    assert len(other["sources"]) == 6


def test_one_process_builds_a_folder_at_a_time(config):
    with pytest.raises(InputError, match=r"another launch/prepare\.py is building it"):  # noqa: SIM117
        with build_folder.open_work_folder(config):
            prepare.prepare(config)
    assert not config.folder.exists()


def test_a_document_that_does_not_come_back_is_named(config, monkeypatch):
    class Lossy(Tokenizer):
        def encode_batch(self, texts):
            batch = super().encode_batch(texts)
            bad = ["class JSONDecoder" in text for text in texts]
            return [ids[:-1] if cut else ids for ids, cut in zip(batch, bad, strict=True)]

    monkeypatch.setattr(encoder, "_load_tokenizer", lambda path, checksum: Lossy(path))
    with pytest.raises(InputError, match=r"^fake-json: fake_json/decoder\.py: does not come back"):
        prepare.prepare(config)
    assert not config.folder.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 65_537}, "vocab_size: shards hold ids below 65536, found 65537"),
        ({"vocab_size": 0}, "vocab_size: expected at least 1, found 0"),
        ({"max_bytes": -1}, "max_bytes: expected at least 1, found -1"),
        ({"val_share": 1.0}, "val_share: expected between 0 and 1, found 1.0"),
        ({"seed": 2**63}, "seed: expected a number of 64 bits, found 9223372036854775808"),
    ],
)
def test_impossible_settings(config, change, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        replace(config, **change)


def test_vocabulary_too_large_for_the_text(config):
    with pytest.raises(InputError, match=r"^vocab_size: cannot train 60000 pieces"):
        prepare.prepare(replace(config, vocab_size=60_000, workers=2, packages=config.packages[:3]))
    assert not config.folder.exists()


def test_one_package_cannot_be_split(config):
    with pytest.raises(InputError, match="validation by package needs two"):
        prepare.prepare(replace(config, packages=["fake-json"]))


@pytest.mark.parametrize("name", ["quickstart", "installed", "the-stack", "the-stack-v2"])
def test_shipped_configs(name):
    from llama_scale.cli import parse

    config = parse(PrepareConfig, "x", ["--config", str(ROOT / "configs" / "data" / f"{name}.yaml")])
    assert config.name == name
    assert config.folder == Path("data") / name
