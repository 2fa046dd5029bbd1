"""The points that a law is fitted to: one run a row of a CSV file, read and checked."""

import csv
import math
import os
import re
from dataclasses import dataclass, field, replace
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.errors import InputError, nearest
from llama_scale.files import MOST_BYTES, sha256

NAMES = ("N", "D", "loss", "flops")
# The columns of non-embedding parameters, and those of N and D where none is named.
NON_EMBEDDING = ("N", "n_params_non_embedding")
DEFAULTS = {"N": NON_EMBEDDING, "D": ("D", "tokens")}
# A model or a data set smaller than this, or a loss above it, is a matter of units.
SMALLEST, LARGEST_LOSS = 1_000, 20.0
CONDITION = re.compile(r"^\s*(.+?)\s*(<=|>=|==|!=|<|>)\s*(.*?)\s*$")
COMPARE = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq, "!=": ne}
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
EMPTY = "", "nan", "none", "null"


@dataclass(frozen=True)
class Points:
    """Runs with their size, data, loss and, where known, compute."""

    N: np.ndarray  # parameters, float64 (n,) as D, loss and flops
    D: np.ndarray  # tokens
    loss: np.ndarray
    flops: np.ndarray | None  # None when the file has no such column
    rows: list[dict[str, str]]  # the file's own cells, all columns kept
    row_numbers: np.ndarray  # positions in the file, counted from 1 after the header
    file: str
    sha256: str
    n_read: int
    columns: dict[str, str]
    where: str | None = None
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.N)

    @property
    def compute(self) -> np.ndarray:
        """Training FLOPs (n,): the file's column, or 6ND where it has none."""
        return 6 * self.N * self.D if self.flops is None else self.flops

    @property
    def compute_name(self) -> str:
        """How ``compute`` is counted, in words."""
        return "6ND" if self.flops is None else f"column {self.columns['flops']!r}"

    @property
    def of_this_project(self) -> bool:
        """Whether a study of this project wrote the points, so that its conventions hold."""
        sizes = any(map(self.has, NON_EMBEDDING)), self.has("n_params"), self.has("n_params_matmul")
        return self.has("run") and all(sizes)

    def select(self, mask: np.ndarray) -> "Points":
        """Return the points where ``mask`` (n,) is true."""
        columns = {name: getattr(self, name)[mask] for name in ("N", "D", "loss", "row_numbers")}
        flops = None if self.flops is None else self.flops[mask]
        return replace(self, **columns, flops=flops, rows=[self.rows[i] for i in np.flatnonzero(mask)])

    def has(self, column: str) -> bool:
        """Return whether the file has a column with at least one value in it."""
        return any(row.get(column, "").strip() for row in self.rows)

    def numeric(self, column: str) -> np.ndarray:
        """Return a column as float64 (n,); NaN where empty, InputError where not a number."""
        values = np.full(len(self.rows), math.nan)
        for i, cell in enumerate(row[column].strip() for row in self.rows):
            if cell.lower() in EMPTY:
                continue
            try:
                values[i] = float(cell)
            except ValueError:
                where = f"{self.file}: row {self.row_numbers[i]}, column {column!r}"
                raise InputError(f"{where}: expected a number, found {self.rows[i][column]!r}") from None
        return values

    def label(self, index: int) -> str:
        """Return the name of a run: its ``run`` cell, or its row number."""
        return self.rows[index].get("run") or f"row {self.row_numbers[index]}"

    def describe(self, index: int) -> dict[str, Any]:
        """Return a run's name, size, tokens and FLOPs under the names that records have for them."""
        numbers = {"model_size": self.N, "tokens": self.D, "flops": self.compute}  # (n,) each
        return {"run": self.label(index)} | {name: float(column[index]) for name, column in numbers.items()}

    def match(self, condition: str) -> np.ndarray:
        """Return which rows (n,) meet all of ``"N>5e7,annealed==true"``; InputError if unreadable or of no column."""
        mask = np.ones(len(self), dtype=bool)
        for part, name, sign, value in parse_conditions(condition):
            column = self.columns.get(name, name)
            if column not in self.rows[0]:
                known = [*self.columns, *self.rows[0]]
                raise InputError(f"condition {part!r}: {self.file} has no column {column!r}{nearest(column, known)}")
            text = np.array([row[column].strip().lower() for row in self.rows])
            if value in ("true", "false"):
                mask &= COMPARE[sign](np.isin(text, TRUE), value == "true")
            else:
                mask &= COMPARE[sign](self.numeric(column) if isinstance(value, float) else text, value)
        return mask


