"""Which rank the data needs, written before any is tried: its bits over 2 bits for each parameter of an adapter."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama_scale.files import read_fields, read_jsonl, sha256, write_json
from llama_scale.scaling.study.finetune.collect import REFERENCES, read_settings

FORECAST = "rank-forecast.json"
BITS_PER_PARAMETER = 2.0  # what models store (Allen-Zhu and Li 2024, 2404.05405)


def forecast_rank(study: Path, trained: Callable[[dict[str, Any]], int]) -> list[str]:
    """Write rank-forecast.json, unless it is there, and return what it says.

    The bits of n examples are n times the mean bits that the base gives a held-out completion with its end: what
    tuning could have to store at most. ``trained(settings)`` counts the parameters that a run trains.
    """
    path = study / FORECAST
    if not path.exists():
        settings = read_settings(study)
        arms = settings["arms"]
        rows = [_forecast(study, arms, group, trained) for group in rank_groups(arms)]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {"written_at": now, "bits_per_parameter": BITS_PER_PARAMETER,
                          "margin": settings["margin"], "groups": rows}, sealed=True)  # fmt: skip
    found = read_fields(path, ["written_at", "groups"])
    return [f"{path}, written {found['written_at']}:"] + [
        f"  {row['examples']} examples are {row['bits']:.3g} bits, a rank has {row['parameters_a_rank']:,} parameters: "
        f"rank {row['rank']} should do" for row in found["groups"]
    ]  # fmt: skip


def rank_groups(arms: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the arms that differ by rank alone, lists of two or more."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for arm in arms:
        if arm["rank"]:
            key = (arm["examples"], arm["language"], arm["epochs"], arm["steps"])
            groups.setdefault(key, []).append(arm)
    return [
        sorted(group, key=lambda arm: arm["rank"]) for group in groups.values() if len({a["rank"] for a in group}) > 1
    ]


def _forecast(
    study: Path, arms: list[dict[str, Any]], group: list[dict[str, Any]], trained: Callable
) -> dict[str, Any]:
    arm = group[0]
    base = next(a for a in arms if a["method"] == "base" and a["language"] == arm["language"])
    references = study / "runs" / base["name"] / REFERENCES
    scores = read_jsonl(references)
    nats = sum(row["nats"] + row["end_nats"] for row in scores) / len(scores)
    pool = study / "data" / arm["language"] / "pool.jsonl"
    count = arm["examples"] or len(read_jsonl(pool))
    bits = count * nats / math.log(2)
    settings = {**arm["settings"], "train": str(pool), "lora": {**arm["settings"]["lora"], "rank": 1}}
    a_rank = trained(settings)
    return {
        "arms": [a["name"] for a in group],
        "ranks": [a["rank"] for a in group],
        "examples": count,
        "bits_an_example": nats / math.log(2),
        "bits": bits,
        "references_sha256": sha256(references),
        "parameters_a_rank": a_rank,
        "rank": max(1, math.ceil(bits / (BITS_PER_PARAMETER * a_rank))),
    }
