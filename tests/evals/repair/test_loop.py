"""Pipelines with scripted models: curves as planned, equal budgets, repeats, renaming, hostile and lazy programs."""

import random

import pytest

from evals.repair.figures import against_resample, chains_of, figures, paired
from evals.repair.loop import parse_arm
from llama_scale.errors import InputError
from llama_scale.files import read_json
from tests.evals.repair.helpers import block, mixed, right, rows_of, study


def wrong(ask, number=0):
    """A program that parses, is named rightly and gives another wrong value each time."""
    return f"def add_{ask.key[0] + 11}(x):\n    return {-1000 - sum(ask.key[1:])}\n"


def test_an_oracle_that_is_right_in_a_round_gives_the_planned_curve(tmp_path):
    """Task t is solved in round t by every arm that repairs; the last never."""

    def answer(ask, number):
        solved = ask.key[1] >= ask.key[0] + 1 or ask.key[:3] == (0, 0, 3)
        return block(right(ask.key[0] + 11) if solved else wrong(ask))

    result, rows, _ = study(tmp_path, answer, count=5, **{"plan.arms": "resample,tests,logic,generic,syntax"})
    for arm in ("tests", "logic", "generic"):
        curve = result["arms"][arm]["curve"]
        assert [point["solved"] for point in curve] == [0, 1, 2, 3]
        assert [point["programs"] for point in curve] == [5, 10, 14, 17]
        assert curve[-1]["rate"]["value"] == 0.6 and curve[-1]["rate"]["interval"] == pytest.approx(
            [0.1466, 0.9473], abs=1e-4
        )
    assert [point["solved"] for point in result["arms"]["resample"]["curve"]][:4] == [0, 0, 0, 1]
    assert [point["solved"] for point in result["arms"]["syntax"]["curve"]] == [0]
    assert result["arms"]["tests"]["against_resample"]["equal_programs"]["difference"] == pytest.approx(0.4)
    assert result["arms"]["tests"]["by_first_failure"] == {
        "wrong answer": {"chains": 5, "solved": 3, "interval": pytest.approx((0.1466, 0.9473), abs=1e-4)}
    }
    first = [row["program"] for row in rows if row["round"] == 0 and row["number"] == 2]
    assert len(set(first)) == 1, "all arms begin with the same draw"


def test_feedback_reaches_the_next_prompt_and_only_that_of_the_arm(tmp_path):
    _, _, model = study(tmp_path, lambda ask, n: block(wrong(ask)), count=1, **{"plan.arms": "tests,generic"})
    told = [ask.messages[-1].content for ask in model.asked if ask.key[1] == 1]
    assert len(told) == 2
    assert told[0].startswith("This test fails: assert add_11(1) == 12\nThe value is -1000, expected is 12.")
    assert told[1].startswith("The program is wrong. Try again.\n\n")
    assert model.asked[-1].messages[-2].content == block(wrong(model.asked[-3])).partition("\n")[2].rpartition("\n")[0]


def test_arms_of_equal_budget_spend_equal_programs_and_tokens(tmp_path):
    """No program ever holds: every arm spends all that it may."""
    arms = ("tests", "logic", "generic")
    result, rows, _ = study(
        tmp_path, lambda ask, n: block(wrong(ask)), count=12, **{"plan.arms": "resample,tests,logic,generic"}
    )
    for arm in arms:
        found = result["arms"][arm]["against_resample"]
        assert found["equal_programs"]["programs"] == [48, 48]
        spent, given = found["equal_tokens"]["tokens"]
        assert abs(given - spent) <= 0.02 * spent and found["equal_tokens"]["tasks_that_lack_samples"] == 0
        prompts = sum(row["prompt_tokens"] for row in rows if row["arm"] == arm)
        assert spent == prompts + sum(row["tokens"] for row in rows if row["arm"] == arm) and prompts > spent / 2


