"""Studies as a whole: killed and gone on with, the same bytes however they run, bad input, published logs, QuixBugs."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from evals.benchmarks import quixbugs
from evals.repair import runner
from evals.repair.backends.scripted import Scripted
from evals.repair.figures import headline, summed_up
from evals.repair.journal import SEALED, read_rows, write_rows
from evals.repair.runner import run
from llama_scale import files
from llama_scale.cli import run_cli
from llama_scale.errors import InputError
from tests.conftest import ROOT
from tests.evals.repair.helpers import block, mixed, right, rows_of, settings, study, task, write_tasks

SHARED = ROOT.parent / "shared" / "data"
FILES = (
    "repair-mbpp.json",
    "repair-mbpp-journal.jsonl.gz",
    "repair-mbpp-steps.jsonl.gz",
    "repair-mbpp-prompts.jsonl.gz",
)
# A study whose process kills itself when so many rows of replies and of verdicts were written since it began.
KILLED = """
import os, signal, sys
from pathlib import Path
import evals.repair.backends.replies as replies, evals.verdicts as verdicts
from evals.verdicts import digest_text
from tests.evals.repair.helpers import mixed, study
folder, after = Path(sys.argv[1]), int(sys.argv[2])
rows, append = [], replies.append_row
def kept(path, row):
    append(path, row)
    rows.append(row)
    if len(rows) == after:
        os.kill(os.getpid(), signal.SIGKILL)
replies.append_row = verdicts.append_row = kept
def answer(ask, number):
    with open(folder / "asked.log", "a") as file:
        file.write(digest_text([str(message) for message in ask.messages]) + f" {ask.key}\\n")
    return mixed(ask, number)
