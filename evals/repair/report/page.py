"""report.html and its figures, made from the sealed rows of one study or several, and from nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.repair.figures import ALL_SHOWN, headline, summed_up, verdict_in_words
from evals.repair.journal import SEALED, read_rows
from evals.repair.report.curves import curves
from evals.repair.report.ladder import Rung, ladder, pays_from, stages
from evals.repair.report.rounds import stories
from evals.repair.report.tables import percent, share, tables
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, check_unchanged, read_fields
from llama_scale.plotting import draw, page
from llama_scale.plotting.figure import Figure
from llama_scale.plotting.table import Table
from llama_scale.text import count, writable

Row = dict[str, Any]
STEPS = "repair-*-steps.jsonl.gz"


@dataclass(frozen=True)
class Study:
    """A finished study: its name, its result and the sealed rows it was computed from."""

    name: str
    result: Row
    rows: list[Row]

    @property
    def parameters(self) -> int | None:
        """The parameters of its model, None if they are not known."""
        return self.result.get("parameters")


def read_study(steps: Path) -> Study:
    """Read the sealed rows of a study; raise InputError if the file is none."""
    result = summed_up(steps)
    return Study(model_name(result, steps), result, read_rows(steps, SEALED)[1])


def model_name(result: Row, steps: Path) -> str:
    """Return what a person calls the model of a study: a run and checkpoint, a folder, a server's model."""
    identity = result.get("backend", {})
    name = (
        identity.get("name") or identity.get("model_name") if identity.get("backend") in ("server", "scripted") else ""
    )
    return name or Path(identity.get("model", "")).name or steps.resolve().parent.name


def find_studies(folders: Sequence[str]) -> list[Study]:
    """Return the studies in folders, or of files of sealed rows; raise InputError where there is none."""
    found = []
    for name in folders:
        path = Path(name)
        files = [path] if path.is_file() else sorted(path.glob(STEPS))
        if not files:
            raise InputError(f"results: {name} has no {STEPS}; give folders that launch/repair.py filled")
        for file in files:
            check_steps(file)
        found += [read_study(file) for file in files]
    return found


def check_steps(steps: Path) -> None:
    """Raise InputError where sealed rows have changed since the result beside them was made of them."""
    path = steps.with_name(steps.name.replace("-steps.jsonl.gz", ".json"))
    if path != steps and path.is_file():
        written = read_fields(path).get("steps_sha256")
        check_unchanged(steps, written, f"{path.name} was made of it", "restore it, or run the study again")


def write_report(studies: Sequence[Study], path: Path, title: str | None = None) -> list[Path]:
    """Write a page, and its figures as PNG and SVG into figures/ beside it; return the paths.

    One study is shown as a whole. Several are set side by side by the size of their models, with the curves of each.
    Raises InputError where several models have not one size between them.
    """
    figures = study_figures(studies)
    html = render(studies, figures, title or (studies[0].name if len(studies) == 1 else "Repair by size"))
    pictures = [file for figure in figures for file in draw.save(figure, path.parent / "figures")]
    with atomic_write(path) as file:
        file.write(writable(html))
    return [path, *pictures]


def rungs_of(studies: Sequence[Study]) -> list[Rung]:
    """Return the studies whose model's size is known."""
    return [Rung(study.name, study.parameters, study.result) for study in studies if study.parameters]


def study_figures(studies: Sequence[Study]) -> list[Figure]:
    """Return the ladder, where there is more than one study, and the curves of each."""
    found, rungs = [], rungs_of(studies)
    if len(studies) > 1 and not rungs:
        raise InputError("results: no study knows the size of its model; run them with backend.parameters")
    if rungs and len(studies) > 1:
        found += [ladder(rungs), stages(rungs)]
    for number, study in enumerate(studies):
        key = f"repair-{study.result['suite']}" + (f"-{number + 1}" if len(studies) > 1 else "")
        found.append(curves(study.result, key, study.name if len(studies) > 1 else ""))
    return found