def simulated(seed, tasks=60, rounds=3, more=0):
    """Rows of two arms that draw with the same chance and stop at what holds the visible test.

    ``more`` are rounds that resampling may have beyond.
    """
    draw = random.Random(seed)
    rows = []
    for number in range(tasks):
        chance = draw.choice([0.02, 0.1, 0.3, 0.6])
        for arm in ("resample", "generic"):
            for turn in range(rounds + 1 + (more if arm == "resample" else 0)):
                held = draw.random() < chance
                rows.append({
                    "arm": arm, "number": number, "sample": 0, "round": turn, "task_id": str(number), "taken": True,
                    "passed": held, "solved": held and draw.random() < 0.8, "parses": True, "held": int(held),
                    "prompt_tokens": 10, "tokens": draw.randrange(5, 50), "critic_prompt_tokens": 0,
                    "critic_tokens": 0,
                })  # fmt: skip
                if held:
                    break
    return rows


def test_a_random_model_gains_nothing_from_repair():
    """Both arms draw alike: the interval of their difference holds 0 in at least 93 % of 200 runs."""
    held = 0
    for seed in range(200):
        arms = chains_of(simulated(seed))
        low, high = against_resample(arms["generic"], arms["resample"], "first_visible", 4)["equal_programs"][
            "interval"
        ]
        held += low <= 0 <= high
    assert held >= 186


def test_a_difference_on_which_all_tasks_agree_has_the_interval_of_so_many_tasks():
    """Three tasks without a difference say little: R's binom.test(0, 3) ends at .7076, binom.test(0, 50) at .0711."""
    for count, bound in ((3, 0.7076), (50, 0.0711)):
        none = paired([0.0] * count, [0.0] * count)
        assert none["difference"] == 0 and none["interval"] == pytest.approx((-bound, bound), abs=1e-4)
        gain, loss = paired([0.0] * count, [1.0] * count), paired([1.0] * count, [0.0] * count)
        assert gain["interval"] == pytest.approx((1 - bound, 1), abs=1e-4)
        assert loss["interval"] == pytest.approx((-1, bound - 1), abs=1e-4)
    low, high = paired([0.0, 0.0, 1.0, 0.0] * 10, [0.0, 1.0, 1.0, 0.0] * 10)["interval"]
    assert 0.1 < low < 0.25 < high < 0.45


def test_equal_tokens_favor_neither_of_two_equal_arms():
    """A limit for each task, what the arm spent on it, would be 10 points in the arm's favor here."""
    found = []
    for seed in range(200):
        arms = chains_of(simulated(seed, more=7))
        found.append(against_resample(arms["generic"], arms["resample"], "first_visible", 4)["equal_tokens"])
    assert abs(sum(gap["difference"] for gap in found)) / 200 < 0.015
    assert sum(gap["interval"][0] <= 0 <= gap["interval"][1] for gap in found) >= 180
    assert all(abs(gap["tokens"][1] / gap["tokens"][0] - 1) < 0.02 for gap in found)
    assert not any(gap["tasks_that_lack_samples"] for gap in found)


def test_repeats_end_a_chain_or_are_drawn_anew(tmp_path):
    def answer(ask, number):
        return block(f"def add_11(x):\n    return {-1 if ask.key[1:] != (1, 0, 1) else -2}\n")

    for repeats, programs, redraws in (("end", [-1, -1], [0, 0]), ("redraw", [-1, -2, -1], [0, 1, 1]),
                                       ("keep", [-1, -1, -1, -1], [0, 0, 0, 0])):  # fmt: skip
        settings = {"plan.arms": "tests", "plan.repeats": repeats}
        result, rows, _ = study(tmp_path / repeats, answer, count=1, **settings)
        assert [int(row["program"].split()[-1]) for row in rows] == programs
        assert [row["redraws"] for row in rows] == redraws
        assert rows[-1]["repeat_of"] == 0 and rows[0]["repeat_of"] is None
        assert result["arms"]["tests"]["repeats"] == sum(row["repeat_of"] is not None for row in rows)


def test_a_repair_that_breaks_a_visible_test_is_not_taken_unless_asked(tmp_path):
    """Two tests are shown; round 0 holds one, round 1 none, round 2 one again."""

    def answer(ask, number):
        value = {0: 12, 1: -5, 2: 12}.get(ask.key[1], -6)
        return block(f"def add_11(x):\n    return {value}  # {ask.key[1]}\n")

    base = {"plan.arms": "tests", "visible": 2, "plan.history": 1}
    _, kept, model = study(tmp_path / "kept", answer, count=1, **base)
    assert [row["held"] for row in kept] == [1, 0, 1, 0] and [row["taken"] for row in kept] == [
        True,
        False,
        True,
        False,
    ]
    assert "return 12  # 0" in model.asked[2].messages[2].content
    _, free, model = study(tmp_path / "free", answer, count=1, **base | {"plan.keep": False})
    assert all(row["taken"] for row in free) and "return -5" in model.asked[2].messages[2].content


