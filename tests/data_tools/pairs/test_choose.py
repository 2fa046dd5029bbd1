"""Thirds of complexity, balance, near copies, and a build that is stopped."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

pytest.importorskip("tree_sitter", reason="tree-sitter is not installed")
from data_tools.pairs.build import build_pairs
from data_tools.pairs.choose import balanced, with_thirds, without_near_copies
from data_tools.pairs.config import PairsConfig
from llama_scale.data.examples import read_pairs
from llama_scale.errors import InputError
from llama_scale.files import read_json
from tests.conftest import ROOT
from tests.data_tools.helpers import LIBRARY, install_packages

FOLDERS = ["asyncio", "email", "multiprocessing", "unittest"]  # 1.3 MB, so that a batch ends before the last
MBPP = ROOT / "tests" / "fixtures" / "mbpp.jsonl"
MBXP = ROOT / "tests" / "fixtures" / "mbxp"


def rows_of(complexities):
    return [
        {"id": f"r{i}", "complexity": c, "completion": "x" * (c + 1), "reference": f"code {i}", "package": f"p{i % 5}"}
        for i, c in enumerate(complexities)
    ]


def test_thirds_keep_equal_complexities_together():
    rows = with_thirds(rows_of([1] * 10 + [2, 3] * 4 + [5, 6] * 3))
    assert {(row["complexity"], row["third"]) for row in rows} == {
        (1, "low"), (2, "middle"), (3, "middle"), (5, "high"), (6, "high"),
    }  # fmt: skip


def test_balance_by_pairs_and_by_bytes():
    rows, dropped = with_thirds(rows_of([1] * 30 + [2] * 20 + [9] * 10)), Counter()
    kept = Counter(row["third"] for row in balanced(rows, "pairs", 0, dropped))
    assert kept == {"low": 10, "middle": 10, "high": 10}
    assert dropped == {"balance": 30}
    by_bytes = balanced(rows, "bytes", 0, Counter())
    sizes = Counter()
    for row in by_bytes:
        sizes[row["third"]] += len(row["completion"])
    assert sizes == {"low": 60, "middle": 60, "high": 60}  # 30 of 2, 20 of 3, 6 of 10 bytes
    # A choice by hash: what is added to one third moves nothing in the others.
    more = [row | {"id": f"new{i}"} for i, row in enumerate(rows[:30])]
    again = balanced([*rows, *more], "pairs", 0, Counter())
    assert [row for row in again if row["third"] != "low"] == [
        row for row in balanced(rows, "pairs", 0, Counter()) if row["third"] != "low"
    ]


def test_near_copies(tmp_path):
    words = " ".join(f"word{i}" for i in range(60))
    texts = [f"def f(): {words}", f"def f(): {words} more", f"def g(): {words[::-1]}"]
    rows = [{"id": str(i), "reference": text, "package": "p", "license": "MIT"} for i, text in enumerate(texts)]
    assert [row["id"] for row in without_near_copies(rows, tmp_path, map)] == ["0", "2"]
    rows[1]["split"] = "test"  # stays rather than one of training
    assert [row["id"] for row in without_near_copies(rows, tmp_path, map)] == ["1", "2"]


def test_a_published_test_split_stays_whole(tmp_path):
    """Two test tasks with one solution stay, and the training task that has it too goes."""
    problems = [json.loads(line) for line in MBPP.read_text().splitlines()]
    (tmp_path / "mbpp.jsonl").write_text("".join(
        json.dumps(problems[0] | {"task_id": number, "text": f"Write task number {number}."} | changes) + "\n"
        for number, changes in {11: {}, 12: {}, 601: {}, 602: {"code": "def other(x):\n    return [x] * 9\n"}}.items()
    ))  # fmt: skip
    config = PairsConfig(
        name="m", out=str(tmp_path), source="mbpp", path=str(tmp_path / "mbpp.jsonl"), humaneval=False, workers=1
    )
    manifest = build_pairs(config)
    train, test = (read_pairs(tmp_path / "m" / f"{part}.jsonl") for part in ("train", "test"))
    assert sorted(pair.id for pair in test) == ["MBPP/11", "MBPP/12"]
    assert [pair.id for pair in train] == ["MBPP/602"]
    assert manifest["dropped"]["copy"] == 1


def test_mbxp_has_the_same_tasks_in_each_language(tmp_path):
    ids, prompts = {}, {}
    for language in ("python", "java", "javascript"):
        config = PairsConfig(
            name=language, out=str(tmp_path), source="mbxp", path=str(MBXP), language=language, format="task",
            humaneval=False, workers=1,
        )  # fmt: skip
        manifest = build_pairs(config)
        train, test = (read_pairs(tmp_path / language / f"{part}.jsonl") for part in ("train", "test"))
        ids[language] = [pair.id for pair in train], [pair.id for pair in test]
        prompts[language] = train[0].prompt
        assert train[0].rest["format"] == "task" and manifest["licenses"] == {"CC-BY-4.0": 2}
    assert set(map(str, ids.values())) == {"(['MBXP/602'], ['MBXP/11'])"}
    assert len(set(prompts.values())) == 3


def test_formats_of_mbxp_have_no_documentation_in_the_code(tmp_path):
    for language in ("python", "java"):
        config = PairsConfig(
            name=language, out=str(tmp_path), source="mbxp", path=str(MBXP), language=language, format="seed",
            humaneval=False, workers=1,
        )  # fmt: skip
        build_pairs(config)
        (pair,) = read_pairs(tmp_path / language / "test.jsonl")
        assert pair.prompt == "Prompt: Write a function to add the numbers of a list.\nCode:\n"
        assert "Write a function" not in pair.completion
    assert pair.completion.endswith("}\n")


def test_mbpp_programs_of_several_functions_have_no_signature(tmp_path):
    helper = "import math\ndef g(x):\n    return x\n"
    row = json.loads(MBPP.read_text().splitlines()[0])
    lone = "import math\ndef f(x):\n    y = math.sqrt(x)\n    return y"
    codes = {11: lone, 12: helper + lone, 601: lone.replace("y", "z"), 602: helper.replace("x", "w") + lone}
    (tmp_path / "mbpp.jsonl").write_text(
        "".join(json.dumps(row | {"task_id": n, "code": code}) + "\n" for n, code in codes.items())
    )
    found = {}
    for form in ("signature", "task"):
        config = PairsConfig(
            name=form, out=str(tmp_path), source="mbpp", path=str(tmp_path / "mbpp.jsonl"), format=form,
            near_duplicates=False, humaneval=False, workers=1,
        )  # fmt: skip
        build_pairs(config)
        found[form] = {pair.id: pair for pair in read_pairs(tmp_path / form / "test.jsonl")}
    assert (len(found["signature"]), len(found["task"])) == (1, 2)
    pair = found["signature"]["MBPP/11"]
    assert pair.prompt == f"# {' '.join(row['text'].split())}\nimport math\ndef f(x):\n"
    assert pair.completion == "    y = math.sqrt(x)\n    return y\n"
    assert found["task"]["MBPP/12"].completion == helper + lone + "\n"
    assert found["task"]["MBPP/12"].prompt.startswith(f'"""\n{row["text"]}\n')


