"""The arms of a study compared with their controls: families of contrasts, best sets, the forecast of the rank."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.bootstrap import TAIL, percentile_interval
from llama_scale.comparison import best_set, bootstrap_means, difference, exact_interval, holm, kendall_tau, mcnemar
from llama_scale.config import flatten
from llama_scale.errors import InputError
from llama_scale.files import read_fields, read_jsonl, sha256
from llama_scale.scaling.study.finetune.claims import claims
from llama_scale.scaling.study.finetune.collect import REFERENCES, TuningStudy, load_study
from llama_scale.scaling.study.finetune.comparison import (
    Agreement,
    ArmResult,
    Comparison,
    Contrast,
    Estimate,
    Family,
    Ordering,
    RankForecast,
    SizeCurve,
    Stratum,
)
from llama_scale.scaling.study.finetune.rank_forecast import FORECAST
from llama_scale.scaling.study.finetune.scores import (
    ENDPOINTS,
    GAIN,
    PRIMARY,
    SAMPLED,
    Endpoint,
    Scores,
    arm_scores,
    base_of,
)
from llama_scale.scaling.study.finetune.settings import BASE, FEW_SHOT, Arm
from llama_scale.scaling.study.finetune.size_curve import size_curve

Table = dict[tuple[str, str], Scores]  # by arm and endpoint
SEED = 0
KINDS = {  # of pairs, as launch/prepare.py pairs calls them
    "third": ("low", "middle", "high"),
    "paradigm": ("object-oriented", "imperative", "functional", "plain"),
}
LANGUAGE = "language"


def compare_arms(folder: Path) -> list[str]:
    """Compare the arms of a study, write comparison.json and return the claims in words."""
    study = load_study(folder)
    table = score_table(study)
    by_name = {arm.name: arm for arm in study.arms}
    bases = {arm.name for arm in study.arms if arm.method == BASE}
    families = [family(key, title, pairs, table, bases) for key, title, pairs in pairings(study.arms)]
    settings = study.settings
    found = Comparison(
        name=settings["name"],
        question=settings["question"],
        profile=settings["profile"],
        base=str(next(arm for arm in study.arms if arm.method == BASE).settings["base"]),
        tasks=table[study.arms[0].name, PRIMARY.key].values.shape[1],
        arms=[arm_result(study, arm, table) for arm in study.arms],
        families=[f for f in families if f.contrasts],
        ranks=rank_outcomes(folder, settings["margin"], by_name, table),
        claims=[],
        agreement=agreement(study),
        baselines=next((scores.get("baseline_parse_rates", {}) for runs in study.runs.values() for run in runs
                        for scores in run.suites.values()), {}),
        flaws=settings["flaws"],
        margin=settings["margin"],
        sizes=size_curves(families, by_name, table),
        strata=by_kind(study, table),
        orderings=orderings(study.arms, table),
        rates=study.rates,
    )  # fmt: skip
    found = replace(found, claims=claims(found))
    found.write(folder)
    return [f"{claim.verdict}: {claim.claim} (study {claim.study}). {claim.text}" for claim in found.claims]


def score_table(study: TuningStudy) -> Table:
    """Return the scores of each arm by each endpoint that was measured."""
    found = {(arm.name, e.key): arm_scores(study, arm, e) for arm in study.arms for e in ENDPOINTS}
    table = {key: scores for key, scores in found.items() if scores is not None}
    for arm in study.arms:
        if arm.method != BASE:  # which gains nothing over itself
            scores, base = table[arm.name, PRIMARY.key], table[base_of(study, arm).name, PRIMARY.key]
            if scores.tasks != base.tasks:
                found = f"{len(scores.tasks)} held-out pairs, its base on {len(base.tasks)}"
                raise InputError(f"{arm.name}: scored on {found}; run the study again")
            table[arm.name, GAIN.key] = replace(scores, values=base.values - scores.values)
    return table


def arm_result(study: TuningStudy, arm: Arm, table: Table) -> ArmResult:
    """Return an arm's costs and scores."""
    results = [run.result for run in study.runs[arm.name]]
    base = base_of(study, arm)
    before = study.runs[base.name][0].result.get("retained_bits_per_byte")
    after = [result.get("retained_bits_per_byte") for result in results]
    known = [value for value in after if value is not None]
    return ArmResult(
        name=arm.name,
        grid=arm.grid,
        method=arm.method,
        rank=arm.rank,
        examples=results[0]["examples"] if arm.trained else arm.examples if arm.method == FEW_SHOT else None,
        language=arm.language,
        budget=arm.budget,
        lr=results[0]["lr"] if arm.trained else None,
        runs=len(results),
        steps=_mean(results, "steps"),
        trainable_params=results[0]["trainable_params"],
        n_params=results[0]["n_params"],
        seconds=_mean(results, "seconds"),
        peak_memory=_mean(results, "peak_memory"),
        weights_bytes=_mean(results, "weights_bytes"),
        forgotten=float(np.mean(known)) - before if arm.trained and known and before is not None else None,
        forgotten_spread=half_width(known) if arm.trained and before is not None else None,
        scores={e.key: estimate(table[arm.name, e.key], e.share) for e in ENDPOINTS if (arm.name, e.key) in table},
    )