def test_a_repair_that_trades_one_visible_test_for_another_is_not_taken(tmp_path):
    """As many hold as before, and yet one that held fails."""

    def answer(ask, number):
        large = "-5 if x < 100 else x + 11"
        return block(f"def add_11(x):\n    return {large if ask.key[1] == 1 else 12}  # {ask.key[1]}\n")

    base = {"plan.arms": "tests", "visible": 2}
    _, rows, _ = study(tmp_path, answer, count=1, **base)
    assert [(row["held"], row["taken"]) for row in rows] == [(1, True), (1, False), (1, True), (1, True)]


def test_no_critic_is_asked_about_a_program_that_ends_its_chain(tmp_path):
    """A repeat that ends it costs no review. Where the chain goes on it is told what it repeats; the control is not."""
    asked = []

    def critic(ask, number):
        asked.append(ask.messages[-1].content)
        return "The sum needs one more term."

    repeating = {"plan.arms": "tests:model,tests,generic"}
    _, rows, _ = study(tmp_path / "a", lambda ask, n: block("x = 1\n"), 1, critic=critic, **repeating)
    prompts = {row["prompt"]: row["messages"] for row in rows_of(tmp_path / "a" / "repair-mbpp-prompts.jsonl.gz")}
    assert [message["content"] for message in prompts[rows[0]["critic_prompt"]]][-1:] == asked
    assert set(prompts) == {row[name] for row in rows for name in ("prompt", "critic_prompt")} - {""}
    assert len(asked) == 1 and [row["critic"] for row in rows if row["arm"] == "tests:model"] == ["model", ""]
    assert "Tests:\nassert add_11(1) == 12\n" in asked[0]
    _, rows, _ = study(tmp_path / "b", lambda ask, n: block("x = 1\n"), 1, critic=critic,
                       **repeating | {"plan.repeats": "keep", "plan.rounds": 2})  # fmt: skip
    told = {arm: [row["feedback"] for row in rows if row["arm"] == arm] for arm in ("tests", "generic")}
    again = [text.startswith("This is your program number 1 again.\n") for text in told["tests"]]
    assert again == [False, True, False] and told["generic"] == ["The program is wrong. Try again."] * 2 + [""]
    assert ["number 1 again" in text for text in asked[1:]] == [False, True]


def test_values_that_look_like_garbage_reach_the_next_prompt(tmp_path):
    """What a program gave and what was expected are told as they are."""
    value = [[-1, -2], (3.5, {4: "5"}), [-6] * 20]
    _, rows, model = study(
        tmp_path, lambda ask, n: block(f"def add_11(x):\n    return {value!r}\n"), 1, **{"plan.arms": "tests"}
    )
    assert rows[0]["feedback"].endswith(f"The value is {value!r}, expected is 12.") and not rows[0]["refused"]
    assert f"The value is {value!r}" in model.asked[1].messages[-1].content


def test_a_curve_counts_no_review_that_was_not_needed(tmp_path):
    """With two programs allowed no critic speaks on the second."""
    result, rows, _ = study(
        tmp_path, lambda ask, n: block(wrong(ask)), count=2, critic=lambda ask, n: "The sum needs one more term.",
        **{"plan.arms": "tests:model", "plan.rounds": 2},
    )  # fmt: skip
    drawn = [sum(row["prompt_tokens"] + row["tokens"] for row in rows if row["round"] <= n) for n in range(3)]
    said = [sum(row["critic_prompt_tokens"] + row["critic_tokens"] for row in rows if row["round"] < n)
            for n in range(3)]  # fmt: skip
    curve = result["arms"]["tests:model"]["curve"]
    assert [point["tokens"] for point in curve] == [a + b for a, b in zip(drawn, said, strict=True)] and said[1] > 0


