"""What a study file and its fit may say, and the runs that a study asks for."""

from dataclasses import dataclass, field
from typing import Any, Literal

from llama_scale.bootstrap import RESAMPLES
from llama_scale.config import Auto, TrainConfig
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.points import parse_columns
from llama_scale.scaling.fitting.stated_law import parse_law
from llama_scale.scaling.forecasting.design import NOISE
from llama_scale.scaling.study.grids import Budget, Grid
from llama_scale.training.recipe import Recipe

HEADLINE_SUITE = "perplexity"


@dataclass(frozen=True)
class FitConfig:
    """The fit of a law of the loss, L(N, D), to a CSV of runs.

    Args:
        points: CSV file with one run a row and columns N, D, loss and, if known, flops.
        out: Folder for laws.json; null prints only.
        columns: The file's own names, as N=n_params,D=tokens,loss=val_loss,flops=compute.
        where: Rows to keep, as N>5e7,annealed==true.
        holdout: Runs to leave out and predict; largest (greatest compute), none or a condition.
        resamples: Bootstrap resamples of the runs.
        seed: Seed of the resampling.
        form: The law: additive is E + A N^-alpha + B D^-beta, joint E + (A N^-alpha + B D^-beta)^k, kaplan the joint
            one with E = 0, auto the one that predicts the largest runs not held out.
        delta: Residual of log loss from which on the Huber loss is straight.
        against: A law stated of these runs, as E=1.69,A=406,alpha=.34,B=411,beta=.28, to judge.
        json: Print laws.json instead of a table.
    """

    points: str
    out: str | None = None
    columns: str | None = None
    where: str | None = None
    holdout: str = "largest"
    resamples: int = RESAMPLES
    seed: int = 0
    form: Literal["auto", "additive", "joint", "kaplan"] = "auto"
    delta: float = 1e-3
    against: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise InputError(f"resamples: expected at least 100, found {self.resamples}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: expected 0 to 2^32 - 1, found {self.seed}")
        if not 1e-8 <= self.delta <= 1e8:  # beyond, the solver's numbers are too far apart for float64
            raise InputError(f"delta: expected a number from 1e-8 to 1e8, found {self.delta}")
        parse_columns(self.columns)
        if self.against is not None:
            parse_law(self.against)


@dataclass(frozen=True)
class StudyConfig:
    """A scaling study.

    Args:
        name: Names data of the study: studies/<name> and runs/<name>.
        data: Settings of launch/prepare.py.
        runs: The runs, as grids of sizes, budgets and seeds.
        budget: What all runs may cost together; the tokens are scaled to it.
        seed: Added to all seeds below: the same study with other draws, under another name.
        data_seed: Seed of the order in which all runs read the data, whatever their own seeds; null gives each run the
            order of its own seed.
        noise: Scatter of the loss between seeds that the dry run's forecast assumes, relative.
        train: Overrides of launch/train.py for every run, for example model.vocab_size: 1024.
        suites: Suites that every run is scored on; perplexity gives the loss of the law.
        evaluate: Overrides of launch/evaluate.py.
        holdout: Runs that the law must predict without having seen them: largest (greatest compute), none or a
            condition such as N>1e8.
        fit: Overrides of launch/scaling.py fit.
        law: What the points are for: the law of the loss with its report, or the best learning rates and batches of a
            sweep, beside the laws that are the default.
        device: Where to train and score; auto is the GPU if there is one.
        threads: CPU threads of a run; null leaves the library's choice.
        parallel: Runs at a time; auto is one for each GPU, or as many as the CPUs have threads for.
        executor: This machine, or a SLURM cluster through submitit (the extra slurm).
        slurm: Parameters of submitit, as slurm_partition, timeout_min, gpus_per_node.
        dry_run: Print the runs and the commands, and do nothing.
    """

    name: str
    runs: list[Grid]
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    data_seed: int | None = None
    noise: float = NOISE
    data: str = "configs/data/installed.yaml"
    train: dict[str, Any] = field(default_factory=dict)
    suites: list[str] = field(default_factory=lambda: ["perplexity", "humaneval"])
    evaluate: dict[str, Any] = field(default_factory=dict)
    holdout: str = "largest"
    fit: dict[str, Any] = field(default_factory=dict)
    law: Literal["loss", "rates"] = "loss"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    parallel: int | Auto = "auto"
    executor: Literal["local", "slurm"] = "local"
    slurm: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def result(self) -> str:
        """The file in the study's folder that it all leads to."""
        return "report.html" if self.law == "loss" else "sweep.json"


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a study.

    Attributes:
        name: Its name, which is that of its folder.
        settings: What its file of settings says: the shape and what the study sets.
        config: The settings as launch/train.py reads them.
        recipe: Its tokens, batch, rate and steps.
        n_params_non_embedding: Its non-embedding parameters.
        flops: What its state has cost from the first step on.
        spent: What this run adds to that: less, where it branches from a trunk.
        trunk: The run that it branches from.
        is_trunk: Whether others branch from it; no law is fitted to such a run.
    """

    name: str
    settings: dict[str, Any]
    config: TrainConfig
    recipe: Recipe
    n_params_non_embedding: int
    flops: int
    spent: int
    trunk: str | None = None
    is_trunk: bool = False