def half_width(values: Sequence[float]) -> float | None:
    """Return half the 95 % interval of a mean by Student's t, None of fewer than two values."""
    from scipy.special import stdtrit

    runs = len(values)
    return None if runs < 2 else float(stdtrit(runs - 1, 1 - TAIL) * np.std(values, ddof=1) / math.sqrt(runs))


def _mean(results: Iterable[dict[str, Any]], name: str) -> float:
    return float(np.mean([result[name] or 0 for result in results]))


def estimate(scores: Scores, share: bool) -> Estimate:
    """Return a mean with its interval over runs and tasks together; of a share of tasks no less than the exact one.

    Where no task of a run passes, or all do, a bootstrap has no width.
    """
    sample = bootstrap_means([scores.values], True, SEED)[:, 0]  # (RESAMPLES,)
    low, high = map(float, percentile_interval(sample, TAIL))
    mean, (runs, tasks) = float(scores.values.mean()), scores.values.shape
    if share:
        exact = exact_interval(mean * tasks, tasks)
        low, high = (exact[0], exact[1]) if runs == 1 else (max(0.0, min(low, exact[0])), min(1.0, max(high, exact[1])))
    return Estimate(mean, low, high, runs, tasks)


def same_draws(scores: dict[str, Scores]) -> tuple[dict[str, np.ndarray], bool]:
    """Return the runs (runs, tasks) of the draws that all arms have, and whether there are two and more of them.

    An arm of a single run, as the base, is the same in each draw. Without such draws all runs are returned, unpaired.
    """
    several = [one for one in scores.values() if len(one.draws) > 1]
    common = [draw for draw in several[0].draws if all(draw in one.draws for one in several)] if several else []
    if len(common) < 2:
        return {name: one.values for name, one in scores.items()}, False
    rows = {
        name: one.of_draws(common) if len(one.draws) > 1 else one.values.repeat(len(common), 0)
        for name, one in scores.items()
    }
    return rows, True


def find_best(names: Iterable[str], table: Table) -> dict[str, float]:
    """Return the arms that cannot be told from the best by the primary endpoint, with their p values."""
    arms, paired = same_draws({name: table[name, PRIMARY.key] for name in names})
    return best_set(arms, lower_is_better=True, paired_runs=paired, seed=SEED)