def test_what_an_arm_cost_is_told_where_prices_are(tmp_path):
    """A million tokens: prompts 2, new ones 10; of the critic 1 and 3."""
    prices = {"backend.prompt_price": 2.0, "backend.price": 10.0, "critic.prompt_price": 1.0, "critic.price": 3.0}
    result, rows, _ = study(
        tmp_path, lambda ask, n: block(wrong(ask)), 2, critic=lambda ask, n: "The sum needs one more term.",
        **{"plan.arms": "resample,tests:model", "plan.rounds": 1} | prices,
    )  # fmt: skip
    names = dict(
        zip(("prompt_tokens", "tokens", "critic_prompt_tokens", "critic_tokens"), prices.values(), strict=True)
    )
    for arm in ("resample", "tests:model"):
        drawn = [row for row in rows if row["arm"] == arm and row["round"] < 2]
        paid = sum(row[name] * price for row in drawn for name, price in names.items()) / 1e6
        assert result["arms"][arm]["cost"] == pytest.approx(paid) and paid > 0
        assert any(line.startswith(arm) and f"cost {paid:.4g}" in line for line in result["in_words"])
    assert f"cost {paid:.4g}" in (tmp_path / "repair-mbpp-report.html").read_text()
    assert "cost" not in study(tmp_path / "free", mixed, 1, **{"plan.arms": "tests"})[0]["arms"]["tests"]


def test_figures_tell_how_far_programs_come(tmp_path):
    """Of two tasks: one program does not compile and its repair fails; one is named otherwise; words are garbage."""
    texts = {(0, 0): "def (\n", (0, 1): right(12), (1, 0): "def plus(x):\n    return x + 12\n"}
    result, rows, _ = study(
        tmp_path, lambda ask, n: block(texts.get(ask.key[:2], "def (\n")), count=2, critic=lambda ask, n: "%&",
        **{"plan.arms": "logic:model", "plan.rounds": 3},
    )  # fmt: skip
    arm = result["arms"]["logic:model"]
    assert [(row["number"], row["parses"], row["passed"]) for row in rows] == [
        (0, False, False), (0, True, False), (0, False, False), (1, True, True),
    ]  # fmt: skip
    assert arm["failed_at"] == {"syntax": 2, "tests": 1}
    assert (arm["repairs"], arm["repeats"], arm["repairs_to_first_repeat"]) == (2, 1, 2)
    assert arm["feedback"] == 2 and arm["refused_feedback"] == {"no text": 1}
    assert arm["model_feedback"] == 1 and arm["garbage_interval"] == pytest.approx((0.025, 1.0), abs=1e-4)
    last = arm["selection"]["first_visible"]
    assert [last[name]["value"] for name in ("parses", "holds", "rate")] == [0.5, 0.5, 0.5]
    assert arm["without_renaming"]["value"] == 0 and arm["without_renaming"]["interval"][1] < 0.85
    timing = read_json(tmp_path / "repair-mbpp-timing.json")
    assert [(part["round"], part["programs"]) for part in timing["rounds"]] == [(0, 2), (1, 1), (2, 1)]
    assert timing["program_seconds"]["logic:model"] > 0


HOSTILE = {
    "exit": "import sys\nsys.exit(0)\n",
    "exit in the function": "import os\ndef add_11(x):\n    os._exit(0)\n",
    "stderr": "import sys\nsys.stderr.close()\ndef add_11(x):\n    return None\n",
    "quiet": "import sys\nsys.stdout = sys.stderr = None\ndef add_11(x):\n    pass\n",
    "tests copied in": "def add_11(x): return 0\ntry:\n    assert add_11(1) == 12\nexcept AssertionError: pass\n",
    "equal to everything": "class E(int):\n    def __eq__(s, o): return True\ndef add_11(x): return E(7)\n",
    "assertions off": "import builtins\nbuiltins.AssertionError = ValueError\ndef add_11(x): return 1\n",
}
LAZY = "def add_11(x):\n    return 12\n"


def test_hostile_and_lazy_programs_are_not_solved(tmp_path):
    programs = [*HOSTILE.values(), LAZY]
    result, rows, _ = study(
        tmp_path, lambda ask, n: block(programs[ask.key[2]]), count=1,
        **{"plan.arms": "resample,tests,logic", "plan.samples": len(programs), "plan.rounds": 0},
    )  # fmt: skip
    assert not any(row["solved"] for row in rows)
    assert {row["program"].strip() for row in rows if row["passed"]} == {LAZY.strip()}
    assert all(row["shown_not_solved"] for row in rows if row["passed"])
    data = result["arms"]["tests"]["selection"]["first_visible"]
    assert (data["holds_visible"], data["shown_not_solved"], data["solved"]) == (1, 1, 0)


