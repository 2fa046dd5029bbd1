"""What a fit says about a study, and laws.json, the file that holds it.

``FittedLaws`` is the schema of that file. Two kinds of names stand in it: what is known of a run
has words (``model_size``, ``tokens``, ``flops``, ``loss``), what a formula says has its symbols
(the parameters E, A, alpha, B, beta; N, D and C where they are the optimum of the law).
``model_size`` is N as the law counts it, which ``conventions.model_size`` says: without embeddings
in a study of this project, whatever a column counts in points of others.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.bootstrap import percentile_interval
from llama_scale.errors import InputError, positive
from llama_scale.files import read_json, write_json
from llama_scale.records import from_json, to_json
from llama_scale.scaling.fitting.chinchilla import Flops, Numbers, Surface
from llama_scale.scaling.fitting.fit import OUTSIDE, predict
from llama_scale.scaling.fitting.forms import ADDITIVE, FORMS
from llama_scale.scaling.fitting.residuals import Noise

FORMAT = "llama_scale.laws.v2"
READABLE = (FORMAT, "llama_scale.laws.v1")
DIGITS = 10
TRUNKS = "trunks (a size and seed) with all their branches"  # what a bootstrap draws where runs share trunks
# In the file, these stand together under "laws".
GROUPED = ("surface", "power", "repeats")


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95 % interval; ``low`` is None where nothing bounds it."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: Numbers, sample: Numbers) -> "Estimate":
        """Return a value with the percentile interval of its resamples (S,)."""
        low, high = percentile_interval(sample)
        return cls(float(value), float(low), float(high))


@dataclass(frozen=True)
class RunEstimate(Estimate):
    """A loss with two intervals: of the law, and (``run_low``, ``run_high``) of one run there."""

    run_low: float
    run_high: float


@dataclass(frozen=True)
class Bounds:
    """The ends of a profile interval; None where the points give none."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class ProfiledEstimate(Estimate):
    """A parameter with its bootstrap interval and its profile interval."""

    profile: Bounds


@dataclass(frozen=True)
class ReachedEstimate:
    """Where a level is passed; None is not reached, and ends named in ``at_most`` are bounds."""

    value: float | None
    low: float | None
    high: float | None
    at_most: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """A value at each compute of a frontier (n,), with the ends of its interval (n,)."""

    value: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, value: np.ndarray, sample: np.ndarray) -> "Curve":
        """Return values (n,) with the percentile intervals of their resamples (S, n)."""
        low, high = percentile_interval(sample)
        return cls(value.tolist(), low.tolist(), high.tolist())


@dataclass(frozen=True)
class PointsFile:
    """The file that the law was fitted to, and what was taken from it."""

    file: str
    sha256: str
    rows: int
    fitted: int
    columns: dict[str, str]
    where: str | None


@dataclass(frozen=True)
class Conventions:
    """What the size of a model, its tokens, its loss and its FLOPs mean in these points."""

    model_size: str = field(metadata={"old": "N"})
    tokens: str = field(metadata={"old": "D"})
    loss: str
    flops: str = field(metadata={"old": "compute"})

    def by_symbol(self) -> dict[str, str]:
        """Return the meanings under the symbols of the formula, as the report shows them."""
        return {"N": self.model_size, "D": self.tokens, "loss": self.loss, "compute": self.flops}


@dataclass(frozen=True)
class Objective:
    """What was minimized, and its least value."""

    kind: str
    value: float