def pairings(arms: list[Arm]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return for each question its key, its title and pairs of control and arm.

    In a family of sizes the smallest is the control, of ranks the least, of methods full fine-tuning, of budgets the
    fixed number of steps, of other settings (targets, order) the first in the file; each is compared with what differs
    from it in that alone.
    """
    compared, tuned = [arm for arm in arms if arm.method != BASE], [arm for arm in arms if arm.trained]
    base = {arm.language: arm.name for arm in arms if arm.method == BASE}
    shown = {arm.language: arm.name for arm in arms if arm.method == FEW_SHOT}
    found = [("base", "Against the base", [(base[arm.language], arm.name) for arm in compared])]
    if shown:
        title = "Against the base that is shown pairs"
        found.append((FEW_SHOT, title, [(shown[arm.language], arm.name) for arm in tuned]))

    def variant(arm: Arm) -> str:  # what the study file changed beside the lists
        listed = ("method", "examples", "epochs", "steps", "lora.rank", "optim.lr")
        return repr(sorted((k, v) for k, v in flatten(arm.settings).items() if k not in listed))

    def groups(arms: list[Arm], key: Any, order: Any) -> list[list[Arm]]:
        ordered = sorted(arms, key=lambda arm: (repr(key(arm)), order(arm)))
        return [list(group) for _, group in groupby(ordered, key=lambda arm: repr(key(arm)))]

    def against_first(group: list[Arm]) -> list[tuple[str, str]]:
        return [(group[0].name, arm.name) for arm in group[1:]]

    for group in groups(tuned, lambda a: (a.method, a.rank, a.language, a.budget, variant(a)), _size):
        if len({arm.examples for arm in group}) > 1:
            what = f"rank {group[0].rank}" if group[0].rank else "full"
            found.append(
                (f"size-{_slug(group[0])}", f"Number of pairs, {group[0].budget}, {what}", against_first(group))
            )
    lora = [arm for arm in tuned if arm.rank]
    for group in groups(lora, lambda a: (a.examples, a.language, a.budget, variant(a)), lambda a: a.rank):
        if len({arm.rank for arm in group}) > 1:
            title = f"Rank, {group[0].examples or 'all'} pairs, {group[0].budget}"
            found.append((f"rank-{_slug(group[0])}", title, against_first(group)))
    for group in groups(tuned, lambda a: (a.method, a.rank, a.examples, a.language, a.budget), lambda a: 0):
        others = [arm for arm in group[1:] if variant(arm) != variant(group[0])]
        if others:
            title = f"Other settings, {group[0].examples or 'all'} pairs, {group[0].budget}"
            found.append((f"setting-{group[0].name}", title, [(group[0].name, arm.name) for arm in others]))
    for full in (arm for arm in tuned if arm.method == "full"):
        alike = [a for a in lora if (a.examples, a.language, a.budget) == (full.examples, full.language, full.budget)]
        if alike:
            title = f"Adapters against full fine-tuning, {full.examples or 'all'} pairs, {full.budget}"
            found.append((f"method-{full.name}", title, [(full.name, arm.name) for arm in alike]))
    budgets = []
    for group in groups(tuned, lambda a: (a.method, a.rank, a.examples, a.language, variant(a)), lambda a: not a.steps):
        budgets += [(group[0].name, arm.name) for arm in group[1:] if group[0].steps and not arm.steps]
    for group in groups(compared, lambda a: (a.method, a.rank, a.examples, a.budget, a.grid), lambda a: a.language):
        if len({arm.language for arm in group}) > 1:
            found.append((f"{LANGUAGE}-{group[0].grid}", "Languages, on the same tasks", against_first(group)))
    found.append(("budget", "Equal epochs against equal steps, the same pairs", budgets))
    return found


def _size(arm: Arm) -> float:
    return arm.examples or math.inf


def _slug(arm: Arm) -> str:
    parts = (arm.method, f"r{arm.rank}" if arm.rank else "", arm.budget.replace(" ", "-"), arm.language)
    return "-".join(filter(None, parts))


def family(key: str, title: str, pairs: list[tuple[str, str]], table: Table, bases: set[str]) -> Family:
    """Return the contrasts of ``pairs`` of control and arm by each endpoint, and the set that holds the best arm.

    Of several languages, each with a base of ``bases``, there is no best one.
    """
    contrasts, endpoints = [], (GAIN, *SAMPLED) if key.startswith(LANGUAGE) else ENDPOINTS
    for endpoint in endpoints:
        both = [(c, a) for c, a in pairs if (c, endpoint.key) in table and (a, endpoint.key) in table]
        if key.startswith(LANGUAGE):  # which can be of other tasks
            both = [(c, a) for c, a in both if table[c, endpoint.key].tasks == table[a, endpoint.key].tasks]
        found = [contrast(endpoint, control, arm, table) for control, arm in both]
        adjusted = holm([one.p for one in found])
        contrasts += [replace(one, holm=p) for one, p in zip(found, adjusted, strict=True)]
    names = [] if key.startswith(LANGUAGE) else list(dict.fromkeys(name for pair in pairs for name in pair))
    names = [name for name in names if (name, PRIMARY.key) in table]
    same = len(names) > 1 and len(bases & set(names)) < 2  # bits per byte of two languages are not comparable
    return Family(key, title, contrasts, find_best(names, table) if same else {})


def contrast(endpoint: Endpoint, control: str, arm: str, table: Table) -> Contrast:
    """Compare two arms on the same tasks, of the draws that both have; raise InputError where the tasks differ."""
    first, second = table[control, endpoint.key], table[arm, endpoint.key]
    if first.tasks != second.tasks:
        raise InputError(f"{control} and {arm}: scored on different tasks by {endpoint.name}; run the study again")
    common = [draw for draw in first.draws if draw in second.draws]
    paired = len(common) > 1
    before, after = (s.of_draws(common) if paired else s.values for s in (first, second))
    found = difference(before, after, paired, SEED)
    one = Contrast(
        control,
        arm,
        endpoint.key,
        found.mean,
        found.low,
        found.high,
        found.p,
        found.p,
        found.detectable or None,
        paired,
    )
    if not endpoint.share:
        return one
    changed = mcnemar(first.values[0] >= 0.5, second.values[0] >= 0.5)  # type: ignore[arg-type]
    return replace(one, gained=changed.gained, lost=changed.lost, mcnemar=changed.p)


def size_curves(families: Iterable[Family], arms: dict[str, Arm], table: Table) -> list[SizeCurve]:
    """Return a curve for each family of sizes; arms that take all pairs, however many those are, are left out."""
    curves = []
    for one in families:
        names = list(dict.fromkeys(name for c in one.of(PRIMARY.key) for name in (c.control, c.arm)))
        sizes = {name: n for name in names if (n := arms[name].examples) is not None}
        if one.key.startswith("size-") and len(sizes) > 1:
            rows, paired = same_draws({name: table[name, PRIMARY.key] for name in sizes})
            curves.append(size_curve(one, sizes, rows, paired, SEED))
    return curves


def by_kind(study: TuningStudy, table: Table) -> list[Stratum]:
    """Return what each arm gains on the held-out pairs of each kind (``KINDS``), where they say what they are."""
    found = []
    for arm in (arm for arm in study.arms if arm.method != BASE):
        base = base_of(study, arm).name
        rows = {row["id"]: row for row in read_jsonl(study.folder / "data" / arm.language / "test.jsonl")}
        tasks = table[arm.name, PRIMARY.key].tasks
        for name, value in ((name, value) for name, values in KINDS.items() for value in values):
            own = [i for i, task in enumerate(tasks) if rows.get(task, {}).get(name) == value]
            if len(own) < 2:
                continue
            part = {
                (who, PRIMARY.key): replace(scores, values=scores.values[:, own], tasks=[tasks[i] for i in own])
                for who in (base, arm.name)
                for scores in [table[who, PRIMARY.key]]
            }
            one = contrast(PRIMARY, base, arm.name, part)
            found.append(Stratum(name, value, arm.name, len(own), one.mean, one.low, one.high, one.detectable))
    return found


def rank_outcomes(folder: Path, margin: float, arms: dict[str, Arm], table: Table) -> list[RankForecast]:
    """Return the forecasts of the rank with what was measured since, of the arms that the study still has.

    Raises InputError on a forecast that was made of other scores of the base than there are now.
    """
    path = folder / FORECAST
    if not path.exists():
        return []
    forecast, outcomes = read_fields(path, ["written_at", "groups"]), []
    for group in forecast["groups"]:
        names = {name: arms[name].rank for name in group["arms"] if (name, PRIMARY.key) in table}
        if len(names) < 2:
            continue
        base = next(a for a in arms.values() if a.method == BASE and a.language == arms[min(names)].language)
        written = group.get("references_sha256")
        if written and written != sha256(folder / "runs" / base.name / REFERENCES):
            problem = f"was made of other scores of {base.name} than there are now"
            raise InputError(f"{path}: {problem}; delete it and run the study again")
        best = sorted(names[name] or 0 for name in find_best(names, table))
        ordered = sorted(names, key=lambda name: names[name] or 0)
        enough = [name for name in ordered if (names[name] or 0) >= group["rank"]]
        at, right, found = (enough[0] if enough else None), None, None
        if at is not None and at != ordered[-1]:
            found = contrast(PRIMARY, ordered[-1], at, table)
            right = True if found.high < margin else False if found.low > margin else None
        outcomes.append(
            RankForecast(
                arms=[name for name in group["arms"] if name in names],
                ranks=[names[name] or 0 for name in ordered],
                examples=group["examples"],
                bits=group["bits"],
                parameters_a_rank=group["parameters_a_rank"],
                forecast=group["rank"],
                written_at=forecast["written_at"],
                measured=best[0] if best else None,
                best=best,
                at=names[at] if at else None,
                difference=found.mean if found else None,
                low=found.low if found else None,
                high=found.high if found else None,
                right=right,
            )
        )
    return outcomes


def agreement(study: TuningStudy) -> list[Agreement]:
    """Return how each similarity ranks passing samples above failing ones, of the run that says it of most tasks."""
    found: dict[str, Agreement] = {}
    for runs in study.runs.values():
        for scores in (scores for run in runs for scores in run.suites.values()):
            for metric, area in scores.get("area_for_passing", {}).items():
                one = Agreement(metric, area["value"], area["low"], area["high"], area["pairs"], area["tasks"])
                if metric not in found or one.tasks > found[metric].tasks:
                    found[metric] = one
    return list(found.values())


def orderings(arms: list[Arm], table: Table) -> list[Ordering]:
    """Return how each measure orders the arms of the first language beside passing; nothing where none passes.

    Of an arm's runs the mean is taken, task by task.
    """
    found, (passed, *_) = [], (e for e in ENDPOINTS if e.key == "passed")
    own = [arm.name for arm in arms if arm.language == arms[0].language and (arm.name, passed.key) in table]
    for endpoint in (e for e in ENDPOINTS if e is not passed):
        names = [name for name in own if (name, endpoint.key) in table]
        shared = [set(table[name, key].tasks) for name in names for key in (passed.key, endpoint.key)]
        tasks = sorted(set.intersection(*shared)) if shared else []
        if len(names) < 3 or len(tasks) < 2:
            continue
        sign = -1.0 if endpoint.lower_is_better else 1.0
        first, second = (
            factor * np.stack([_of_tasks(table[name, key], tasks) for name in names])
            for key, factor in ((endpoint.key, sign), (passed.key, 1.0))
        )  # (arms, tasks)
        if tau := kendall_tau(first, second, SEED):
            found.append(Ordering(endpoint.key, *tau, len(names), len(tasks)))
    return found


def _of_tasks(scores: Scores, tasks: list[str]) -> np.ndarray:
    """Return the means of an arm's runs on some tasks, (tasks,)."""
    return scores.values[:, [scores.tasks.index(task) for task in tasks]].mean(0)