def parse_conditions(text: str) -> list[tuple[str, str, str, float | str]]:
    """Read ``"N>5e7,annealed==true"`` as (part, name, sign, value) each, a value as a number or in small letters."""
    conditions: list[tuple[str, str, str, float | str]] = []
    for part in text.split(","):
        if not (matched := CONDITION.match(part)):
            raise InputError(f"condition {part!r}: expected e.g. 'N>5e7' or 'annealed==true'")
        name, sign, value = matched.groups()
        try:
            conditions.append((part, name, sign, float(value)))
        except ValueError:
            if sign not in ("==", "!="):
                raise InputError(f"condition {part!r}: {value!r} is not a number") from None
            conditions.append((part, name, sign, value.lower()))
    return conditions


def parse_columns(text: str | None) -> dict[str, str]:
    """Read ``"N=n_params,loss=val_loss"`` into a mapping; raise InputError on a name unknown or given twice."""
    columns = {}
    for part in text.split(",") if text else []:
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not column or name not in NAMES:
            known = f"{', '.join(NAMES)}{nearest(name, NAMES)}"
            raise InputError(f"columns: {part.strip()!r}: expected NAME=COLUMN with a name of {known}")
        if name in columns:
            raise InputError(f"columns: {name} is given twice, {columns[name]!r} and {column!r}; name one")
        columns[name] = column
    return columns


def read_points(path: str | Path, columns: dict[str, str] | None = None, where: str | None = None) -> Points:
    """Read and check the points of a CSV file (see ``read_rows``); ``where`` are rows to keep (see ``Points.match``).

    ``columns`` are the file's names of N, D, loss and flops where they differ; N is also read from
    n_params_non_embedding, D from tokens. Without a column for D, D = flops / 6N. Raises InputError where a file,
    column or value is missing, not a positive number, or the rows are annealed and un-annealed points mixed.
    """
    rows, header = read_rows(path)
    mapping = _map_columns(path, header, columns or {})
    unread = np.empty(len(rows))
    points = Points(
        N=unread,
        D=unread,
        loss=unread,
        flops=None,
        rows=rows,
        row_numbers=np.arange(1, len(rows) + 1),
        file=Path(path).name,
        sha256=sha256(path),
        n_read=len(rows),
        columns=mapping,
        where=where,
    )
    if where:
        points = points.select(points.match(where))
        if not len(points):
            raise InputError(f"{path}: no row of {len(rows)} meets where {where!r}")
    values = {name: _positive(points, column) for name, column in mapping.items()}
    if "D" not in mapping:
        values["D"] = values["flops"] / (6 * values["N"])
    points = replace(points, **values)
    return replace(points, warnings=_warnings(points))


def _map_columns(path: str | Path, header: list[str], columns: dict[str, str]) -> dict[str, str]:
    """Return the file's column of N, D, loss and flops; without D or flops where it has none."""
    mapping = {}
    for name in NAMES:
        usual = DEFAULTS.get(name, (name,))
        mapping[name] = columns.get(name) or next((c for c in usual if c in header), name)
    if "D" not in columns and mapping["D"] not in header and mapping["flops"] in header:
        del mapping["D"]
    elif "flops" not in columns and mapping["flops"] not in header:
        del mapping["flops"]
    for name, column in mapping.items():
        if column not in header:
            known = f"{nearest(column, header)} (it has {', '.join(header)})"
            raise InputError(f"{path}: no column {column!r}{known}; name it with columns, as {name}=COLUMN")
    return mapping


