"""What a build kept, left out and why: a table for the terminal, report.html and report.png."""

from collections import Counter
from pathlib import Path
from textwrap import shorten

import numpy as np

from data_tools.dedup.deduplicate import NEAR
from data_tools.report.figures import build_figures
from llama_scale.data.documents import read_documents
from llama_scale.files import atomic_write, read_jsonl
from llama_scale.plotting import page
from llama_scale.plotting.draw import save_sheet
from llama_scale.text import count, megabytes


def write_report(folder: Path, manifest: dict, contamination: dict) -> None:
    """Write report.html, with everything it needs inside it, and report.png into ``folder``.

    Args:
        folder: Folder with documents.jsonl.gz and near.jsonl.
        manifest: The build's manifest.
        contamination: Its contamination.json.
    """
    lengths = np.fromiter(map(_tokens, read_documents(folder)), np.int64)
    near = [row["jaccard"] for row in read_jsonl(folder / NEAR, whole=True)]
    figures = build_figures(manifest, lengths[lengths > 0], near)
    save_sheet(figures, folder / "report.png")
    values = {"manifest": manifest, "contamination": contamination, "tiles": tiles(manifest)}
    with atomic_write(folder / "report.html") as file:
        file.write(page.render("data_tools.report", figures, **values))


def _tokens(row: dict) -> int:
    """Return the tokens of a document; 0 for the later pieces of one that packing cut."""
    return row.get("of", row["tokens"]) if not row.get("first") else 0


def tiles(manifest: dict) -> list[tuple[str, str, str]]:
    """Return the few numbers that stand first: (what, value, detail)."""
    train, val = manifest["splits"]["train"], manifest["splits"]["val"]
    ratio = val["bytes"] / max(1, val["tokens"] - val["documents"])
    rows = [
        ("training tokens", count(train["tokens"]), megabytes(train["bytes"])),
        ("validation tokens", count(val["tokens"]), megabytes(val["bytes"])),
        ("documents", f"{train['documents'] + val['documents']:,}", f"{len(manifest['sources'])} "
         "packages"),
        ("bytes per token", f"{ratio:.3f}", "on validation packages"),
    ]  # fmt: skip
    if packing := train.get("packing"):
        share = packing["padding"] / train["tokens"]
        rows.append(("padding", f"{100 * share:.4f} %", f"{packing['sequences']:,} sequences"))
    return rows


def build_table(manifest: dict, folder: Path) -> str:
    """Return the table of files and megabytes by step, then licenses, packages and tokens."""
    splits, lost, kept = manifest["splits"], manifest["dropped"], manifest["sources"]
    files, size = (sum(row[unit] for row in (*kept, *lost.values())) for unit in ("files", "bytes"))
    lines = [_row("source files", files, size)]
    for reason, row in lost.items():
        lines.append(_row(f"  - {reason.replace('_', ' ')}", -row["files"], -row["bytes"]))
    for name, row in splits.items():
        lines.append(_row(name, row["documents"], row["bytes"]))
    licenses = Counter()
    for row in kept:
        licenses[row["license"]] += row["bytes"]
    common = [f"{shorten(name, 40)} {100 * n / licenses.total():.0f} %" for name, n in licenses.most_common(6)]
    barred = [row for row in manifest["left_out"] if row["reason"] == "license"]
    out = [f"{row['package']} ({row['license']})" for row in barred]
    val = [row["package"] for row in kept if row["split"] == "val"]
    lines += [f"licenses     {', '.join(common)}", f"left out     {', '.join(out) or 'none'}"]
    lines.append(f"validation   {', '.join(val)}")
    for name, row in splits.items():
        ratio = row["bytes"] / max(1, row["tokens"] - row["documents"])
        lines.append(f"{name:<12} {row['tokens']:,} tokens, {ratio:.2f} bytes per token")
    lines.append(f"{folder}: {manifest['fingerprint'][:12]}")
    return "\n".join(lines)


def _row(name: str, files: int, size: int) -> str:
    return f"{name:<22} {files:>8,} files {megabytes(size, 2):>12}"
