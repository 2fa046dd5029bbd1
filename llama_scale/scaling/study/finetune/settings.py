"""What the file of a fine-tuning study may say, and the arms and runs that it asks for."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from llama_scale.config import Auto
from llama_scale.errors import InputError, at_least_0, at_least_1, check_fields, positive

BASE, FEW_SHOT = "base", "few_shot"
UNTRAINED = BASE, FEW_SHOT  # methods of arms whose runs train nothing
PAIRS_SUITE = "pairs"


@dataclass(frozen=True)
class BaseModel:
    """The model that is tuned: one that exists, or one that the study trains first.

    Args:
        model: A run, a transformers folder, a GGUF file or a model's name on the hub; null trains one.
        data: Settings of launch/prepare.py, of the data that a model of the study's own is trained on.
        train: Settings of launch/train.py for it, as size or model, and tokens.
        retain: Folder of token shards that forgetting is measured on; null is the data of the study's own model.
    """

    model: str | None = None
    data: str = "configs/data/finetune.yaml"
    train: dict[str, Any] = field(default_factory=dict)
    retain: str | None = None


@dataclass(frozen=True)
class RateSearch:
    """How the learning rate of each arm is found: on tuning pairs of its own, the best inside of what was tried.

    Args:
        start: Rate in the middle of the first three; auto is the law of launch/finetune.py.
        factor: Ratio of a rate to the next.
        most: Rates that are tried at most; with the best of so many still at the edge there is no result.
        pairs: Held-out pairs that decide; none of them is among those that arms are compared on.
    """

    start: float | Auto = "auto"
    factor: float = 3.0
    most: int = 8
    pairs: int = 100

    def __post_init__(self) -> None:
        check_fields(self, "a ratio above 1", lambda x: x > 1, "factor", "rates.")
        check_fields(self, "at least 3", lambda x: x >= 3, "most", "rates.")
        check_fields(self, "at least 1", at_least_1, "pairs", "rates.")
        check_fields(self, "a positive number", positive, "start", "rates.")


@dataclass(frozen=True)
class ArmGrid:
    """Arms that are the product of some lists.

    Args:
        name: Begins the arms' names.
        method: lora trains adapters, full every weight.
        ranks: Ranks of adapters.
        examples: Numbers of pairs; null is all.
        languages: Of the study's pairs.
        draws: Draws of the pairs; a draw is also the seed, and the runs of one draw are compared with another.
        epochs: Passes over the pairs: a larger set has more steps.
        steps: Optimizer steps instead, the same for all sets.
        rate: The learning rate; tuned finds it for each arm.
        train: Overrides of launch/finetune.py.
    """

    name: str
    method: Literal["lora", "full"] = "lora"
    ranks: list[int] = field(default_factory=lambda: [16])
    examples: list[int | None] = field(default_factory=lambda: [None])
    languages: list[str] = field(default_factory=lambda: ["python"])
    draws: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    epochs: int = 3
    steps: int | None = None
    rate: float | Literal["tuned"] = "tuned"
    train: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "epochs steps", f"{self.name}.")
        check_fields(self, "a positive number or tuned", lambda x: x == "tuned" or x > 0, "rate", f"{self.name}.")


@dataclass(frozen=True)
class TuningStudyConfig:
    """A fine-tuning study.

    Args:
        name: Names studies/<name> and runs/<name>.
        kind: Tells its file from a scaling study's.
        question: What it is about; names the CSV file and the picture of the profile seed.
        base: The model that is tuned.
        pairs: For each language the settings of launch/prepare.py pairs, or a folder that it made.
        longest: Most bytes of a prompt with its completion; longer pairs are left out.
        pool: Pairs that subsets are drawn from; null is all.
        test: Held-out pairs that arms are compared on.
        shots: Pairs that the base is shown before a held-out one, an arm beside the base as it is; 0 leaves it out.
        arms: What is compared, beside the base.
        rates: How learning rates are found.
        train: Overrides of launch/finetune.py for every run.
        suites: Suites that samples are drawn for and judged by; pairs are the held-out pairs.
        evaluate: Overrides of launch/evaluate.py.
        sampled: Draws of each arm that are sampled; null is all.
        profile: default is the design of this file; seed puts what published says over it.
        published: The study as it was published: settings that go over the others, and its flaws.
        margin: Bits per byte within which two arms count as equally good in the forecast of the best rank.
        device: Where to train and score; auto is the GPU if there is one.
        threads: CPU threads of a run; null leaves the library's choice.
        parallel: Runs at a time; auto is one for each GPU, or as many as the CPUs have threads for.
        executor: This machine, or a SLURM cluster through submitit (the extra slurm).
        slurm: Parameters of submitit.
        dry_run: Print the runs and the commands, and do nothing.
    """

    name: str
    kind: Literal["finetune"]
    question: Literal["rank", "scale", "lang", "method", "quick"]
    arms: list[ArmGrid]
    base: BaseModel = field(default_factory=BaseModel)
    pairs: dict[str, Any] = field(default_factory=lambda: {"python": {}})
    longest: int = 4_000
    pool: int | None = None
    test: int = 500
    shots: int = 3
    rates: RateSearch = field(default_factory=RateSearch)
    train: dict[str, Any] = field(default_factory=dict)
    suites: list[str] = field(default_factory=lambda: [PAIRS_SUITE])
    evaluate: dict[str, Any] = field(default_factory=dict)
    sampled: int | None = None
    profile: Literal["default", "seed"] = "default"
    published: dict[str, Any] = field(default_factory=dict)
    margin: float = 0.005
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    parallel: int | Auto = "auto"
    executor: Literal["local", "slurm"] = "local"
    slurm: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def __post_init__(self) -> None:
        check = partial(check_fields, self)
        check("at least 1", at_least_1, "longest pool test sampled threads parallel")
        check("at least 0", at_least_0, "shots")
        check("a positive number", positive, "margin")
        if self.profile == "seed" and not self.published:
            raise InputError("profile: seed asked for and this study has no published")

    @property
    def result(self) -> str:
        """The file in the study's folder that it all leads to."""
        return "report.html"