@dataclass(frozen=True)
class SecondOptimizer:
    """What another optimizer found: its objective, relative to the least, and its parameters."""

    kind: str
    objective: float
    relative_excess: float
    parameters: dict[str, float]


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals were made."""

    kind: str
    resamples: int
    seed: int
    level: int


@dataclass(frozen=True)
class Residuals:
    """Measured over fitted loss, in percent."""

    rms: float
    median_absolute: float
    largest: float


@dataclass(frozen=True)
class FittedSurface:
    """The law by its formula: parameters, resamples and how it was found.

    ``limits`` has the exponents where size alone or data alone limits, k alpha and k beta of a joint form.
    """

    formula: str
    parameters: dict[str, ProfiledEstimate]
    sample: dict[str, list[float]]
    objective: Objective
    starts: int
    share_of_starts_at_optimum: float
    second_optimizer: SecondOptimizer = field(metadata={"old": "second_optimiser"})
    bootstrap: Bootstrap
    residual_percent: Residuals
    form: str = ADDITIVE.name
    limits: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class FormResult:
    """A form of the law: its fit to all runs, and how it predicted runs that it had not seen.

    ``validation_error_percent`` is what the choice rests on, ``holdout_error_percent`` what it led to: both are rms of
    log loss. ``reason`` says why there is none.
    """

    form: str
    formula: str
    parameters: dict[str, float] | None = None
    objective: float | None = None
    residual_rms_percent: float | None = None
    validation_error_percent: float | None = None
    holdout_error_percent: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class FormChoice:
    """Which form of the law was taken, by a rule that does not see the runs held out."""

    rule: str
    chosen: str
    validation_runs: list[str]
    results: list[FormResult]


@dataclass(frozen=True)
class PowerLaw:
    """Loss as a power of one quantity, ``x`` (N, D or C): L = (scale / x)^alpha."""

    x: str
    runs: int
    alpha: Estimate
    scale: float | None
    r2: float


@dataclass(frozen=True)
class RepeatedTokens:
    """What repeated tokens are worth: R, its profile and bootstrap intervals and the surface beside it."""

    formula: str
    R: float
    low: float | None
    high: float | None
    identified: bool
    parameters: dict[str, float]
    objective: float
    bootstrap: Bounds | None = None


@dataclass(frozen=True)
class ConventionFit:
    """The surface and its optimum at compute C where N and compute are counted as named."""

    N: str
    compute: str
    alpha: Estimate
    beta: Estimate
    E: Estimate
    exponent: Estimate
    C: float
    optimal_N: Estimate | None  # None where the law determines no size, as optimal_D
    optimal_D: float | None
    optimal_D_interval: Bounds | None = None


@dataclass(frozen=True)
class ApproachExponent:
    """The exponents of N*(C) and D*(C) by one approach, from ``count`` runs or parabolas."""

    approach: str
    compute: str
    count: int = field(metadata={"old": "from"})
    exponent: Estimate | None = None
    exponent_D: Estimate | None = None


@dataclass(frozen=True)
class IsoflopParabola:
    """Runs of equal compute C and the parabola loss = c0 + c1 z + c2 z^2 in z = ln N - ln center."""

    C: float
    rows: list[int]  # of the file
    coefficients: list[float]
    center: float = field(metadata={"old": "centre"})
    N: float | None  # of the minimum, as D and loss
    D: float | None
    loss: float
    inside: bool  # whether the minimum is one and lies within the sizes tried
    compute: str = ""


@dataclass(frozen=True)
class Approaches:
    """The exponent of the optimal size by three approaches, and the parabolas of the second."""

    table: list[ApproachExponent]
    isoflop: list[IsoflopParabola]


@dataclass(frozen=True)
class ScoreLink:
    """A score as a line a + b x in loss under one link."""

    link: str
    formula: str
    a: float
    b: Estimate
    r2: float | None
    held_out_error_percent: float
    runs: int
    at_0_or_1: int


@dataclass(frozen=True)
class MeasuredRun:
    """The smallest run that reached a level, and the FLOPs of the cheapest."""

    run: str
    model_size: float = field(metadata={"old": "N"})
    tokens: float = field(metadata={"old": "D"})
    flops: float = field(metadata={"old": "C"})
    least_flops: float = field(metadata={"old": "least_compute"})


@dataclass(frozen=True)
class Threshold:
    """A level of a score: the run that reached it, where the law expects it or, without a link, the ``reason``."""

    score: str
    level: float
    measured: MeasuredRun | None
    link: str | None = None
    loss: float | None = None
    C: ReachedEstimate | None = None
    N: ReachedEstimate | None = None
    least_N: float | None = None
    beyond: float | None = None
    status: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class FlopsFormula:
    """FLOPs of a token, 6N (1 + c N^-g)^power."""

    c: float
    g: float
    power: int


@dataclass(frozen=True)
class FrontierPoint:
    """The compute-optimal model at C, ``factor`` times the compute of the largest run."""

    C: float
    N: Estimate
    D: Estimate
    loss: RunEstimate
    factor: int = 1


@dataclass(frozen=True)
class Frontier:
    """The compute-optimal N*(C), D*(C) and loss, for one way to count FLOPs."""

    convention: str
    determined: bool  # whether the runs show a best size
    flops_per_token: str
    flops: FlopsFormula
    largest_deviation: float
    exponent: Estimate  # of N*(C) around the largest run
    C: list[float]
    N: Curve
    D: Curve
    loss: Curve
    largest: FrontierPoint
    next: FrontierPoint
    undetermined: str | None = None  # why they show none; older files say only that they do not

    @property
    def reason(self) -> str:
        """Why no size is given, where none is determined."""
        return self.undetermined or OUTSIDE


@dataclass(frozen=True)
class RunSize:
    """A run and how large it is, its size as the law counts it."""

    run: str
    model_size: float = field(metadata={"old": "N"})
    tokens: float = field(metadata={"old": "D"})
    flops: float = field(metadata={"old": "compute"})


@dataclass(frozen=True)
class HeldOutRun(RunSize):
    """A run that was left out of the fit, and what the fit without it predicted."""

    measured: float
    predicted: float
    low: float
    high: float
    error_percent: float
    covered: bool


@dataclass(frozen=True)
class HoldOutSummary:
    """The runs left out and how they were predicted; ``covered`` counts those in their interval."""

    fitted_runs: int
    compute_factor: float
    interval: str
    parameters: dict[str, float]
    runs: list[HeldOutRun]
    median_absolute_error_percent: float
    covered: int


@dataclass(frozen=True)
class FittedRun:
    """A run of the fit, ``row`` of its file, with the law's loss and the residual."""

    run: str
    row: int
    model_size: float = field(metadata={"old": "N"})
    tokens: float = field(metadata={"old": "D"})
    flops: float = field(metadata={"old": "compute"})
    loss: float
    fitted: float
    residual_percent: float
    held_out: bool


