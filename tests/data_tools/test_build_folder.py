"""A build appears whole in its place or not at all, and what cannot end well does not begin."""

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools import build_folder, prepare
from data_tools.build_folder import find_finished_build
from data_tools.config import PrepareConfig
from data_tools.lookup import LookupConfig, lookup
from data_tools.report.page import build_table
from llama_scale.errors import InputError
from llama_scale.files import read_json, write_json
from llama_scale.plotting.draw import save_sheet
from llama_scale.plotting.figure import Bar, Figure, bar_panel
from tests.conftest import run_here
from tests.data_tools.helpers import file_contents


def test_a_failure_before_anything_is_collected_leaves_nothing(config, tmp_path):
    for change, message in (
        ({"source": "folder", "path": str(tmp_path / "no")}, "path: .*no such file or folder"),
        ({"packages": ["no-such-package"]}, "packages: 'no-such-package' is not installed"),
        ({"engine": "slurm"}, "^(partition|engine): "),
        ({"mbpp": str(tmp_path / "mbpp.json")}, "mbpp: .*no such file"),
    ):
        with pytest.raises(InputError, match=message):
            prepare.prepare(replace(config, **change))
        assert not list(tmp_path.iterdir()), change


def test_what_was_left_out_is_said_when_nothing_is_left(config, tmp_path):
    path = tmp_path / "rows.jsonl"
    good, blank = {"content": "value = 1\n", "license": "MIT"}, {"content": "\n ", "license": "MIT"}
    rows = [good | {"content": "  \0"}, blank, blank, {"content": "value = 1\n"}]
    cases = [
        (rows, {}, "no file is left to train on, left out: 1 license, 1 nul, 2 empty "),
        ([good], {"licenses": ["FOO"]}, "no file is left to train on, left out: 1 license "),
        ([good], {"max_bytes": 3}, "no file was read; it holds none, or .*max_bytes"),
        ([good], {"packages": []}, "no file was read; it holds none, or packages"),
        ([], {}, "no file was read; it holds none"),
    ]
    settings = replace(config, source="jsonl", path=str(path), packages=None)
    for lines, change, message in cases:
        path.write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(InputError, match=f"^path: {path}: {message}"):
            prepare.prepare(replace(settings, **change))
        assert list(tmp_path.iterdir()) == [path]
    path.write_text('{"content": "value = ')
    flags = "--name=x", "--source=jsonl", f"--path={path}", "--workers=1"
    done = run_here("prepare.py", *flags, cwd=tmp_path)
    line = f"prepare.py: error: path: {path}: no file is left to train on, left out: 1 bad_json ("
    assert (done.returncode, done.stderr.splitlines()[-1].startswith(line)) == (2, True)
    with pytest.raises(InputError, match=r"^source: installed: no file was read"):
        prepare.prepare(replace(config, max_bytes=10))


def test_a_source_set_right_is_read_anew(config, tmp_path):
    """The same command went on from the rows that it had refused."""
    path = tmp_path / "rows.jsonl"
    settings = replace(config, source="jsonl", path=str(path), packages=None, vocab_size=300, humaneval=False)
    rows = [{"content": f"def f{i}(x):\n    return x + {i}\n" * 9, "package": f"p{i}",
             "license": "MIT" if i else "none"} for i in range(4)]  # fmt: skip
    for n, message in ((1, "left out: 1 license"), (2, "source code in 1, but validation")):
        path.write_text("\n".join(map(json.dumps, rows[:n])))
        with pytest.raises(InputError, match=message):
            prepare.prepare(settings)
    path.write_text("\n".join(map(json.dumps, rows)))
    manifest = prepare.prepare(settings)
    assert [row["package"] for row in manifest["sources"]] == ["p1", "p2", "p3"]


def test_a_benchmark_that_cannot_be_read_is_told_before_the_source_is(config, monkeypatch):
    monkeypatch.setattr(prepare, "collect", lambda *_: 1 / 0)
    for name in ("mbpp", "apps"):
        with pytest.raises(InputError, match=f"{name}: .*no such file"):
            prepare.prepare(replace(config, **{name: "nowhere"}))
    assert not list(config.folder.parent.iterdir())


def test_the_folder_may_be_a_link(built, config, tmp_path):
    """A rename onto a link fails, which showed only when all was done."""
    (tmp_path / "disk/here").mkdir(parents=True)
    for name in ("here", "new"):
        (tmp_path / name).symlink_to(f"disk/{name}")
        settings = replace(config, out=str(tmp_path / name))
        with build_folder.open_work_folder(settings) as work:
            for file, content in file_contents(built[0].folder).items():
                (work / file).write_bytes(content)
        assert find_finished_build(settings) == built[1]
        assert (tmp_path / name).is_symlink()
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"here", "new"}