def test_logic_gives_a_lone_function_its_name_and_says_so(tmp_path):
    def answer(ask, number):
        return block("def plus(x):\n    return x + 11 if x else plus(0)\n")

    result, rows, _ = study(tmp_path, answer, count=1, **{"plan.arms": "tests,logic"})
    renamed = [row["renamed"] for row in rows if row["arm"] == "logic"]
    assert renamed == ["plus -> add_11"]
    data = result["arms"]["logic"]
    assert (data["curve"][0]["solved"], data["renamed"], data["solved_without_renaming"]) == (1, 1, 0)
    assert result["arms"]["tests"]["curve"][-1]["solved"] == 0


def test_garbage_of_a_critic_is_logged_and_not_passed_on(tmp_path):
    words = {0: "%$ #@ !! ^^ ~~ && ** ((", 1: "", 2: "The sum needs one more term."}
    _, rows, model = study(
        tmp_path, lambda ask, n: block(wrong(ask)), count=1, critic=lambda ask, n: words[ask.key[1]],
        **{"plan.arms": "tests:model"},
    )  # fmt: skip
    assert [row["refused"] for row in rows] == ["no text", "empty", "", ""]
    assert [row["raw_feedback"] for row in rows] == [*words.values(), ""]
    told = [ask.messages[-1].content for ask in model.asked[1:]]
    assert [text.split("\n")[0] for text in told] == ["The program is wrong. Try again."] * 2 + [words[2]]
    assert all(row["critic_tokens"] is not None for row in rows)


def test_a_base_model_continues_a_text(tmp_path):
    def answer(ask, number):
        return f"{wrong(ask) if ask.key[1] == 0 else right(11)}\nassert add_11(3) == 5"

    result, rows, model = study(tmp_path, answer, count=1, chat=False, **{"plan.arms": "tests"})
    assert "\nassert" in result["stops"] and not result["sampling"]["stop"]
    assert rows[-1]["solved"] and "assert" not in rows[-1]["program"]
    (first,), (second,) = (ask.messages for ask in model.asked)
    assert first.content == '"""\nWrite a function to add 11 to a number.\nassert add_11(1) == 12\n"""\n'
    assert "# The program above fails.\n# This test fails: assert add_11(1) == 12" in second.content
    assert second.content.endswith(first.content)


def test_every_rule_of_selection_runs(tmp_path):
    """Five samples hold the visible test; three agree beyond it, so the vote finds them where the first is lazy."""
    programs = {0: LAZY, 1: right(11), 2: LAZY.replace("12", "12 "), 3: right(11), 4: right(11) + "# again\n"}

    def answer(ask, number):
        if ask.key[1] == 999_999:
            return "```python\nassert add_11(2) == 13\nassert add_11(5) == 16\nimport os\nassert other(1) == 2\n```"
        return block(programs[ask.key[2]] if ask.key[2] in programs else wrong(ask))

    _, rows, _ = study(
        tmp_path, answer, count=1,
        **{"plan.arms": "resample", "plan.samples": 5, "plan.rounds": 0, "select": "first_visible,vote,agreement,last"},
    )  # fmt: skip
    assert [row["agrees"] for row in rows] == [[False, False], [True, True], [False, False], [True, True], [True, True]]
    assert rows[0]["outputs"][:2] == ["12", "12"] and rows[1]["outputs"][:2] == ["12", "13"]
    merged = [{**row, "sample": 0, "round": row["sample"]} for row in rows]
    chosen = figures(merged, ["first_visible", "vote", "agreement", "last"], 5)["arms"]["resample"]["selection"]
    assert {rule: data["solved"] for rule, data in chosen.items()} == {
        "first_visible": 0, "vote": 1, "agreement": 1, "last": 1,
    }  # fmt: skip


def test_unknown_arms_and_critics_are_refused():
    for text, words in (
        ("test", "arms: unknown 'test' .did you mean 'tests'"),
        ("tests:asertion", "tests cannot have the critic 'asertion'; known: generic, compiler"),
        ("resample:model", "resample cannot have the critic 'model'; known: none"),
    ):
        with pytest.raises(InputError, match=words):
            parse_arm(text)
