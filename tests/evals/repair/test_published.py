"""The published protocol: what it claims stands beside what holds, and whoever writes or criticizes sees all tests."""

import pytest

from evals.repair.config import RepairConfig
from llama_scale.errors import InputError
from tests.evals.repair.helpers import block, right, study

PUBLISHED = {"protocol": "published", "plan.keep": False, "plan.repeats": "keep", "select": "last,first_visible"}
TESTS = ["assert add_11(1) == 12", "assert add_11(77001234511) == 77001234522", "assert add_11(x=88001234511)"]
CLAIMED = {  # program: whether its process returns 0 in silence, whether it holds the tests
    right(11): (True, True),
    "import sys\nsys.exit(0)\n": (True, False),
    "import os\ndef add_11(x):\n    os._exit(0)\n": (True, False),
    "class E(int):\n    def __eq__(s, o): return True\ndef add_11(x): return E(7)\n": (True, False),
    f"import sys\n{right(11)}print('note', file=sys.stderr)\n": (False, True),
    f"import warnings\n{right(11)}warnings.warn('old')\n": (False, True),
    f"{right(11)}print('all tests passed')\n": (True, True),
    "def add_11(x):\n    return 12\n": (False, False),
    "def (\n": (False, False),
    "import sys\nsys.exit(1)\n": (False, False),
}


def test_a_claim_is_a_process_that_returns_0_in_silence(tmp_path):
    programs = list(CLAIMED)
    result, rows, _ = study(
        tmp_path, lambda ask, n: block(programs[ask.key[2]]), 1,
        **PUBLISHED | {"plan.arms": "tests", "plan.samples": len(programs), "plan.rounds": 0},
    )  # fmt: skip
    assert {row["program"]: (row["passed"], row["solved"]) for row in rows} == CLAIMED
    last = result["arms"]["tests"]["selection"]["last"]
    assert (last["holds_visible"], last["shown_not_solved"], last["solved"]) == (5, 3, 4)
    assert result["protocol"] == "published" and result["in_words"][0].startswith("as published: all tests were shown")
    page = (tmp_path / "repair-mbpp-report.html").read_text()
    assert "As published: all tests were shown" in page and "all tests visible" in page


def test_everybody_sees_every_test_and_is_told_the_one_that_failed(tmp_path):
    programs = ["def add(x):\n    return y + 11\n", "def add_11(x):\n    return 12\n", right(11)]
    said = []

    def critic(ask, number):
        said.append(ask.messages[-1].content)
        return "The sum needs one more term."

    arms = {"plan.arms": "logic:model,tests"}
    _, rows, model = study(tmp_path, lambda ask, n: block(programs[ask.key[1]]), 1, critic=critic, **PUBLISHED | arms)
    assert all(test in model.asked[0].messages[1].content for test in TESTS)
    assert len(said) == 2 and all(test in text for text in said for test in TESTS)
    assert "It raised NameError: name 'y' is not defined.\nThe program says that this was in its line 2" in said[0]
    assert f"This test fails: {TESTS[1].removeprefix('assert ')}\nIt raised AssertionError." in said[1]
    logic = [(row["renamed"], row["reason"], row["solved"]) for row in rows if row["arm"] == "logic:model"]
    assert logic == [("add -> add_11", "raised NameError", False), ("", "raised AssertionError", False),
                     ("", "passed", True)]  # fmt: skip
    first = next(row for row in rows if row["arm"] == "tests")
    assert "The program does not define the function add_11; it defines add." in first["feedback"]


def test_it_is_of_mbpp_alone():
    with pytest.raises(InputError, match="protocol: published shows the assertions of MBPP; set suite to mbpp"):
        RepairConfig(suite="humaneval", protocol="published")