def render(studies: Sequence[Study], figures: list[Figure], title: str) -> str:
    """Return the page: everything it needs is inside it."""
    one = studies[0]
    told, all_stories, shown = ([], 0, []) if len(studies) > 1 else (*stories(one.rows), tables(one.result, one.rows))
    return page.render(
        "evals.repair.report",
        figures,
        title=title,
        answer=answer(studies),
        tiles=tiles(one.result) if len(studies) == 1 else [],
        tables=shown if len(studies) == 1 else [overview(studies)],
        stories=told,
        n_stories=all_stories,
        facts=facts(one.result) if len(studies) == 1 else [("studies", ", ".join(study.name for study in studies))],
    )


def answer(studies: Sequence[Study]) -> list[str]:
    """Say in sentences whether repair pays, and against what."""
    if len(studies) > 1:
        unknown = [study.name for study in studies if not study.parameters]
        left_out = f"Not in the ladder, as their size is not known: {', '.join(unknown)}."
        return pays_from(rungs_of(studies)) + ([left_out] if unknown else [])
    result = studies[0].result
    sentences = [f"{ALL_SHOWN[0].upper()}{ALL_SHOWN[1:]}."] if result.get("protocol") == "published" else []
    sentences += filter(None, [headline(result)])
    for name, arm in result["arms"].items():
        last, gaps = next(iter(arm["selection"].values())), arm.get("against_resample", {})
        said = [
            verdict_in_words(gaps[f"equal_{kind}"], kind) for kind in ("programs", "tokens") if f"equal_{kind}" in gaps
        ]
        false = share(last["shown_not_solved"], last["holds_visible"], last["shown_not_solved_interval"])
        held = f"; of those that hold the visible tests {false} fail another" if last["holds_visible"] else ""
        sentences.append(f"{name} solves {percent(last['rate'])}{held}{'. It ' + ', and '.join(said) if said else ''}.")
    return sentences


def tiles(result: Row) -> list[tuple[str, str, str]]:
    """Return the few numbers that stand first: (what, value, detail)."""
    found = []
    first = next(iter(result["arms"].values()))["curve"][0]["rate"]
    low, high = (100 * end for end in first["interval"])
    found.append(
        ("one program", f"{100 * first['value']:.1f} %", f"{low:.1f} to {high:.1f} of {result['n_tasks']} tasks")
    )
    for name, arm in result["arms"].items():
        rate = next(iter(arm["selection"].values()))["rate"]
        low, high = (100 * end for end in rate["interval"])
        found.append((name, f"{100 * rate['value']:.1f} %", f"{low:.1f} to {high:.1f}"))
    return found


def overview(studies: Sequence[Study]) -> Table:
    """Return a row an arm of each study, smallest model first."""
    body = []
    for study in sorted(studies, key=lambda study: study.parameters or 0):
        for row in tables(study.result, study.rows)[0].body:
            body.append([study.name, count(study.parameters), *row])
    head = tables(studies[0].result, studies[0].rows)[0]
    return Table("arms", head.title, head.caption, ["model", "N", *head.head], body)


def facts(result: Row) -> list[tuple[str, str]]:
    """Return what the figures depend on, as (what, value)."""
    plan, sampling = result.get("plan", {}), result.get("sampling", {})
    shown = [
        (
            "tasks",
            f"{result['n_tasks']} of {result['suite']}, {result['samples']} chains an arm; "
            f"{'all tests' if result.get('protocol') == 'published' else result['visible']} visible",
        ),
        ("model", ", ".join(f"{name} {value}" for name, value in result.get("backend", {}).items())),
        ("critic", ", ".join(f"{name} {value}" for name, value in result.get("critic", {}).items())),
        ("published log", f"sha256 {result['replay_sha256']}" if "replay_sha256" in result else ""),
        ("plan", ", ".join(f"{name} {value}" for name, value in plan.items())),
        ("sampling", ", ".join(f"{name} {value}" for name, value in sampling.items())),
        ("judge", f"{result['timeout']:g} CPU seconds, isolation {result['isolation']}"),
        ("intervals", "95 %: of rates Clopper and Pearson's, of differences a bootstrap over tasks"),
        ("served by", counted(result.get("served", {}), "programs")),
        ("critic served by", counted(result.get("critic_served", {}), "reviews")),
        ("rows", f"journal sha256 {result['journal_sha256']}"),
    ]
    return [(name, value) for name, value in shown if value]


def counted(names: dict[str, int], of: str) -> str:
    """Return names with how many ``of`` something each has."""
    return ", ".join(f"{name} ({n:,} {of})" for name, n in names.items())
