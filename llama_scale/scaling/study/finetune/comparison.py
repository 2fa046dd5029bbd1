"""What a fine-tuning study found, as comparison.json has it."""

from dataclasses import dataclass, field
from pathlib import Path

from llama_scale.errors import InputError, prefix_errors
from llama_scale.files import read_fields, write_json
from llama_scale.records import from_json, to_json
from llama_scale.scaling.study.finetune.settings import UNTRAINED

FORMAT = "llama_scale.tuning.v1"
COMPARISON = "comparison.json"
DIGITS = 8


@dataclass(frozen=True)
class Estimate:
    """A mean over runs and tasks with its 95 % interval, the runs and the tasks that it is of."""

    value: float
    low: float
    high: float
    runs: int
    tasks: int


@dataclass(frozen=True)
class ArmResult:
    """An arm: what it is, what it cost (means of its runs), and its scores by endpoint.

    ``forgotten`` is the bits per byte that it lost on the base's own validation text, ``forgotten_spread`` half the
    95 % interval of that over runs; None where there is one run.
    """

    name: str
    grid: str
    method: str
    rank: int | None
    examples: int | None
    language: str
    budget: str
    lr: float | None
    runs: int
    steps: float
    trainable_params: int
    n_params: int
    seconds: float
    peak_memory: float
    weights_bytes: float
    forgotten: float | None
    scores: dict[str, Estimate]
    forgotten_spread: float | None = None

    @property
    def trained(self) -> bool:
        """Whether its runs train, which those of a base do not."""
        return self.method not in UNTRAINED


@dataclass(frozen=True)
class Contrast:
    """An arm less its control by an endpoint: paired by task, p adjusted by Holm within its family.

    ``detectable`` is the difference that a repetition would find in four of five cases, None where no task differs. Of
    shares, ``gained`` and ``lost`` count the tasks that only one of the first draws of both has, and ``mcnemar`` is
    their exact p value.
    """

    control: str
    arm: str
    endpoint: str
    mean: float
    low: float
    high: float
    p: float
    holm: float
    detectable: float | None
    paired_runs: bool
    gained: int | None = None
    lost: int | None = None
    mcnemar: float | None = None

    @property
    def differs(self) -> bool:
        """Whether chance alone would rarely show such a difference in any contrast of the family."""
        return self.holm < 0.05

    @property
    def down(self) -> bool:
        """Whether the arm's value is lower."""
        return self.differs and self.mean < 0

    @property
    def up(self) -> bool:
        """Whether the arm's value is higher."""
        return self.differs and self.mean > 0


@dataclass(frozen=True)
class Family:
    """Contrasts that answer one question, and the arms that cannot be told from the best by the primary endpoint."""

    key: str
    title: str
    contrasts: list[Contrast]
    best: dict[str, float]

    def of(self, endpoint: str) -> list[Contrast]:
        """Return the contrasts by an endpoint."""
        return [contrast for contrast in self.contrasts if contrast.endpoint == endpoint]


@dataclass(frozen=True)
class RankForecast:
    """A rank that was forecast, and what was measured since.

    ``measured`` is the least rank that cannot be told from the best, ``largest`` the difference of the least rank tried
    at or above the forecast to the largest, and ``right`` whether that is inside of the margin.
    """

    arms: list[str]
    ranks: list[int]
    examples: int
    bits: float
    parameters_a_rank: int
    forecast: int
    written_at: str
    measured: int | None
    best: list[int]
    at: int | None
    difference: float | None
    low: float | None
    high: float | None
    right: bool | None


@dataclass(frozen=True)
class SizeCurve:
    """Arms that differ by their number of pairs alone.

    ``loss`` is the bits per byte of each. Through four sizes and more it is floor + scale n^-beta; ``beta_low`` and
    ``beta_high`` are None where the runs do not bound it. ``worse`` are the sizes that parse more rarely than the
    smallest, None where no sample was judged, and ``above`` is the least size from which on all parse more often.
    """

    key: str
    arms: list[str]
    sizes: list[int]
    loss: list[float]
    floor: float | None
    scale: float | None
    beta: float | None
    beta_low: float | None
    beta_high: float | None
    worse: list[int] | None
    above: int | None


@dataclass(frozen=True)
class Stratum:
    """An arm less the base in bits per byte on held-out pairs of one kind: those whose ``field`` has a ``value``."""

    field: str
    value: str
    arm: str
    tasks: int
    mean: float
    low: float
    high: float
    detectable: float | None


@dataclass(frozen=True)
class TriedRate:
    """A rate that the search for an arm's tried, and the held-out bits per byte at its end, None where it diverged."""

    arm: str
    lr: float
    bits_per_byte: float | None
    chosen: float


@dataclass(frozen=True)
class Claim:
    """A claim of the published studies: which study made it, what this one's data say of it, and by what numbers.

    ``verdict`` is supported, contradicted or undecided.
    """

    study: str
    claim: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Agreement:
    """How well a similarity tells passing samples from failing ones of the same task; None where none passed."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    pairs: int
    tasks: int


@dataclass(frozen=True)
class Ordering:
    """Kendall's tau between the arms' order by a measure and by the share of tests passed, with its 95 % interval."""

    measure: str
    tau: float
    low: float
    high: float
    arms: int
    tasks: int


@dataclass(frozen=True)
class Comparison:
    """All of it."""

    name: str
    question: str
    profile: str
    base: str
    tasks: int
    arms: list[ArmResult]
    families: list[Family]
    ranks: list[RankForecast]
    claims: list[Claim]
    agreement: list[Agreement]
    baselines: dict[str, float | None]
    flaws: list[str] = field(default_factory=list)
    margin: float = 0.005
    sizes: list[SizeCurve] = field(default_factory=list)
    strata: list[Stratum] = field(default_factory=list)
    orderings: list[Ordering] = field(default_factory=list)
    rates: list[TriedRate] = field(default_factory=list)

    def arm(self, name: str) -> ArmResult:
        """Return an arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    def write(self, folder: Path) -> None:
        """Write comparison.json."""
        write_json(folder / COMPARISON, {"format": FORMAT} | to_json(self, DIGITS), sealed=True)


def read_comparison(folder: Path) -> Comparison:
    """Read comparison.json; raise InputError where it is missing or of another format."""
    path = folder / COMPARISON
    values = read_fields(path, ["format"])
    if values["format"] != FORMAT:
        raise InputError(f"{path}: of the format {values['format']!r:.40}, not {FORMAT}; run the study again")
    with prefix_errors(str(path)):
        return from_json(Comparison, values)