def test_folders_that_cannot_be_made(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for out, message in (
        (tmp_path / "file/x", r"\.x\.tmp: cannot be made \(Not a directory\); choose another"),
        (tmp_path / ("a" * 253), r"cannot be made \(File name too long\)"),
        (tmp_path / ("a" * 999), r"cannot be made \(File name too long\)"),
        ("/proc", "/proc: a build cannot take the place of a mount point.*a folder inside it"),
        (".", "cannot take the place of.* the current folder"),
    ):
        settings = replace(config, out=str(out))
        if str(out)[-1] in "ax":
            assert find_finished_build(settings) is None
        with pytest.raises(InputError, match=message):
            prepare.prepare(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_cannot_lead_out_of_data(tmp_path):
    flags = "--source=jsonl", f"--path={tmp_path}", "--workers=1"
    done = run_here("prepare.py", "--name=../esc", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "name: '../esc' is no folder name; use letters, digits" in done.stderr
    assert not list(tmp_path.iterdir())
    for name in ("", "..", "a/b", "/a", ".a", "-a", "a b", "a\n", "é"):
        with pytest.raises(InputError, match=f"^name: {re.escape(repr(name))} is no folder name"):
            PrepareConfig(name)
    for name in ("the-stack-v2", "0", "A_b.c"):
        assert PrepareConfig(name).folder == Path("data") / name


def test_a_kill_while_scratch_files_are_removed_loses_nothing(built, config, monkeypatch):
    """Wherever it falls, the next run only removes the rest and gives the folder its name."""
    reference = file_contents(built[0].folder)
    unlink, removed, before = Path.unlink, [], [0]

    def stop(path, missing_ok=False):
        if len(removed) == before[0]:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok)

    for before[0] in range(len(build_folder.SCRATCH) + 4):
        removed.clear()
        with (
            monkeypatch.context() as patch,
            pytest.raises(KeyboardInterrupt),
            build_folder.open_work_folder(config) as work,
        ):
            for name, content in reference.items():
                (work / name).write_bytes(content)
            for name in build_folder.SCRATCH:
                (work / name).write_bytes(b"x")
            patch.setattr(Path, "unlink", stop)
        assert not config.folder.exists()
        with monkeypatch.context() as patch:
            patch.setattr(prepare, "steps", lambda *_: 1 / 0)
            assert prepare.prepare(config) == built[1]
        assert file_contents(config.folder) == reference
        assert not work.exists()
        shutil.rmtree(config.folder)


def test_a_complete_build_of_other_settings_is_not_taken(built, config):
    work = config.folder.parent / ".tiny.tmp"
    shutil.copytree(built[0].folder, work)
    with build_folder.open_work_folder(replace(config, seed=7)):
        assert not (work / "manifest.json").exists()


def test_names_with_dollars_are_drawn_as_they_are(tmp_path):
    """Between two of them matplotlib would read a formula, and stop at a wrong one."""
    bars = [Bar(name, 1.0, "#000000") for name in ("$x_{$", "a$b$", "plain")]
    save_sheet([Figure("t", "t", "", [bar_panel("t", "MB", bars)])], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def old_names(value):
    """A manifest as it was written when the field was called licence."""
    text = json.dumps(value).replace('"license"', '"licence"').replace('"licenses"', '"licences"')
    return json.loads(text)


def test_a_build_of_before_license_had_its_name_still_opens(built, config, tmp_path):
    folder = Path(shutil.copytree(built[0].folder, config.folder))
    with gzip.open(folder / "documents.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = file.read().replace('"license": ', '"licence": ')
    with gzip.open(folder / "documents.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(rows)
    write_json(folder / "manifest.json", old_names(built[1]))
    assert "licences" in read_json(folder / "manifest.json")
    assert find_finished_build(config) == built[1]
    assert "MIT 100 %" in build_table(find_finished_build(config), folder)
    with pytest.raises(InputError, match=r"license: .* was built with None, not MIT"):
        find_finished_build(replace(config, license="MIT"))
    assert lookup(LookupConfig(str(folder), 5))["license"] == "MIT"
    folder.rename(tmp_path / ".tiny.tmp")
    assert prepare.prepare(config) == built[1], "complete, but killed before it had its name"
