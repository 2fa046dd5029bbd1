"""What is odd about points: units that cannot be, shares above 1, runs that are not alike, in words or as an error."""

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.residuals import SAME_COUNT, equal_runs, near_values

if TYPE_CHECKING:
    from llama_scale.scaling.fitting.points import Points

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
OTHER_COUNTS = {
    1 / 3: "2ND, as of the forward pass alone",
    1 / 2: "3ND, as where a multiplication and an addition count as one",
    4 / 3: "8ND, as where activations are computed again",
}
SAME_LOSS = 0.05  # relative difference between losses of equal N and D beyond which they are named
CLEAR = 3.0  # standard errors of a slope
MOST_EPOCHS = 4
FEW_TOKENS, FEW_STEPS, FEW_NAMED = 20, 500, 4
SCHEDULES = ("cosine", "constant", "cooldown")  # those of launch/train.py
# Columns of what a run was trained with beside N and D: runs that differ in one are no repetition of each other.
SETTINGS = "epochs", "lr", "batch_tokens", "batch_size", "steps", "schedule", "weight_decay", "optimizer", "dataset"
RATIO = "tokens_per_parameter"  # a condition's name for D / N, which no file needs to have
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
# Columns that are read where a file has them beside N, D, loss and flops, and other names of the latter two.
READ = (
    "n_params", "n_params_matmul", "n_params_non_embedding", "flops_full", "run", "size", "seed", "trunk", "annealed",
    "bits_per_byte", *SETTINGS,
)  # fmt: skip
COMPUTE = "flops", "flop", "compute", "c", "training_flops", "train_flops", "total_flops", "training_compute"
TOKENS = "d", "tokens", "n_tokens", "training_tokens", "train_tokens", "tokens_seen"


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


def check_units(points: "Points") -> None:
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
            hint = "" if "D" in points.columns else f" (D is {points.columns['flops']} / 6N: are those plain FLOPs?)"
            if flops is not None:
                hint = f" (or leave column {points.columns['flops']!r} out by columns, as flops=none)"
            raise InputError(f"{points.file}: row {row}: {why}{hint}")


def check_trunks(points: "Points") -> None:
    """Raise InputError naming the first trunk that has runs of several sizes: a trunk is one model's run."""
    for trunk in range(int(points.trunks.max()) + 1):
        runs = np.flatnonzero(points.trunks == trunk)
        sizes = near_values(points.N[runs], SAME_COUNT)
        if len(sizes) > 1:
            first, other = (points.row_numbers[runs[group[0]]] for group in sizes[:2])
            raise InputError(
                f"{points.file}: rows {first} and {other}, column 'trunk': {points.rows[runs[0]]['trunk']!r} has runs "
                f"of {len(sizes)} sizes, but a trunk is the run of one model, whose branches err together; name them "
                "apart, or the column otherwise"
            )


def check_shares(points: "Points") -> None:
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


def warnings_of(points: "Points") -> list[str]:
    """Return what is odd about points in words; raise InputError where some are annealed and some not."""
    warnings = unit_warnings(points)
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
    warnings += [*_rising_warnings(points), *_equal_warnings(points), *_short_warnings(points)]
    warnings += _repeat_warnings(points)
    named = {row["schedule"].strip() for row in points.rows} - {""} if points.has("schedule") else set()
    if other := sorted(named - set(SCHEDULES)):
        warnings.append(
            f"Runs were trained by the schedule {', '.join(map(repr, other))}, which launch/train.py cannot take "
            f"(it has {', '.join(SCHEDULES)}): the losses that it reaches may lie beside this law."
        )
    return warnings


def _repeat_warnings(points: "Points") -> list[str]:
    """Return what is to be known of runs that repeat their data, in words."""
    if not points.has("epochs"):
        return []
    warnings, epochs = [], points.numeric("epochs")
    if repeated := int((epochs > MOST_EPOCHS).sum()):
        warnings.append(
            f"{repeated} of {len(points)} runs repeat their data more than {MOST_EPOCHS} times: repeated "
            "tokens are worth less than fresh ones, which this law does not know."
        )
    unknown = int(np.isnan(epochs).sum())
    if unknown and np.nanmax(epochs) > 1:
        warnings.append(
            f"Column 'epochs' is empty in {unknown} of {len(points)} rows, so what repeated tokens are worth is not "
            "fitted: write 1 where none are repeated."
        )
    return warnings


