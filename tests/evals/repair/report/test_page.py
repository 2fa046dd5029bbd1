"""The report: its numbers are those of the rows, its page is whole, several studies become a ladder."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from evals.repair.figures import figures
from evals.repair.journal import SEALED, read_rows, write_rows
from evals.repair.report.ladder import Rung, ladder, pays_from, stages
from evals.repair.report.page import find_studies, write_report
from evals.repair.report.rounds import difference, plain, stories
from evals.repair.report.tables import fate, points, tables
from evals.repair.runner import report
from llama_scale.errors import InputError
from llama_scale.files import read_json
from tests.evals.repair.helpers import block, mixed, right, study


class Page(HTMLParser):
    """The text, the ids and the rows of tables of a page, and the data of its figures."""

    def __init__(self, text):
        super().__init__()
        self.text, self.ids, self.rows, self.links, self.json, self.inside = "", [], [], [], "", ""
        self.feed(text)
        self.panels = {panel["key"]: panel for panel in json.loads(self.json)}

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.inside = tag if tag in ("script", "style", "td", "th") else ""
        if tag == "script" and attrs.get("type") == "application/json":
            self.inside = "json"
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.rows += [[]] if tag == "tr" else []
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "json":
            self.json += data
        elif self.inside not in ("script", "style"):
            self.text += data
            if self.inside in ("td", "th"):
                self.rows[-1].append(data.strip())


def row(arm, number, round, **changed):
    """A sealed row of a step that fails everything."""
    base = {
        "arm": arm, "task_id": f"T/{number}", "number": number, "sample": 0, "round": round,
        "program": f"x = {round}\n", "parses": True, "passed": False, "held": 0, "tests": 1, "reason": "wrong answer",
        "repeat_of": None, "renamed": "", "taken": True, "critic": "", "feedback": "", "refused": "",
        "prompt_tokens": 10, "tokens": 5, "critic_prompt_tokens": 0, "critic_tokens": 0, "prompt_truncated": False,
        "solved": False,
    }  # fmt: skip
    return base | changed


PASS = {"passed": True, "held": 1, "reason": "passed"}


def of_rates(resample, repair, tasks=40):
    """Rows of two programs a task: the second solves so many tasks in each arm, the first none."""
    return [
        row(arm, number, round, **(PASS | {"solved": True} if round and number < solved else {}))
        for arm, solved in (("resample", resample), ("tests", repair))
        for number in range(tasks)
        for round in range(2)
    ]


def rung(name, parameters, resample, repair):
    return Rung(name, parameters, figures(of_rates(resample, repair), ["first_visible"], 2))


def test_a_page_tells_what_the_rows_say(tmp_path):
    result, rows, _ = study(tmp_path, mixed, 6, **{"plan.arms": "resample,tests,generic", "plan.rounds": 2})
    page = Page((tmp_path / "repair-mbpp-report.html").read_text())
    assert not [link for link in page.links if not link.startswith("data:")], "it needs nothing beside itself"
    last = next(iter(result["arms"]["tests"]["selection"].values()))
    found = [cells for cells in page.rows if cells and cells[0] in result["arms"] and len(cells) == 8]
    cells, stage = ({cells[0]: cells for cells in found[place : place + 3]} for place in (0, 3))
    assert stage["tests"][2].startswith(f"{100 * last['holds']['value']:.1f} % [")
    assert cells["tests"][2].startswith(f"{100 * last['rate']['value']:.1f} % [")
    assert cells["tests"][3].startswith(f"{last['shown_not_solved']} of {last['holds_visible']}")
    assert int(cells["tests"][4]) == sum(r["arm"] == "tests" for r in rows)
    assert {"arms", "tasks", "words", "repeats", "rounds", "method"} <= set(page.ids)
    assert re.search(r"tests solves .* It (beats|loses to|cannot be told from) resampling at equal programs", page.text)
    assert "Try again." in page.text and "first program that they hold" not in page.text
    assert set(page.panels) == {"repair-mbpp-programs", "repair-mbpp-tokens"}
    assert (tmp_path / "figures" / "repair-mbpp.png").read_bytes().startswith(b"\x89PNG")


def test_a_program_in_a_page_is_text(tmp_path):
    bad = "<script>alert(1)</script>"
    study(tmp_path, lambda ask, n: block(f"x = '{bad}'  # {ask.key}\n"), 2, **{"plan.arms": "tests", "plan.rounds": 1})
    html = (tmp_path / "repair-mbpp-report.html").read_text()
    assert bad not in html and "&lt;script&gt;alert(1)" in html


def test_a_program_of_any_size_and_characters_can_be_shown(tmp_path):
    """A server may answer with half a character, with a line of megabytes, with lines without end."""
    odd = {
        0: "x = '\ud800 \ud83d\ude00'\n",
        1: f"x = '{'a' * 1_000_000}'\n",
        2: "".join(f"x{n} = 1\n" for n in range(9_000)),
    }
    _, rows, _ = study(tmp_path, lambda ask, n: block(odd[ask.key[1]]), 1, critic=lambda ask, n: "Add \ud800 " * 30_000,
                       **{"plan.arms": "tests:model", "plan.rounds": 2})  # fmt: skip
    assert rows[0]["program"] == "x = '\ufffd \U0001f600'\n" and [row["program"] for row in rows[1:]] == [
        odd[1],
        odd[2],
    ]
    page = (tmp_path / "repair-mbpp-report.html").read_text()
    story = page[page.index('id="rounds"') : page.index('id="method"')]
    assert "8,600 more lines" in story and "\U0001f600" in story and 10_000 < len(story) < 100_000


def test_what_is_not_seen_is_written_out():
    assert plain("a\tb = '\u202e\u200b\x1b[1m é 𝕏'\r\n") == [("same", "a\tb = '\\u202e\\u200b\\x1b[1m é 𝕏'\\r")]
    assert difference("x = 1\n", "x = 1\u202e\n")[1:] == [("removed", "x = 1"), ("added", "x = 1\\u202e")]


def test_differences_and_the_order_of_stories():
    assert difference("a\nb\nc\n", "a\nB\nc\n")[1:] == [
        ("same", "a"), ("removed", "b"), ("added", "B"), ("same", "c"),
    ]  # fmt: skip
    assert difference("a\n", "a\n") == []
    rows = [
        row("tests", 0, 0), row("tests", 0, 1, repeat_of=0),
        row("tests", 1, 0, solved=True), row("tests", 1, 1),
        row("tests", 2, 0, critic="assertion", feedback="no"), row("tests", 2, 1, **PASS, solved=True),
        row("resample", 3, 0), row("resample", 3, 1),
    ]  # fmt: skip
    found, count = stories(rows)
    assert count == 3 and [s.task for s in found] == ["T/2", "T/1", "T/0"]
    assert found[0].outcome == "wrong answer → solved" and found[0].rounds[0].feedback == "no"
    assert "the program of round 0 again" in found[2].rounds[1].title
    assert len(stories(rows, most=1)[0]) == 1
    assert fate(rows[4:6]) == "solved, 2 of 2" and fate(rows[:2]) == "wrong answer, 2 of 2"
    assert fate([row("tests", 0, 0, **PASS)]) == "shown, not solved, 1 of 1"


def test_tables_of_words_and_repeats():
    said = {"critic": "assertion", "feedback": "got 1, expected 2"}
    rows = [
        row("tests", n, r, **(said if r == 0 else PASS if n else {"repeat_of": 0})) for n in (0, 1, 2) for r in (0, 1)
    ]
    found = {table.key: table.body for table in tables(figures(rows, ["first_visible"], 2), rows)}
    assert found["words"] == [["tests", "assertion", "3", "2", "0", "got 1, expected 2"]]
    assert found["repeats"][0][1].startswith("1 of 3") and found["repeats"][0][2] == "1 by 1"
    assert points({"difference": -0.06, "interval": (-0.14, 0.0)}) == "−6.0 [−14.0, +0.0]"


def test_a_ladder_says_from_which_size_on_repair_pays():
    rungs = [rung("large", 10**8, 10, 30), rung("small", 10**6, 20, 5), rung("middle", 10**7, 10, 28)]
    (line,) = pays_from(rungs)
    assert line.startswith("tests pays from 10M parameters on (middle): +45.0 points [")
    (line,) = pays_from([rung("a", 10**6, 5, 25), rung("b", 10**7, 20, 20)])
    assert line == "tests pays at 1M parameters, not at the largest size of 2, 1M to 10M."
    assert pays_from([rung("a", 10**6, 9, 9)]) == ["tests does not pay at 1M parameters."]
    gain, against = ladder(rungs).panels
    lines = {series.name: series for series in gain.series if series.kind == "line"}
    np.testing.assert_allclose(lines["resample"].x, [1e6, 1e7, 1e8], rtol=0.02)
    assert all(lines["resample"].x < lines["tests"].x), "side by side"
    np.testing.assert_allclose(lines["resample"].y, [50, 25, 25])
    np.testing.assert_allclose(lines["tests"].y, [12.5, 70, 75])
    (tests,) = [s for s in against.series if s.kind == "points"]
    np.testing.assert_allclose(tests.y, [-37.5, 45, 50])
    assert all(low < y < high for low, y, high in zip(tests.low, tests.y, tests.high, strict=True))


def test_a_ladder_tells_models_apart_that_solve_nothing():
    """A tenth of the large model's programs hold the visible test and none is solved; none of the small one does."""
    rungs = []
    for name, parameters, held, unparsed in (("large", 10**7, 4, 0), ("small", 10**6, 0, 10)):
        rows = [
            row("tests", n, 0, **(PASS if n < held else {"parses": n >= unparsed, "reason": "x"})) for n in range(40)
        ]
        rungs.append(Rung(name, parameters, figures(rows, ["first_visible"], 1)))
    parses, holds = stages(rungs).panels
    points = {panel.key: next(s for s in panel.series if s.kind == "points") for panel in (parses, holds)}
    np.testing.assert_allclose(points["repair-ladder-stages-parses"].y, [75, 100])
    np.testing.assert_allclose(points["repair-ladder-stages-holds"].y, [0, 10])
    np.testing.assert_allclose(points["repair-ladder-stages-holds"].high[1], 23.66, atol=0.01)


