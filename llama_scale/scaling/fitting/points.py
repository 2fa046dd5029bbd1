"""The points that a law is fitted to: one run a row of a CSV file, read and checked."""

import csv
import hashlib
import io
import math
import os
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.errors import InputError, nearest
from llama_scale.files import MOST_BYTES, open_file
from llama_scale.scaling.fitting.checks import (
    RATIO,
    SETTINGS,
    TRUE,
    check_shares,
    check_trunks,
    check_units,
    unread_warnings,
    warnings_of,
)  # fmt: skip
from llama_scale.scaling.fitting.residuals import equal_runs

NAMES = ("N", "D", "loss", "flops")
# The columns of non-embedding parameters, and those of N and D where none is named.
NON_EMBEDDING = ("N", "n_params_non_embedding")
DEFAULTS = {"N": NON_EMBEDDING, "D": ("D", "tokens")}
CONDITION = re.compile(r"^\s*(.+?)\s*(<=|>=|==|!=|<|>)\s*(.*?)\s*$")
COMPARE = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq, "!=": ne}
NO_COLUMN = "none"
EMPTY = "", "nan", "none", "null"
WRITTEN = re.compile(r"[-+]?[\d.,_'\s]*\d[\d.,_'\s]*[kKmMbBgGtT]?")  # a number as people write it: 70,000,000 or 1.4B


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

    @cached_property
    def trunks(self) -> np.ndarray:
        """Which trunk each run branches from (n,), numbered from 0: the column ``trunk``, a run without one its own."""
        names = [
            f"row {number}" if is_empty(row.get("trunk", "")) else row["trunk"].strip()
            for row, number in zip(self.rows, self.row_numbers, strict=True)
        ]
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for name in names])

    @cached_property
    def settings(self) -> np.ndarray:
        """Which settings each run was trained with (n,), numbered from 0, by those of the columns ``SETTINGS``."""
        return self.numbered([name for name in SETTINGS if self.has(name)])

    @property
    def copies(self) -> np.ndarray:
        """Which runs (n,) repeat an earlier row: equal N, D, loss, settings and seed, where there is such a column."""
        same = (self.N, self.D, self.loss, self.settings, self.numbered(["seed"] if self.has("seed") else []))
        copies = np.zeros(len(self), dtype=bool)
        for group in equal_runs(*same):
            copies[group[1:]] = True
        return copies

    def numbered(self, columns: list[str]) -> np.ndarray:
        """Return a number for the cells of some columns (n,), equal where they are: 1 and 1.0 are."""
        numbers: dict[tuple[str | float, ...], int] = {}
        return np.array([numbers.setdefault(tuple(_plain(row[c]) for c in columns), len(numbers)) for row in self.rows])

    @property
    def shares_trunks(self) -> bool:
        """Whether some runs are branches of one trunk, so that their losses err together."""
        return bool(self.trunks.max() + 1 < len(self))

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
        return not all(is_empty(row.get(column, "")) for row in self.rows)

    def numeric(self, column: str) -> np.ndarray:
        """Return a column as float64 (n,); NaN where empty, InputError where not a number."""
        values = np.full(len(self.rows), math.nan)
        for i, cell in enumerate(row[column].strip() for row in self.rows):
            if is_empty(cell):
                continue
            try:
                values[i] = float(cell)
            except ValueError:
                where = f"{self.file}: row {self.row_numbers[i]}, column {column!r}"
                found = f"expected a number, found {self.rows[i][column]!r}"
                hint = "; write it in full with a decimal point, as 70000000 or 3.5" if WRITTEN.fullmatch(cell) else ""
                raise InputError(f"{where}: {found}{hint}") from None
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
            if name == RATIO and column not in self.rows[0]:
                mask &= COMPARE[sign](self._tokens_per_parameter(), value)
                continue
            if column not in self.rows[0]:
                known = [*self.columns, *self.rows[0], RATIO]
                raise InputError(f"condition {part!r}: {self.file} has no column {column!r}{nearest(column, known)}")
            text = np.array([row[column].strip().lower() for row in self.rows])
            if value in ("true", "false"):
                mask &= COMPARE[sign](np.isin(text, TRUE), value == "true")
            else:
                mask &= COMPARE[sign](self.numeric(column) if isinstance(value, float) else text, value)
        return mask

    def _tokens_per_parameter(self) -> np.ndarray:
        """Return D / N (n,) by the file's cells, which a condition may ask of before they are checked."""
        N = self.numeric(self.columns["N"])
        with np.errstate(divide="ignore", invalid="ignore"):
            return (
                self.numeric(self.columns["D"]) if "D" in self.columns else self.numeric(self.columns["flops"]) / 6 / N
            ) / N


def _plain(cell: str) -> str | float:
    """Return a cell as a number, or else as text in small letters."""
    try:
        return float(cell)
    except ValueError:
        return cell.strip().lower()


