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
from llama_scale.scaling.fitting.residuals import equal_runs

NAMES = ("N", "D", "loss", "flops")
# The columns of non-embedding parameters, and those of N and D where none is named.
NON_EMBEDDING = ("N", "n_params_non_embedding")
DEFAULTS = {"N": NON_EMBEDDING, "D": ("D", "tokens")}
# A model or a data set smaller than this, or a loss above it, is a matter of units.
SMALLEST, LARGEST_LOSS = 1_000, 20.0
# Tokens per parameter of any run and of the middle one, and FLOPs over 6ND: within the first pair a study is plausible,
# beyond the second no unit can be plain.
LIKELY_RATIO, POSSIBLE_RATIO = (0.5, 5_000.0), (3e-3, 1e6)
LIKELY_FLOPS, POSSIBLE_FLOPS = (0.2, 5.0), (0.02, 50.0)
# Columns of shares between 0 and 1: pass@k and rates, their intervals and variants (not the counts behind them).
SHARE = re.compile(
    r"(?:.*[_ ])?(?:pass(?:_at_|@)[0-9]+(?!.*_(?:n|count|tasks|total|samples)$).*"
    r"|(?:parse|pass|solve|success|syntax|compile|repair|load|ended|win|error|failure|hit|degenerate|resolve)_rate"
    r"(?:_of_ended)?(?:_low|_high)?|acc(?:uracy)?(?:_norm)?|exact_match|em|f1)",
    re.IGNORECASE,
)
SAME_LOSS = 0.05  # relative difference between losses of equal N and D beyond which they are named
FEW_TOKENS, FEW_STEPS, FEW_NAMED = 20, 500, 4
RATIO = "tokens_per_parameter"  # a condition's name for D / N, which no file needs to have
SCHEDULES = ("cosine", "constant", "cooldown")  # those of launch/train.py
CONDITION = re.compile(r"^\s*(.+?)\s*(<=|>=|==|!=|<|>)\s*(.*?)\s*$")
COMPARE = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq, "!=": ne}
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
NO_COLUMN = "none"
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

    @cached_property
    def trunks(self) -> np.ndarray:
        """Which trunk each run branches from (n,), numbered from 0: the column ``trunk``, a run without one its own."""
        names = [
            row.get("trunk", "").strip() or f"row {number}"
            for row, number in zip(self.rows, self.row_numbers, strict=True)
        ]
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for name in names])

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
    values = {name: _positive(points, column) for name, column in mapping.items()}
    if "D" not in mapping:
        values["D"] = values["flops"] / (6 * values["N"])
    points = replace(points, **values)
    _check_units(points)
    _check_shares(points)
    return replace(points, warnings=_warnings(points))


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


def implausible_units(N: np.ndarray, D: np.ndarray, flops: np.ndarray | None) -> tuple[int, str] | None:
    """Return the first run (n,) whose units cannot be plain, and why; None where all are possible.

    Tokens per parameter tell of N and D in thousands, millions or billions, and FLOPs over 6ND of FLOPs in others.
    """
    ratio = D / N
    least, most = POSSIBLE_RATIO
    for bad, what in ((ratio < least, "D counted"), (ratio > most, "N counted")):
        if bad.any():
            i = int(bad.argmax())
            where = f"N = {N[i]:g}, D = {D[i]:g}: {ratio[i]:.2g} tokens per parameter"
            return i, f"{where}; is {what} in thousands, millions or billions? Write plain numbers"
    if flops is not None:
        excess = flops / (6 * N * D)
        least, most = POSSIBLE_FLOPS
        middle = float(np.median(excess))
        bad = (excess < least) | (excess > most)
        if bad.any():
            i = int(bad.argmax())
            return i, f"{flops[i]:.3g} FLOPs are {excess[i]:.2g} times 6ND = {6 * N[i] * D[i]:.3g}; write plain FLOPs"
        if not LIKELY_FLOPS[0] <= middle <= LIKELY_FLOPS[1]:
            i = int(np.abs(np.log(excess / middle)).argmin())
            return i, (
                f"{flops[i]:.3g} FLOPs are {excess[i]:.2g} times 6ND = {6 * N[i] * D[i]:.3g}, as in the other rows; "
                "are they in another unit, or of one device? Write plain FLOPs of the whole training"
            )
    return None


def small_counts(N: np.ndarray, D: np.ndarray) -> list[str]:
    """Return a question about each of N and D (n,) that is too small for a model or its data, counted plainly."""
    return [
        f"{name} has a median of {np.median(values):g}: counted in millions or billions?"
        for name, values in (("N", N), ("D", D))
        if np.median(values) < SMALLEST
    ]


def _check_units(points: Points) -> None:
    """Raise InputError naming the first row whose N, D or FLOPs cannot be plain numbers."""
    # FLOPs are set against the largest count of parameters that the file has: the head of a small model can cost
    # several times its blocks.
    N = points.N
    for column in ("n_params", "n_params_matmul"):
        if points.has(column):
            counted = points.numeric(column)
            N = np.where(np.isfinite(counted), np.maximum(N, counted), N)
    for size, flops in ((points.N, None), (N, points.flops)):
        if found := implausible_units(size, points.D, flops):
            row, why = points.row_numbers[found[0]], found[1]
            hint = ""
            if flops is not None:
                hint = f" (or leave column {points.columns['flops']!r} out by columns, as flops={NO_COLUMN})"
            raise InputError(f"{points.file}: row {row}: {why}{hint}")