@dataclass(frozen=True)
class FittedLaws:
    """The laws of a study, with all that a reader needs to judge and to use them; numbers as in the file."""

    points: PointsFile
    conventions: Conventions
    model: dict[str, Any]  # settings that all models of a study share
    surface: FittedSurface
    power: list[PowerLaw]
    repeats: RepeatedTokens | None
    side_by_side: list[ConventionFit]
    approaches: Approaches
    links: dict[str, list[ScoreLink]]  # from loss to each column of scores
    thresholds: list[Threshold]
    frontier: list[Frontier]  # for 6ND and, where the points count FLOPs otherwise, for that
    holdout: HoldOutSummary | None
    runs: list[FittedRun]
    warnings: list[str]
    forms: FormChoice | None = None  # None where the form was named, and in older files
    noise: Noise | None = None  # of runs of equal N, D and settings

    @classmethod
    def read(cls, path: str | Path) -> "FittedLaws":
        """Read laws.json, or that of a study's folder; raise InputError where it is none."""
        path = laws_path(path)
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}; run launch/scaling.py fit again") from None

    def write(self, path: str | Path) -> None:
        """Write laws.json; equal laws give equal bytes."""
        write_json(path, self.to_dict(), sealed=True)

    @classmethod
    def from_dict(cls, values: Any) -> "FittedLaws":
        """Return the laws that ``to_dict`` turned into JSON types; also those of older files."""
        if not isinstance(values, dict) or values.get("format") not in READABLE:
            raise InputError(f"not {FORMAT}")
        laws = values.get("laws")
        read = from_json(cls, {"model": {}} | values | (laws if isinstance(laws, dict) else {}))
        read._check_numbers()
        return read

    def _check_numbers(self) -> None:
        """Raise InputError naming the first value without which no loss can be told from the law."""
        names = FORMS.get(self.surface.form, ADDITIVE).parameters
        lengths = {name: len(self.surface.sample.get(name, [])) for name in names}
        if missing := [name for name in names if name not in self.surface.parameters or not lengths[name]]:
            raise InputError(f"surface: no parameter {missing[0]!r} or no resamples of it")
        if len(set(lengths.values())) > 1:
            raise InputError(f"surface.sample: parameters have different numbers of resamples, {lengths}")
        if not self.runs or not self.frontier:
            raise InputError(f"no {'frontier' if self.runs else 'runs'}")
        places = [(f"surface.parameters.{name}.value", [self.surface.parameters[name].value]) for name in names]
        places += [(f"surface.sample.{name}", self.surface.sample[name]) for name in names]
        sizes = ("model_size", "tokens", "flops", "loss")
        places += [(f"runs.{name}", [getattr(run, name) for run in self.runs]) for name in sizes]
        for place, numbers in places:
            for number in numbers:
                if number is None or not positive(number):
                    raise InputError(f"{place}: expected a positive number, found {number}")

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of laws.json."""
        values: dict[str, Any] = {"format": FORMAT}
        for name, value in to_json(self, DIGITS).items():
            place = values.setdefault("laws", {}) if name in GROUPED else values
            place[name] = value
        return values

    @property
    def best_frontier(self) -> Frontier:
        """The frontier by the points' own count of FLOPs, or by 6ND where they have none."""
        return self.frontier[-1]

    @cached_property
    def law(self) -> Surface:
        """The fitted law."""
        return Surface(**{"E": 0.0} | {name: p.value for name, p in self.surface.parameters.items()})

    @cached_property
    def resampled(self) -> Surface:
        """The laws (S,) of resampled runs that the file keeps."""
        sample = {name: np.array(values) for name, values in self.surface.sample.items()}
        return Surface(**{"E": np.zeros_like(sample["A"])} | sample)

    @cached_property
    def flops(self) -> Flops:
        """The FLOPs of a token as ``best_frontier`` counts them."""
        return Flops(self.best_frontier.convention, **vars(self.best_frontier.flops))

    @cached_property
    def fitted_flops(self) -> np.ndarray:
        """Training FLOPs (n,) of the runs as ``best_frontier`` counts them."""
        if self.flops.name == "6ND":
            return 6 * self.column("model_size") * self.column("tokens")
        return self.column("flops")

    def column(self, name: str) -> np.ndarray:
        """Return a field of the fitted runs, (n,): model_size, tokens, flops, loss, ..."""
        return np.array([getattr(run, name) for run in self.runs])

    def predict(self, N: float, D: float) -> RunEstimate:
        """Return the loss of one run of N parameters and D tokens (see ``fit.predict``)."""
        residual, seed = np.log1p(self.column("residual_percent") / 100), self.surface.bootstrap.seed
        size, tokens, parameters = np.array(N), np.array(D), len(self.surface.parameters)
        loss = predict(self.law, self.resampled, residual, seed, size, tokens, parameters=parameters)
        return RunEstimate(**{name: float(value[0]) for name, value in loss.items()})

    def bits_per_byte(self, loss: RunEstimate) -> RunEstimate | None:
        """Return bits per byte at a loss and its ends; None where the runs had none or they do not fall with it."""
        links = self.links.get("bits_per_byte")
        if not links or links[0].b.value <= 0:
            return None
        return RunEstimate(**{k: links[0].a + links[0].b.value * v for k, v in vars(loss).items()})


def laws_path(study: str | Path) -> Path:
    """Return the file of laws in a study's folder, or the path itself where it is no folder."""
    path = Path(study)
    return path / "laws.json" if path.is_dir() else path