def test_several_studies_are_one_page(tmp_path):
    arms = {"plan.arms": "resample,tests", "plan.rounds": 1}
    for name in ("a", "b"):
        study(tmp_path / name, lambda ask, n: block(right(ask.key[0] + 11) if ask.key[1] else "x = 1\n"), 2, **arms)
    both = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    with pytest.raises(InputError, match="no study knows the size of its model"):
        report(both, str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"results: .*none has no repair-\*-steps"):
        report(str(tmp_path / "none"), str(tmp_path / "out"))
    with pytest.raises(InputError, match="out: name a folder"):
        report(both, None)
    studies = find_studies(both.split(","))
    for number, found in enumerate(studies):
        found.result["parameters"] = 10 ** (6 + number)
    write_report(studies, tmp_path / "out" / "report.html")
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert {"repair-ladder-stages-parses", "repair-ladder-stages-holds"} <= set(page.panels)
    assert {"repair-ladder-gain", "repair-ladder-resample", "repair-mbpp-1-programs", "repair-mbpp-2-tokens"} <= set(
        page.panels
    )
    assert "tests pays from 1M parameters on" in page.text
    assert (tmp_path / "out" / "figures" / "repair-ladder.png").exists()


def test_rows_that_changed_since_the_result_was_made_of_them_are_not_reported(tmp_path):
    study(tmp_path, mixed, count=2, **{"plan.arms": "resample"})
    steps = tmp_path / "repair-mbpp-steps.jsonl.gz"
    head, rows = read_rows(steps, SEALED)
    write_rows(steps, head, [rows[0] | {"solved": not rows[0]["solved"]}, *rows[1:]])
    with pytest.raises(InputError, match=r"steps.jsonl.gz: has changed since repair-mbpp.json was made of it"):
        find_studies([str(tmp_path)])


def test_a_finished_study_gets_its_report_again(tmp_path):
    study(tmp_path, mixed, 2, **{"plan.arms": "tests", "plan.rounds": 1})
    before = (tmp_path / "repair-mbpp-report.html").read_bytes()
    (tmp_path / "repair-mbpp-report.html").unlink()
    _, _, model = study(tmp_path, mixed, 2, **{"plan.arms": "tests", "plan.rounds": 1})
    assert not model.asked and (tmp_path / "repair-mbpp-report.html").read_bytes() == before
    assert "parameters" in read_json(tmp_path / "repair-mbpp.json")
