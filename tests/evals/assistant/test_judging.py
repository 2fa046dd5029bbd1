"""Programs run through HTTP: hostile ones do not pass, and the server is there afterwards."""

import os
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest

from evals.assistant import judging
from evals.sandbox.pool import Sandbox
from tests.evals.sandbox.hostile_programs import cheats, harms

TESTS = "assert f(2) == 4\nassert f(3) == 9"


def run(server, **body):
    return httpx2.post(f"{server.url}/run", json=body, timeout=120)


def test_a_program_is_judged(assistant):
    right = run(assistant, program="def f(x): return x * x", tests=TESTS).json()
    assert right["passed"] and right["assertions_passed"] == 2 and right["isolation"]["level"] == "isolated"
    wrong = run(assistant, program="def f(x): return x + x", tests=TESTS).json()
    assert not wrong["passed"] and wrong["assertions_passed"] == 1
    assert [(row["got"], row["expected"]) for row in wrong["failures"]] == [("6", "9")]
    broken = run(assistant, program="def f(:", tests=TESTS).json()
    assert not broken["parses"] and broken["failures"][0]["line"] == 1
    slow = run(assistant, program="while True: pass", tests=TESTS, timeout=0.3).json()
    assert not slow["passed"] and "time" in slow["reason"]
    modules = run(assistant, program="def f(x): return x", tests="assert f(math.pi) == math.pi").json()
    assert modules["passed"]
    script = run(assistant, program="print(input()[::-1])", stdin="abc\n").json()
    assert script["passed"] and script["output"] == "cba\n"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"program": 1, "tests": TESTS}, "program"),
        ({"program": "", "tests": "assert ("}, "tests"),
        ({"program": "", "tests": "x" * 70_000}, "tests"),
        ({"program": "", "tests": "(" * 60_000}, "tests"),
        ({"program": "", "tests": TESTS, "timeout": 1000}, "timeout"),
    ],
)
def test_what_cannot_be_run_is_refused(assistant, body, field):
    answer = run(assistant, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(field)


@pytest.mark.slow
def test_nothing_hostile_passes_through_http(assistant):
    programs = {**cheats(), **{f"harm: {name}": source for name, source in harms().items()}}
    run(assistant, program="", tests=TESTS)
    before = set(os.listdir("/tmp"))
    children = {child.pid for child in psutil.Process().children(recursive=True)}

    def one(item):
        answer = run(assistant, program=item[1], tests=TESTS, timeout=1.0)
        return item[0], answer.status_code, answer.status_code == 200 and answer.json()["passed"]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, [(n, s) for n, s in programs.items() if is_text(s)]))
    assert len(found) > 200
    assert [row for row in found if row[2]] == []
    assert {status for _, status, _ in found} == {200}
    assert httpx2.get(f"{assistant.url}/health").status_code == 200
    assert run(assistant, program="def f(x): return x * x", tests=TESTS).json()["passed"]
    assert not any("harm" in name for name in set(os.listdir("/tmp")) - before)
    # Of each worker two processes of its namespace, the fork server, the next program and its judge.
    new = {child.pid for child in psutil.Process().children(recursive=True)} - children
    assert len(new) <= 5 * judging.WORKERS


def is_text(source):
    try:
        source.encode()
    except UnicodeEncodeError:
        return False  # no JSON text: refused before it is run
    return True


def test_a_few_hostile_programs_do_not_pass(assistant):
    programs = list(cheats().values())[:6] + list(harms().values())[:4]
    assert not any(run(assistant, program=source, tests=TESTS, timeout=1.0).json()["passed"] for source in programs)


def test_too_many_programs_are_told_to_wait(assistant, monkeypatch):
    monkeypatch.setattr(judging, "WAITING", 0)
    body = {"program": "while True: pass", "tests": TESTS, "timeout": 1.0}
    with ThreadPoolExecutor(8) as pool:
        states = [answer.status_code for answer in pool.map(lambda _: run(assistant, **body), range(8))]
    assert set(states) <= {200, 429} and 429 in states and states.count(200) >= 2


def test_no_program_runs_below_isolated(monkeypatch):
    class Weaker(Sandbox):
        def __init__(self, workers):
            super().__init__(workers, levels=["restricted"])

    monkeypatch.setattr(judging, "Sandbox", Weaker)
    with judging.Judging() as judge, pytest.raises(judging.ProtocolError) as error:
        judge.open()
    assert error.value.status == 403 and error.value.code == "no_sandbox"


def test_the_page_is_served_by_name_alone(assistant):
    page = httpx2.get(assistant.url)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("..%2fapp.py", "../app.py", "%2e%2e/app.py", "app.py", ".", "index.html%00"):
        assert httpx2.get(f"{assistant.url}/static/{name}").status_code == 404, name
