"""What the report of a build shows: figures of horizontal bars, as plain data."""

from collections import Counter
from itertools import pairwise

import numpy as np

from llama_scale.plotting.figure import Bar, Figure, bar_panel

KEPT = "#3b6ea8"
DROPPED = "#c8434f"
MOST_BARS = 14  # of a figure; the rest is summed


def build_figures(manifest: dict, lengths: np.ndarray, near: list[float]) -> list[Figure]:
    """Return the figures of a build.

    Args:
        manifest: Its manifest.
        lengths: (D,) tokens of each document.
        near: Jaccard index of each near duplicate with its survivor.
    """
    licenses = {name: row["bytes"] / 1e6 for name, row in manifest["licenses"].items()}
    packages: Counter[str] = Counter()
    for row in manifest["sources"]:
        packages[row["package"]] += row["bytes"] / 1e6
    figures = [
        _source_to_shards(manifest, "bytes", 1e-6, "MB"),
        _source_to_shards(manifest, "files", 1, "files"),
        _largest("licenses", "Licenses of what is kept", licenses),
        _largest("packages", "Largest packages", packages),
        _powers_of_two("document-tokens", "Tokens of a document", "documents", lengths),
    ]
    if near:
        figures.append(_likeness(near))
    return figures


def _bar_figure(key: str, title: str, label: str, bars: list[Bar], log: bool = False) -> Figure:
    return Figure(key, title, "", [bar_panel(key, label, bars, log)])


def _source_to_shards(manifest: dict, unit: str, scale: float, label: str) -> Figure:
    """Return what the source had, what each step took from it and what is left."""
    dropped, splits = manifest["dropped"], manifest["splits"]
    field = "documents" if unit == "files" else "bytes"
    kept = sum(row[field] for row in splits.values())
    rows = [("source", kept + sum(row[unit] for row in dropped.values()), KEPT)]
    for reason, row in sorted(dropped.items(), key=lambda item: (-item[1][unit], item[0])):
        rows.append((f"− {reason.replace('_', ' ')}", row[unit], DROPPED))
    rows += [(name, row[field], KEPT) for name, row in splits.items()]
    bars = [Bar(name, value * scale, color) for name, value, color in rows]
    return _bar_figure(f"source-to-shards-{unit}", f"From source to shards, {label}", label, bars, log=True)


def _largest(key: str, title: str, values: dict[str, float]) -> Figure:
    """Return the largest values in MB, the others as one."""
    order = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    bars = [Bar(name, value, KEPT) for name, value in order[:MOST_BARS]]
    if others := order[MOST_BARS:]:
        bars.append(Bar(f"{len(others)} others", sum(value for _, value in others), KEPT))
    return _bar_figure(key, title, "MB", bars)


def _powers_of_two(key: str, title: str, label: str, values: np.ndarray) -> Figure:
    """Return how many values are between powers of two; "up to 4" are 3 and 4."""
    powers = np.bincount(np.ceil(np.log2(np.maximum(values, 1))).astype(int), minlength=1)
    bars = [Bar(f"up to {1 << power:,}", float(n), KEPT) for power, n in enumerate(powers)]
    first = next((i for i, bar in enumerate(bars) if bar.value), 0)
    return _bar_figure(key, title, label, bars[first:])


def _likeness(near: list[float]) -> Figure:
    """Return how many near duplicates have which Jaccard index with their survivor."""
    edges = np.linspace(0.7, 1.0, 7)
    counts, _ = np.histogram(near, edges)
    bars = [
        Bar(f"{low:.2f} to {high:.2f}", float(n), DROPPED)
        for (low, high), n in zip(pairwise(edges), counts, strict=True)
    ]
    return _bar_figure("near-duplicates", "Likeness of near duplicates to what stays", "files", bars)