def _rising_warnings(points: "Points") -> list[str]:
    """Return a line where the loss clearly rises with both N and D, as an accuracy does."""
    columns = [np.ones(len(points)), np.log(points.N), np.log(points.D)]
    design, free = np.stack(columns, 1), len(points) - 3
    if free < 1 or np.linalg.matrix_rank(design) < 3:
        return []
    slopes, rest, *_ = np.linalg.lstsq(design, np.log(points.loss), rcond=None)
    error = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * rest[0] / free)
    if not (slopes[1:] > CLEAR * error[1:]).all():
        return []
    return [
        f"Column {points.columns['loss']!r} rises with N and with D: is it a score, where more is better? The law is "
        "of a loss, which falls."
    ]


def unread_warnings(points: "Points", flops_left_aside: bool) -> list[str]:
    """Return a line for each column that is not read and looks as if it should be: FLOPs, Epochs."""
    header, mapping, warnings = list(points.rows[0]), points.columns, []
    for column in (name for name in header if name not in mapping.values() and name not in READ and points.has(name)):
        plain = re.sub(r"[\s-]+", "_", column.lower())
        if plain in COMPUTE:
            if "flops" in mapping or flops_left_aside:
                continue
            warnings.append(
                f"Column {column!r} is not read, and compute is taken to be 6ND: if it has FLOPs, name it with "
                f"columns, as flops={column}."
            )
        elif "D" not in mapping and plain in TOKENS:
            warnings.append(f"Column {column!r} is not read: if it has tokens, name it with columns, as D={column}.")
        elif plain in READ and plain not in header:
            warnings.append(f"Column {column!r} is not read: it is read under the name {plain!r}; rename it.")
    return warnings


def unit_warnings(points: "Points") -> list[str]:
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
    if points.flops is not None:
        share = points.flops / (6 * points.N * points.D)
        for of_6nd, what in OTHER_COUNTS.items():
            if np.abs(share / of_6nd - 1).max() < SAME_COUNT:
                warnings.append(
                    f"FLOPs are {of_6nd:.2g} times 6ND in every run, {what}: budgets and hours that follow are counted "
                    "so, too."
                )
    largest = points.loss.max(initial=0, where=np.isfinite(points.loss))
    if largest > LARGEST_LOSS:
        warnings.append(
            f"The largest loss is {largest:g}: a perplexity, or a run that diverged? "
            "The law is of a loss in nats per token."
        )
    return warnings


def _equal_warnings(points: "Points") -> list[str]:
    """Return a line for rows of equal N, D and loss, and one for those of equal N and D with different losses."""
    warnings, numbers = [], points.row_numbers
    copies = equal_runs(points.N, points.D, points.loss, points.numbered(["seed"] if points.has("seed") else []))
    if copies:
        first, second = numbers[copies[0][:2]]
        count = sum(len(group) - 1 for group in copies)
        if count == 1:
            warnings.append(f"Rows {first} and {second} have equal N, D and loss: counted twice.")
        else:
            warnings.append(
                f"{count} rows have the N, D and loss of another, as rows {first} and {second}: each is counted again."
            )
    groups = equal_runs(points.N, points.D, points.settings)
    spread = [float(points.loss[group].max() / points.loss[group].min() - 1) for group in groups]
    if apart := sum(share > SAME_LOSS for share in spread):
        most = int(np.argmax(spread))
        low, high = (groups[most][find(points.loss[groups[most]])] for find in (np.argmin, np.argmax))
        others = f" ({apart - 1} more such groups)" if apart > 1 else ""
        warnings.append(
            f"Rows {numbers[low]} and {numbers[high]} have equal N and D, but losses {100 * spread[most]:.2g} % apart, "
            f"{points.loss[low]:g} and {points.loss[high]:g}{others}: other settings, or a run that diverged?"
        )
    return warnings + _settings_warnings(points)


def _settings_warnings(points: "Points") -> list[str]:
    """Return a line that says in which settings runs of equal N and D differ, but for epochs: R is fitted to those."""
    named = [name for name in SETTINGS if name != "epochs" and points.has(name)]
    epochs = points.numbered(["epochs"] if points.has("epochs") else [])
    mixed = [g for g in equal_runs(points.N, points.D, epochs) if len(set(points.numbered(named)[g])) > 1]
    if not mixed:
        return []
    unequal = [name for name in named if any(len(set(points.numbered([name])[g])) > 1 for g in mixed)]
    others = f" ({len(mixed) - 1} more such groups)" if len(mixed) > 1 else ""
    return [
        f"Rows {points.row_numbers[mixed[0][0]]} and {points.row_numbers[mixed[0][-1]]} have equal N and D but differ "
        f"in {' and '.join(unequal)}{others}: the law runs between such runs; keep the best of each to fit what "
        "training reaches."
    ]


def _short_warnings(points: "Points") -> list[str]:
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
