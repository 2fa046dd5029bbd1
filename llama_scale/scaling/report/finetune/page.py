"""report.html and its pictures, made from a study's comparison.json and the samples of its runs."""

from pathlib import Path
from typing import Any

from llama_scale.files import atomic_write, read_jsonl
from llama_scale.plotting import draw, page
from llama_scale.scaling.report.finetune.figures import tuning_figures
from llama_scale.scaling.report.finetune.tables import tuning_tables
from llama_scale.scaling.study.finetune.collect import load_study
from llama_scale.scaling.study.finetune.comparison import Comparison, read_comparison
from llama_scale.text import count, digits

MOST_BYTES = 8_000_000  # of samples in the page; the files have all


def write_report(folder: Path) -> list[Path]:
    """Write report.html, figures/*.png, *.svg and results_<question>.png; return the paths."""
    found = read_comparison(folder)
    figures, left_out = tuning_figures(found)
    written = [path for figure in figures for path in draw.save(figure, folder / "figures")]
    if found.question != "quick" and figures:
        picture = folder / f"results_{found.question}.png"
        main = next((f for f in figures if f.key == MAIN[found.question]), figures[0])
        with atomic_write(picture, "wb") as file:
            file.write(draw.picture(main)["png"])
        written.append(picture)
    samples, more = samples_of(folder)
    html = page.render(
        "llama_scale.scaling.report.finetune",
        figures,
        title=found.name,
        answer=answer(found),
        tiles=tiles(found),
        flaws=found.flaws,
        tables=tuning_tables(found),
        samples=samples,
        more=more,
        left_out=left_out,
    )
    with atomic_write(folder / "report.html") as file:
        file.write(html)
    return [folder / "report.html", *written]


MAIN = {"rank": "rank", "scale": "size", "lang": "language", "method": "method"}


def answer(found: Comparison) -> list[str]:
    """Return the study's answer: what its data decide and what they cannot."""
    verdicts = [claim.verdict for claim in found.claims]
    decided = [claim for claim in found.claims if claim.verdict != "undecided"]
    first = (
        f"{sum(arm.runs for arm in found.arms)} runs of {len(found.arms)} arms on {found.base}, compared on "
        f"{found.tasks} held-out pairs. Of {len(verdicts)} claims of the two published studies these data support "
        f"{verdicts.count('supported')}, contradict {verdicts.count('contradicted')} and cannot decide "
        f"{verdicts.count('undecided')}."
    )
    return [first, *(f"{claim.verdict.capitalize()}: {claim.claim}. {claim.text}" for claim in decided)]


def tiles(found: Comparison) -> list[tuple[str, str, str]]:
    """Return the few numbers that stand first: (what, value, detail)."""
    key = "bits_per_byte"
    base = next(arm for arm in found.arms if arm.method == "base")
    best = min((arm for arm in found.arms if arm.trained), key=lambda arm: arm.scores[key].value)
    contrast = next(
        one for family in found.families if family.key == "base" for one in family.of(key) if one.arm == best.name
    )
    family = next(family for family in found.families if family.key == "base")
    widest = max(one.detectable or 0.0 for one in family.of(key))
    return [
        ("base, bits per byte", digits(base.scores[key].value, 4), f"{count(base.n_params)} parameters"),
        ("lowest arm that was tuned", digits(best.scores[key].value, 4), best.name),
        ("its difference", digits(contrast.mean), f"{digits(contrast.low)} to {digits(contrast.high)}"),
        ("differences found", f"≥ {digits(widest, 2)}", "in four of five cases, worst contrast with the base"),
    ]


def samples_of(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the samples task by task, each arm's with its verdict, and how many there was no room for."""
    study = load_study(folder)
    tasks: dict[str, dict[str, Any]] = {}
    pairs = {}
    for language in study.settings["pairs"]:
        rows = read_jsonl(folder / "data" / language / "test.jsonl")
        pairs |= {row["id"]: (row["prompt"], row["completion"]) for row in rows}
    for arm in study.arms:
        for run in study.runs[arm.name]:
            for rows in run.samples.values():
                for row in rows:
                    prompt, reference = pairs.get(row["task_id"], ("", ""))
                    task = tasks.setdefault(
                        row["task_id"], {"id": row["task_id"], "prompt": prompt, "reference": reference, "samples": []}
                    )
                    task["samples"].append({"run": run.name, "text": row["completion"], "verdict": verdict(row)})
    shown, room, more = [], MOST_BYTES, 0
    for task in tasks.values():
        room -= sum(len(sample["text"]) + 200 for sample in task["samples"])
        if room > 0:
            shown.append(task)
        else:
            more += len(task["samples"])
    return shown, more


def verdict(row: dict[str, Any]) -> str:
    """Return a sample's verdict in words."""
    if row["reason"] == "not measured":
        return "not measured"
    words = ["parses" if row["parses"] else "does not parse"]
    words += ["loads"] if row.get("loads") else []
    words.append("ended by itself" if row.get("finish_reason") == "stop" else "cut at the limit")
    words += ["passes"] if row["passed"] else [] if row["reason"] == "no tests" else [f"fails: {row['reason']}"]
    words += [row["degenerate"]] if row.get("degenerate") else []
    if similarity := row.get("similarity"):
        words.append(f"BLEU {100 * similarity['bleu']:.0f}, chrF {100 * similarity['chrf']:.0f}")
    return ", ".join(words)