def _check_shares(points: Points) -> None:
    """Raise InputError naming the first share, as of pass@k, that is not between 0 and 1."""
    for column in filter(SHARE.fullmatch, points.rows[0]):
        for number, row in zip(points.row_numbers, points.rows, strict=True):
            try:
                value = float(row[column])
            except ValueError:
                continue
            if not math.isnan(value) and not 0 <= value <= 1:
                raise InputError(
                    f"{points.file}: row {number}, column {column!r}: expected a share between 0 and 1, found "
                    f"{row[column].strip()!r}; is it in percent? Divide the column by 100"
                )


def _warnings(points: Points) -> list[str]:
    """Return what is odd about points in words; raise InputError where some are annealed and some not."""
    warnings = _unit_warnings(points)
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
    if cells and not annealed.any():
        warnings.append(
            "No run is annealed: losses from the middle of a schedule lie above those of "
            "finished runs by an amount that depends on D, which bends the fit."
        )
    warnings += [*_equal_warnings(points), *_short_warnings(points)]
    repeated = (points.numeric("epochs") > 4).sum() if points.has("epochs") else 0
    if repeated:
        warnings.append(
            f"{repeated} of {len(points)} runs repeat their data more than 4 times: repeated "
            "tokens are worth less than fresh ones, which this law does not know."
        )
    named = {row["schedule"].strip() for row in points.rows} - {""} if points.has("schedule") else set()
    if other := sorted(named - set(SCHEDULES)):
        warnings.append(
            f"Runs were trained by the schedule {', '.join(map(repr, other))}, which launch/train.py cannot take "
            f"(it has {', '.join(SCHEDULES)}): the losses that it reaches may lie beside this law."
        )
    return warnings


def _unit_warnings(points: Points) -> list[str]:
    """Return what is odd about the units of points, in words."""
    warnings = []
    if "D" not in points.columns:
        warnings.append(f"The file has no D; D = {points.columns['flops']} / 6N.")
    small = small_counts(points.N, points.D)
    for text in small:
        warnings.append(f"{text} Write plain numbers, or compute and every advice about it are wrong.")
    middle = float(np.median(points.D / points.N))
    if not small and not LIKELY_RATIO[0] <= middle <= LIKELY_RATIO[1]:
        warnings.append(
            f"The middle run has {middle:.2g} tokens per parameter, where language models have 1 to 1,000: are N and D "
            "both plain numbers? Otherwise every advice about sizes is wrong."
        )
    if points.loss.max() > LARGEST_LOSS:
        warnings.append(
            f"The largest loss is {points.loss.max():g}: a perplexity, or a run that diverged? "
            "The law is of a loss in nats per token."
        )
    return warnings


def _equal_warnings(points: Points) -> list[str]:
    """Return a line for rows of equal N, D and loss, and one for those of equal N and D with different losses."""
    warnings, numbers = [], points.row_numbers
    copies = equal_runs(points.N, points.D, points.loss)
    if copies:
        first, second = numbers[copies[0][:2]]
        count = sum(len(group) - 1 for group in copies)
        if count == 1:
            warnings.append(f"Rows {first} and {second} have equal N, D and loss: counted twice.")
        else:
            warnings.append(
                f"{count} rows have the N, D and loss of another, as rows {first} and {second}: each is counted again."
            )
    apart = []
    for group in equal_runs(points.N, points.D):
        low, high = points.loss[group].min(), points.loss[group].max()
        if high > (1 + SAME_LOSS) * low:
            apart.append((high / low - 1, group[points.loss[group].argmin()], group[points.loss[group].argmax()]))
    if apart:
        most, low, high = max(apart)
        others = f" ({len(apart) - 1} more such groups)" if len(apart) > 1 else ""
        warnings.append(
            f"Rows {numbers[low]} and {numbers[high]} have equal N and D, but losses {100 * most:.2g} % apart, "
            f"{points.loss[low]:g} and {points.loss[high]:g}{others}: other settings, or a run that diverged?"
        )
    return warnings


def _short_warnings(points: Points) -> list[str]:
    """Return a line that names the runs of too few tokens a parameter or too few steps, and how to leave them out."""
    steps = points.numeric("steps") if points.has("steps") else np.full(len(points), np.inf)
    kinds = (
        (points.D / points.N < FEW_TOKENS, f"under {FEW_TOKENS} tokens a parameter", f"{RATIO}>={FEW_TOKENS}"),
        (steps < FEW_STEPS, f"under {FEW_STEPS} steps", f"steps>={FEW_STEPS}"),
    )
    parts, conditions = [], []
    for few, what, condition in kinds:
        if few.any():
            names = [points.label(int(i)) for i in np.flatnonzero(few)]
            more = f" and {len(names) - FEW_NAMED} more" if len(names) > FEW_NAMED else ""
            parts.append(f"{len(names)} of {len(points)} runs have {what} ({', '.join(names[:FEW_NAMED])}{more})")
            conditions.append(condition)
    if not parts:
        return []
    return [
        f"{'; '.join(parts)}: so early a run may not follow the law of the others. Leave them out by the condition "
        f"(where) {','.join(conditions)} to see whether that changes it."
    ]