def test_settings_that_do_not_go_together():
    for words, fields in {
        "format: task is of the sources mbpp and mbxp": {"format": "task"},
        "language: jdk is in java, not javascript": {"source": "jdk", "language": "javascript"},
        "most_complexity: 1 is below least_complexity, 3": {"least_complexity": 3, "most_complexity": 1},
    }.items():
        with pytest.raises(InputError, match=words):
            PairsConfig(**fields)


def test_a_finished_folder_stays(tmp_path):
    config = {"out": str(tmp_path), "source": "mbxp", "path": str(MBXP), "humaneval": False, "workers": 1}
    manifest = build_pairs(PairsConfig(name="a", **config))
    assert build_pairs(PairsConfig(name="a", **config)) == manifest
    with pytest.raises(InputError, match=r"format: .*a was made with signature, not seed; choose another name"):
        build_pairs(PairsConfig(name="a", format="seed", **config))
    with open(tmp_path / "a" / "train.jsonl", "a") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match=r"train.jsonl: is not what was written; delete"):
        build_pairs(PairsConfig(name="a", **config))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"b: is there already and has no pairs.json"):
        build_pairs(PairsConfig(name="b", **config))
    assert [path.name for path in tmp_path.glob(".*")] == []


KILLED_AT_THE_SECOND_BATCH = """
import os, signal, sys
from data_tools import journal
from launch.prepare import main

write, written = journal.write_result, []

def write_one(file, result):
    if written:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(write(file, result))

journal.write_result = write_one
main(sys.argv[1:])
"""


def test_a_killed_build_goes_on(tmp_path):
    """SIGKILL in the middle: the next run has the bytes of an unbroken one, and reads the kept results."""
    site = {
        name: ("MIT", {f"{name}/{f.name}": f.read_text() for f in (LIBRARY / name).glob("*.py")}) for name in FOLDERS
    }
    install_packages(tmp_path / "site", site)
    flags = ["pairs", f"--packages=[{','.join(FOLDERS)}]", "--test=20", "--humaneval=false", "--workers=1"]
    command = [sys.executable, ROOT / "launch" / "prepare.py", *flags]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}
    dying = [sys.executable, "-c", KILLED_AT_THE_SECOND_BATCH, *flags, "--name=killed"]
    assert subprocess.run(dying, cwd=tmp_path, env=environment).returncode == -signal.SIGKILL
    assert (tmp_path / "pairs" / ".killed.tmp" / "extract.journal.0").stat().st_size
    assert not (tmp_path / "pairs" / "killed").exists()
    for name in ("killed", "whole"):
        subprocess.run([*command, f"--name={name}"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    killed, whole = (read_json(tmp_path / "pairs" / name / "pairs.json") for name in ("killed", "whole"))
    assert killed["sha256"] == whole["sha256"] and killed["dropped"] == whole["dropped"]
    rows = [json.loads(line) for line in (tmp_path / "pairs" / "whole" / "train.jsonl").open()]
    assert {row["third"] for row in rows} == {"low", "middle", "high"}