study(folder, answer, count=4, **{"plan.arms": "resample,tests,logic,generic"})
"""


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def killed_study(folder, moments):
    """Kill a study after each number of rows, then let it end; return its files and what was asked."""
    folder.mkdir()
    for after in (*moments, 1 << 30):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(after)], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == (-signal.SIGKILL if after < 1 << 30 else 0), done.stderr
    return contents(folder), (folder / "asked.log").read_text().splitlines()


@pytest.mark.parametrize(
    "moments",
    [(3, 30), pytest.param((1, 2, 3, 1, 4, 1, 5, 2, 1, 3, 6, 1, 2, 4, 1, 1, 2, 3, 5, 1), marks=pytest.mark.slow)],
)
def test_a_killed_study_ends_with_the_same_bytes_and_asks_nothing_twice(tmp_path, moments):
    files, asked = killed_study(tmp_path / "killed", moments)
    study(tmp_path / "whole", mixed, count=4, **{"plan.arms": "resample,tests,logic,generic"})
    assert files == contents(tmp_path / "whole")
    assert len(asked) == len(set(asked)) >= 16


def test_what_was_changed_by_hand_is_refused_or_made_again(tmp_path, capfd):
    """A result is refused; rows that it is not made of are made again; a reply that changed is asked for again."""
    arms = {"plan.arms": "tests", "plan.rounds": 1}
    study(tmp_path, mixed, 2, **arms)
    whole = contents(tmp_path)
    result, steps, replies = (tmp_path / f"repair-mbpp{end}" for end in (".json", "-steps.jsonl.gz", "-replies.jsonl"))
    values = json.loads(result.read_text())
    result.write_text(json.dumps(values | {"n_tasks": 3}))
    with pytest.raises(InputError, match=r"repair-mbpp.json: its values have changed since it was written"):
        study(tmp_path, mixed, 2, **arms)
    result.write_text(json.dumps(values))
    head, rows = read_rows(steps, SEALED)
    write_rows(steps, head, [rows[0] | {"solved": not rows[0]["solved"]}, *rows[1:]])
    _, _, model = study(tmp_path, mixed, 2, **arms)
    assert contents(tmp_path) == whole and not model.asked
    lines = replies.read_text().splitlines()
    (first, *_) = (n for n, line in enumerate(lines) if '"ask"' in line)
    lines[first] = lines[first].replace('"text": "', '"text": "#')
    replies.write_text("\n".join(lines) + "\n")
    result.unlink()
    _, _, model = study(tmp_path, mixed, 2, **arms)
    assert contents(tmp_path) == whole and len(model.asked) == 1
    assert "repair-mbpp-replies.jsonl: 1 row has changed since written" in capfd.readouterr().err


def test_the_same_bytes_with_one_worker_or_two_and_nothing_to_do_afterwards(tmp_path, capsys):
    arms = {"plan.arms": "tests,resample"}
    study(tmp_path / "one", mixed, **arms)
    result, _, _ = study(tmp_path / "two", mixed, **arms | {"execution.workers": 2})
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    capsys.readouterr()
    again, _, model = study(tmp_path / "two", mixed, **arms)
    assert "already done" in capsys.readouterr().out and not model.asked
    assert again == json.loads(json.dumps(result))
    _, _, model = study(tmp_path / "two", mixed, **arms | {"plan.rounds": 1})
    assert not model.asked, "what was drawn before is not asked for again"


def test_of_two_commands_on_one_study_one_waits_and_nothing_is_asked_twice(tmp_path, monkeypatch, capsys):
    arms = {"plan.arms": "tests", "plan.rounds": 1}
    lock = tmp_path / "a" / ".repair-mbpp.lock"
    lock.parent.mkdir()
    monkeypatch.setattr(files, "LOCK_PATIENCE", 0.0)
    with (
        files.locked(lock, ""),
        pytest.raises(InputError, match=rf"process {os.getpid()} is at work on this study; wait"),
    ):
        study(tmp_path / "a", lambda *_: pytest.fail("it drew"), 1, **arms)
    study(tmp_path / "b", mixed, 2, **arms)
    replies = (tmp_path / "b" / "repair-mbpp-replies.jsonl").read_bytes()

    @contextmanager
    def late(path, busy):
        """What another command asked between the opening of the model and the lock."""
        (tmp_path / "a" / "repair-mbpp-replies.jsonl").write_bytes(replies)
        with files.locked(path, busy) as handle:
            yield handle

    monkeypatch.setattr(runner, "locked", late)
    _, _, model = study(tmp_path / "a", mixed, 2, **arms)
    assert not model.asked and contents(tmp_path / "a") == contents(tmp_path / "b")
    capsys.readouterr()
    study(tmp_path / "a", mixed, 2, **arms | {"plan.rounds": 0, "sampling.seed": 1})
    assert "is of other settings (plan.rounds, sampling.seed): replaced" in capsys.readouterr().err


def test_every_figure_is_recomputed_from_the_sealed_rows(tmp_path):
    result, rows, _ = study(tmp_path, mixed, count=6, **{"plan.arms": "resample,tests"})
    steps = tmp_path / "repair-mbpp-steps.jsonl.gz"
    assert json.loads(json.dumps(summed_up(steps))) == {
        k: v for k, v in json.loads(json.dumps(result)).items() if k != "steps_sha256"
    }
    chains = {}
    for row in rows:
        chains.setdefault((row["arm"], row["number"]), []).append(row)
    for arm in ("resample", "tests"):
        for point in result["arms"][arm]["curve"]:
            cut = [chain[: point["programs_at_most"]] for (name, _), chain in chains.items() if name == arm]
            chosen = [next((r for r in chain if r["passed"]), [r for r in chain if r["taken"]][-1]) for chain in cut]
            assert point["solved"] == sum(row["solved"] for row in chosen)
            assert point["shown_not_solved"] == sum(row["passed"] and not row["solved"] for row in chosen)
            names = ("prompt_tokens", "tokens", "critic_prompt_tokens", "critic_tokens")
            assert point["tokens"] == sum(row[name] for chain in cut for row in chain for name in names)
    prompts = {row["prompt"]: row["messages"] for row in rows_of(tmp_path / "repair-mbpp-prompts.jsonl.gz")}
    assert {row["prompt"] for row in rows} == set(prompts)
    head, _ = read_rows(steps, SEALED)
    assert head["journal_sha256"] == hashlib.sha256((tmp_path / FILES[1]).read_bytes()).hexdigest()


@pytest.fixture
def launch(monkeypatch, capsys):
    """Runs launch/repair.py in this process; returns its exit code, output and messages."""

    def call(*argv):
        monkeypatch.syspath_prepend(ROOT / "launch")
        import repair

        monkeypatch.setattr(sys, "argv", ["repair.py", *map(str, argv)])
        code = 0
        try:
            run_cli(repair.main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def log_of(path: Path, programs: dict[int, list[str]]) -> Path:
    rows = [{"task_id": f"MBPP/{number}", "implementations": found} for number, found in programs.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_published_log_is_judged_again(tmp_path, launch):
    """By hand: 11 is right at once, 12 in round 1, 13 never (a repeat but for a line end), 14 hard-codes the test."""
    wrong = "def add_13(x):\n    return 0"
    log = log_of(tmp_path / "log.jsonl", {
        11: [right(11)], 12: ["def add_12(", right(12)], 13: [wrong, f"{wrong}\n"],
        14: ["def add_14(x):\n    return 15\n"],
    })  # fmt: skip
    data = write_tasks(tmp_path / "tasks.jsonl", 5)
    code, out, err = launch("--replay", log, "--mbpp.data", data, "--out", tmp_path / "out", "--execution.workers=1")
    assert code == 0, err
    assert "1 -> 2 of 4 solved" in out and "repeats 1 of 2" in out and "shown but not solved 1 of 3" in out
    assert out.splitlines()[1].split()[:3] == ["log", "[6.8,", "93.2]"]
    result = json.loads((tmp_path / "out" / "repair-mbpp.json").read_text())
    assert [point["solved"] for point in result["arms"]["log"]["curve"]] == [1, 2]
    assert result["arms"]["log"]["by_first_failure"]["syntax error"]["solved"] == 1
    assert "plan" not in result and "sampling" not in result, "they are the log's own, and not known"
    assert "1 of 3" in (tmp_path / "out" / "repair-mbpp-report.html").read_text()


@pytest.mark.parametrize(("name", "ends", "seed"), [("log.jsonl", "\n", 1), ("log.jsonl.gz", "\r\n", 2)])
def test_a_log_with_odd_members_is_counted_as_by_hand(name, ends, seed, tmp_path, launch):
    """Tasks in another order, two missing, one without a program, other letters, repeats."""
    rng, kinds = random.Random(seed), ("right", "lazy", "wrong", "broken", "again")
    chains = {number: rng.choices(kinds, k=rng.randint(1, 5)) for number in range(11, 29)} | {29: []}
    programs = {number: [] for number in chains}
    for number, chain in chains.items():
        for place, kind in enumerate(chain):
            texts = {
                "right": f"# é 𝕏 \u2028 {place}\n{right(number)}", "broken": f"def add_{number}(x:  # {place} ✗\n",
                "lazy": f"def add_{number}(x):\n    return {number + 1}  # {place}\n",
                "wrong": f"def add_{number}(x):\n    return '…'  # {place}\n",
            }  # fmt: skip
            if kind == "again":
                chain[place] = chain[place - 1] if place else "wrong"
                programs[number].append(f"{programs[number][-1]}\n" if place else texts["wrong"])
            else:
                programs[number].append(texts[kind])
    order = rng.sample(sorted(chains), len(chains))
    rows = [{"solution": None, "task_id": f"MBPP/{n}", "implementations": programs[n], "acc": 0.5} for n in order]
    data = "".join(json.dumps(row, ensure_ascii=bool(n % 2)) + ends for n, row in enumerate(rows)).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    tasks = write_tasks(tmp_path / "tasks.jsonl", 21)  # 30 and 31 are not in the log
    code, out, err = launch(
        "--replay", tmp_path / name, "--mbpp.data", tasks, "--out", tmp_path, "--execution.workers=1"
    )
    assert code == 0, err
    chosen = [
        next((k for k in chain if k in ("right", "lazy")), [*chain, ""][-2 if chain else 0])
        for chain in chains.values()
    ]
    shown = [kind for kind in chosen if kind in ("right", "lazy")]
    texts = [[text.strip() for text in found] for found in programs.values()]
    repeats = sum(text in found[:place] for found in texts for place, text in enumerate(found))
    first = sum(chain[:1] == ["right"] for chain in chains.values())
    assert f"{first} -> {chosen.count('right')} of 19 solved" in out and first < chosen.count("right")
    assert f"shown but not solved {shown.count('lazy')} of {len(shown)};" in out and shown.count("lazy") > 1
    assert f"repeats {repeats} of {sum(len(found) - 1 for found in texts if found)}" in out and repeats > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "left"),
    [
        ("starcoder", ("273 -> 279 of 500", "repeats 1,452 of 1,500", "not solved 47 of 326"), 209),
        ("gpt-3.5-turbo-0613", ("346 -> 380 of 500", "repeats 447 of 658", "not solved 43 of 423"), 212),
    ],
)
def test_published_logs_give_the_known_figures(name, words, left, tmp_path, launch):
    log, data = SHARED / "repair" / f"ldb_mbpp_{name}.jsonl.gz", SHARED / "eval" / "mbpp.jsonl"
    if not log.exists() or not data.exists():
        pytest.skip(f"{log} or {data} is not here")
    code, out, err = launch("--replay", log, "--mbpp.data", data, "--out", tmp_path)
    assert code == 0 and all(word in out for word in words), out + err
    arm = json.loads((tmp_path / "repair-mbpp.json").read_text())["arms"]["log"]
    assert arm["repairs_to_first_repeat"] == left


@pytest.mark.slow
def test_quixbugs_are_repaired_by_who_knows_how_and_by_nobody_else(tmp_path):
    data = SHARED / "repair" / "quixbugs.jsonl"
    if not data.exists():
        pytest.skip(f"{data} is not here")
    known = quixbugs.problems(data)
    config = settings(data, **{"suite": "quixbugs", "quixbugs.data": str(data), "plan.arms": "tests", "plan.rounds": 1})
    fixed = run(config, tmp_path / "fixed", Scripted(lambda ask, n: block(known[ask.key[0]].fixed)))
    rows = rows_of(tmp_path / "fixed" / "repair-quixbugs-steps.jsonl.gz")
    assert not any(row["solved"] for row in rows if row["round"] == 0)
    failed = {row["task_id"] for row in rows} - {row["task_id"] for row in rows if row["solved"]}
    assert failed == {f"QuixBugs/{name}" for name in quixbugs.SPECIAL}
    assert fixed["arms"]["tests"]["curve"][-1]["solved"] == 28
    wrong = run(config, tmp_path / "wrong", Scripted(lambda ask, n: block(known[ask.key[0]].buggy + "\n# fixed\n")))
    assert [point["solved"] for point in wrong["arms"]["tests"]["curve"]] == [0, 0]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, launch, capsys):
    data = write_tasks(tmp_path / "tasks.jsonl", 2)
    log = log_of(tmp_path / "log.jsonl", {11: [right(11)]})
    other, empty, twice, alien = (tmp_path / f"{name}.jsonl" for name in ("other", "empty", "twice", "alien"))
    other.write_text('{"task_id": "MBPP/11", "solution": "x"}\n')
    empty.write_text('{"task_id": "MBPP/11", "implementations": null}\n')
    twice.write_text(log.read_text() * 2)
    log_of(alien, {999: ["x = 1"]})
    broken, unset = tmp_path / "broken.jsonl", tmp_path / "unset"
    broken.write_text(json.dumps(task(11) | {"test_list": ["assert add_11(1 == 12"]}) + "\n")
    study(tmp_path / "study", lambda *_: block("x = 1\n"), 2, **{"plan.arms": "tests", "plan.rounds": 0})
    capsys.readouterr()
    head, (step, *_) = read_rows(tmp_path / "study" / "repair-mbpp-steps.jsonl.gz", SEALED)
    spoiled = {
        "empty": [head], "headless": [{k: v for k, v in head.items() if k != "plan"}, step],
        "odd": [head, step | {"arm": 3}], "nameless": [head, {k: v for k, v in step.items() if k != "tokens"}],
    }  # fmt: skip
    for name, rows in spoiled.items():
        spoiled[name] = tmp_path / f"{name}.jsonl.gz"
        write_rows(spoiled[name], rows[0], rows[1:])
    replies = tmp_path / "old-replies.jsonl"
    replies.write_text('{"format": "llama_scale.replies.v0"}\n')
    base = ("--mbpp.data", data, "--out", unset)
    for argv, words in (
        ((*base,), "name a model (--backend.model RUN, FOLDER or URL), a published log"),
        ((*base, "--backend.model", "http://127.0.0.1:9/v1", "--rounds", "0"), "is the server running there?"),
        ((*base, "--backend.model", "http://127.0.0.1:9/v1", "--arms", "tests:model"), "critic.model: an arm has the"),
        ((*base, "--backend.model", "http://127.0.0.1:9/v1", "--critic.model", "m"), "no arm has the critic model"),
        ((*base, "--replay", log, "--protocol", "publish"), "protocol: expected honest or published"),
        (("--results", tmp_path, "--out", unset), "has no repair-*-steps.jsonl.gz; give folders"),
        (("--results", tmp_path), "out: name a folder for the report"),
        ((*base, "--replay", other), "line 1: field 'implementations' is missing"),
        ((*base, "--replay", empty), "line 1: field 'implementations' is missing"),
        ((*base, "--replay", twice), "line 2: field 'task_id' is 'MBPP/11' again"),
        ((*base, "--replay", alien), "field 'task_id' is 'MBPP/999', expected a task of the suite"),
        ((*base, "--replay", tmp_path / "none"), "replay: "),
        (("--mbpp.data", broken, "--out", unset, "--replay", log), "field 'test_list' is not Python"),
        (("--mbpp.data", data, "--replay", log), "out: name a folder for the results"),
        ((*base, "--backend.model", replies), "llama_scale.replies.v0, expected llama_scale.replies.v1"),
        ((*base, "--backend.model", tmp_path / "nothing"), "nothing"),
        ((*base, "--replay", log, "--arms", "resample,repairs"), "arms: unknown 'repairs'"),
        ((*base, "--replay", log, "--select", "best"), "select: unknown 'best'"),
        ((*base, "--replay", log, "--rounds", "-1"), "rounds: expected at least 0, found -1"),
        ((*base, "--replay", log, "--backend.model", tmp_path), "a log are judged without a model"),
        ((*base, "--replay", log, "--visible", "3"), "visible: 3 would show every test of MBPP/11, which has 3"),
        ((*base, "--replay", log, "--task_seed", "-1"), "task_seed: expected at least 0 or null, found -1"),
        (("--results", " , ", "--out", unset), "results: name at least one folder"),
        (("--results", spoiled["empty"], "--out", unset), "there are no steps; give a file that launch/repair.py"),
        (("--results", spoiled["headless"], "--out", unset), "headless.jsonl.gz: its head names no plan"),
        (("--results", spoiled["odd"], "--out", unset), "line 2: field 'arm' is 3; give a file that launch/repair.py"),
        (("--results", spoiled["nameless"], "--out", unset), "line 2: field 'tokens' is 'missing'"),
        ((*base, "--replay", log, "--suite", "mbp"), "suite: expected mbpp or humaneval or apps or quixbugs, found"),
    ):  # fmt: skip
        code, out, err = launch(*argv)
        assert code == 2 and words in err and len(err.splitlines()) == 1 and not out, (argv, err)
    assert not list(unset.glob("repair-*.json")), "nothing looks finished"


def test_a_critic_or_a_temperature_that_is_missing_is_said_before_anything_is_drawn(tmp_path):
    for number, (changed, words) in enumerate((
        ({"plan.arms": "tests:model"}, "critic.model: an arm has the critic model"),
        ({"plan.arms": "resample,tests", "sampling.temperature": 0.0}, "0 draws equal samples"),
    )):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            study(tmp_path / str(number), lambda *_: pytest.fail("it drew"), **changed)


def test_words_say_whether_repair_beat_resampling(tmp_path):
    result, _, _ = study(tmp_path, lambda ask, n: block(right(ask.key[0] + 11) if ask.key[1] else "x = 1\n"),
                         **{"plan.arms": "resample,tests"})  # fmt: skip
    assert "beats resampling at equal programs: +100.0 points" in "\n".join(result["in_words"])
    assert result["in_words"][-1] == "tests beats resampling at equal tokens."


def test_a_headline_says_which_arms_beat_resampling():
    def arms(**gaps):
        return {"arms": {"resample": {}} | {
            name: {"against_resample": {kind: {"difference": (low + high) / 2, "interval": [low, high]}}}
            for name, (kind, low, high) in gaps.items()
        }}  # fmt: skip

    equal = ("equal_tokens", -0.1, 0.1)
    assert headline(arms()) == ""
    assert headline(arms(a=equal, b=("equal_tokens", -0.3, -0.1))) == (
        "No arm that repairs beats resampling at equal tokens; b loses to it; a cannot be told from it."
    )
    found = headline(arms(a=("equal_tokens", 0.1, 0.2), b=("equal_tokens", 0.2, 0.3), c=equal, d=equal, e=equal))
    assert found == "a and b beat resampling at equal tokens; c, d and e cannot be told from it."
    assert headline(arms(a=("equal_programs", 0.1, 0.2))) == "a beats resampling at equal programs."