@dataclass(frozen=True)
class Arm:
    """What is compared: one way to tune, which several runs take with draws of their own.

    Attributes:
        name: Its name.
        grid: The name of its grid.
        method: lora, full, base, or few_shot, which is the base that is shown pairs.
        rank: Of adapters.
        examples: Number of pairs that it is trained on or shown; None is all.
        language: Of the pairs.
        epochs: Passes over the pairs, None where ``steps`` are fixed.
        steps: Optimizer steps.
        tuned: Whether its rate is found by a search.
        draws: Its runs.
        settings: Of launch/finetune.py for each of its runs.
    """

    name: str
    grid: str
    method: str
    rank: int | None
    examples: int | None
    language: str
    epochs: int | None
    steps: int | None
    tuned: bool
    draws: list[int]
    settings: dict[str, Any]

    @property
    def trained(self) -> bool:
        """Whether its runs train, which those of a base do not."""
        return self.method not in UNTRAINED

    def run_name(self, draw: int) -> str:
        """Return the name of its run with a draw; a base has one run, with its own name."""
        return self.name if self.method == BASE else f"{self.name}-draw{draw}"

    @property
    def budget(self) -> str:
        """How long it trains, in words."""
        if not self.trained:
            return "none"
        return plural(self.steps, "step") if self.steps else plural(self.epochs or 0, "epoch")


def plural(number: int, what: str) -> str:
    """Return "1 step", "2 steps"."""
    return f"{number} {what}" + "s" * (number != 1)


@dataclass(frozen=True)
class ArmRun:
    """One run of an arm; ``spent`` is not known before the data is."""

    name: str
    arm: Arm
    draw: int
    spent: float = 0.0