def read_rows(path: str | Path) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows of a CSV file by column, as text, and its header.

    Cells are separated by commas, or else by semicolons or tabs. Empty rows and lines that begin with # are left out.
    Raises InputError where the file is absent or no CSV, or where a row has other fields than the header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise InputError(f"{path}: larger than {MOST_BYTES:,} bytes; this is another file than is meant")
            lines = [line for line in file if not line.startswith("#")]
        while lines and not lines[0].strip():
            lines.pop(0)
        mark = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
        reader = csv.DictReader(lines, delimiter=mark)
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        rows = [row for row in reader if None in row or any(cell and cell.strip() for cell in row.values())]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a CSV with columns N, D, loss") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; name a CSV in it, as points.csv of a study") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    if doubled := [name for name in header if name and header.count(name) > 1]:
        raise InputError(f"{path}: two columns are called {doubled[0]!r}; rename one")
    if not rows:
        raise InputError(f"{path}: no rows; give a CSV with a header and one run a row")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(
                f"{path}: row {number} does not have the header's {len(header)} fields, "
                f"{', '.join(header)[:60]!r}; give a CSV with columns N, D, loss"
            )
    return rows, list(header)


def _positive(points: Points, column: str) -> np.ndarray:
    values = points.numeric(column)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        more = f" (and {len(bad) - 1} more rows)" if len(bad) > 1 else ""
        raise InputError(
            f"{points.file}: row {points.row_numbers[bad[0]]}, column {column!r}: expected a positive number, found "
            f"{points.rows[bad[0]][column]!r}{more}; correct it or leave it out by a condition (where)"
        )
    return values


def _warnings(points: Points) -> list[str]:
    """Return what is odd about points in words; raise InputError where some are annealed and some not."""
    warnings = []
    cells = [row["annealed"].strip().lower() for row in points.rows] if points.has("annealed") else []
    for number, cell in zip(points.row_numbers, cells, strict=False):
        if cell not in TRUE + FALSE:
            raise InputError(f"{points.file}: row {number}, column 'annealed': expected true or false, found {cell!r}")
    annealed = np.array([cell in TRUE for cell in cells], dtype=bool)  # (n,), or (0,) where the file does not say
    if annealed.any() and not annealed.all():
        first = points.row_numbers[~annealed][0]
        raise InputError(
            f"{points.file}: {(~annealed).sum()} of {len(points)} runs are not annealed (row {first} is the first): "
            "their losses lie 1.3 to 2.8 % above those of annealed runs, so one fit cannot take both; keep one kind, "
            "as where annealed==true"
        )
    if "D" not in points.columns:
        warnings.append(f"The file has no D; D = {points.columns['flops']} / 6N.")
    for name, values in (("N", points.N), ("D", points.D)):
        if np.median(values) < SMALLEST:
            warnings.append(
                f"{name} has a median of {np.median(values):g}: counted in millions or billions? "
                "Write plain numbers, or compute and every advice about it are wrong."
            )
    if points.loss.max() > LARGEST_LOSS:
        warnings.append(
            f"The largest loss is {points.loss.max():g}: a perplexity, or a run that diverged? "
            "The law is of a loss in nats per token."
        )
    if cells and not annealed.any():
        warnings.append(
            "No run is annealed: losses from the middle of a schedule lie above those of "
            "finished runs by an amount that depends on D, which bends the fit."
        )
    seen: dict[tuple, int] = {}
    for number, *values in zip(points.row_numbers, points.N, points.D, points.loss, strict=True):
        first = seen.setdefault(tuple(values), number)
        if first != number:
            warnings.append(f"Rows {first} and {number} have equal N, D and loss: counted twice.")
    repeated = (points.numeric("epochs") > 4).sum() if points.has("epochs") else 0
    if repeated:
        warnings.append(
            f"{repeated} of {len(points)} runs repeat their data more than 4 times: repeated "
            "tokens are worth less than fresh ones, which this law does not know."
        )
    return warnings