def is_empty(cell: str) -> bool:
    """Return whether a cell says that there is nothing, as "", nan or None."""
    return cell.strip().lower() in EMPTY


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


def read_points(
    path: str | Path, columns: dict[str, str] | None = None, where: str | None = None, diverged: bool = False
) -> Points:
    """Read and check the points of a CSV file (see ``read_rows``); ``where`` are rows to keep (see ``Points.match``).

    With ``diverged`` a loss of nan or inf is that of a run that diverged, and infinite; else it is refused.

    ``columns`` are the file's names of N, D, loss and flops where they differ; N is also read from
    n_params_non_embedding, D from tokens; ``flops`` may be none, for 6ND. Without a column for D, D = flops / 6N.

    Raises InputError where a file, column or value is missing, not a positive number, in another unit (tokens per
    parameter and FLOPs over 6ND tell) or a share above 1, or the rows are annealed and un-annealed points mixed.
    """
    content = _content(path)
    rows, header = read_rows(path, content)
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
        sha256=hashlib.sha256(content).hexdigest(),
        n_read=len(rows),
        columns=mapping,
        where=where,
    )
    if where:
        points = points.select(points.match(where))
        if not len(points):
            raise InputError(f"{path}: no row of {len(rows)} meets where {where!r}")
    values = {name: _positive(points, column, diverged and name == "loss") for name, column in mapping.items()}
    if "D" not in mapping:
        values["D"] = values["flops"] / (6 * values["N"])
    points = replace(points, **values)
    check_units(points)
    check_shares(points)
    check_trunks(points)
    left_aside = (columns or {}).get("flops") == NO_COLUMN
    known = points.select(np.isfinite(points.loss)) if np.isfinite(points.loss).any() else points
    return replace(points, warnings=[*unread_warnings(points, left_aside), *warnings_of(known)])


def _map_columns(path: str | Path, header: list[str], columns: dict[str, str]) -> dict[str, str]:
    """Return the file's column of N, D, loss and flops; without D or flops where it has none."""
    mapping = {}
    for name in NAMES:
        usual = DEFAULTS.get(name, (name,))
        mapping[name] = columns.get(name) or next((c for c in usual if c in header), name)
    if "D" not in columns and mapping["D"] not in header and mapping["flops"] in header:
        del mapping["D"]
    elif mapping["flops"] not in header and columns.get("flops", NO_COLUMN) == NO_COLUMN:
        del mapping["flops"]
    for name, column in mapping.items():
        if other := next((known for known in mapping if known != name and mapping[known] == column), None):
            raise InputError(f"columns: {name} and {other} are both {column!r}; name a column for each")
        if column not in header:
            known = f"{nearest(column, header)} (it has {', '.join(header)})"
            raise InputError(f"{path}: no column {column!r}{known}; name it with columns, as {name}=COLUMN")
    return mapping


def _content(path: str | Path) -> bytes:
    """Return the bytes of a CSV file, which may be a pipe that the shell hands over: it is read once."""
    try:
        with open_file(path, pipes=True) as file:
            large = os.fstat(file.fileno()).st_size > MOST_BYTES
            content = b"" if large else file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a CSV with columns N, D, loss") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; name a CSV in it, as points.csv of a study") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    if large or len(content) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES:,} bytes; this is another file than is meant")
    return content


def read_rows(path: str | Path, content: bytes | None = None) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows of a CSV file by column, as text, and its header; ``content`` has its bytes if they were read.

    Cells are separated by commas, or else by semicolons or tabs. Empty rows and lines that begin with # are left out.
    Raises InputError where the file is absent or no CSV, or where a row has other fields than the header.
    """
    try:
        content = _content(path) if content is None else content
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
        lines = [line for line in text if not line.startswith("#")]
        while lines and not lines[0].strip():
            lines.pop(0)
        mark = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
        reader = csv.DictReader(lines, delimiter=mark, strict=True)
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        rows = [row for row in reader if None in row or any(cell and cell.strip() for cell in row.values())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
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


def _positive(points: Points, column: str, or_infinite: bool = False) -> np.ndarray:
    """Return a column of positive numbers (n,); with ``or_infinite`` nan and inf, not empty cells, are infinite."""
    values = points.numeric(column)
    if or_infinite:
        lost = [row[column].strip().lower().lstrip("+") in ("nan", "inf", "infinity") for row in points.rows]
        values = np.where(lost, np.inf, values)
    bad = np.flatnonzero(~((np.isfinite(values) | or_infinite) & (values > 0)))
    if len(bad):
        more = f" (and {len(bad) - 1} more rows)" if len(bad) > 1 else ""
        raise InputError(
            f"{points.file}: row {points.row_numbers[bad[0]]}, column {column!r}: expected a positive number, found "
            f"{points.rows[bad[0]][column]!r}{more}; correct it or leave it out by a condition (where)"
        )
    return values
