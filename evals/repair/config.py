"""What a person may ask of launch/repair.py."""

from dataclasses import dataclass, field
from typing import Literal

from evals.benchmarks.apps import AppsConfig
from evals.benchmarks.humaneval import HumanEvalConfig
from evals.benchmarks.mbpp import MbppConfig
from evals.benchmarks.quixbugs import QuixBugsConfig
from evals.repair.backends.protocol import BackendConfig
from evals.repair.loop import Plan
from evals.repair.select import rule_names
from evals.verdicts import ExecutionConfig
from llama_scale.errors import InputError, at_least_0, at_least_1, check_fields, positive
from llama_scale.generation.config import SamplingConfig


@dataclass(frozen=True)
class RepairConfig:
    """Which model repairs what, how, and what it is compared with.

    Args:
        backend: The model that writes programs.
        critic: The model that criticizes, for arms with the critic model.
        replay: Judge the programs of a published log instead: JSON lines, gzipped or not, with task_id and
            implementations, the programs of a task in their order.
        results: Folders of finished studies, by commas: write one report of them instead of running. Several are set
            side by side by the size of their models.
        suite: The tasks.
        mbpp: Short functions from a sentence; how they are read. The first test is shown.
        humaneval: Functions to complete; the examples of the docstring are shown.
        apps: Introductory problems; the samples of the question are shown.
        quixbugs: Programs with one bug; the first case that a program fails is shown.
        protocol: honest keeps tests hidden and trusts the judge alone. published does as the pipelines were published,
            to see what they claim: everybody is shown all tests of MBPP, and a process is believed that returns 0
            and writes nothing to standard error.
        visible: Tests that are shown, of MBPP, APPS and QuixBugs.
        task_seed: Take the tasks that n_tasks allows at random with this seed; null spreads them evenly.
        plan: The arms and their budget.
        select: Rules that choose the program to hand in, by commas; the first one makes the curves.
        sampling: How programs are drawn.
        critic_sampling: How a model criticizes.
        timeout: CPU seconds of one program.
        execution: How programs are run.
        wandb: Show the study in this Weights & Biases project; offline unless WANDB_MODE says otherwise.
        out: Folder of the results; null is that of a checkpoint's other results.
    """

    backend: BackendConfig = field(default_factory=BackendConfig)
    critic: BackendConfig = field(default_factory=BackendConfig)
    replay: str | None = None
    results: str | None = None
    suite: Literal["mbpp", "humaneval", "apps", "quixbugs"] = "mbpp"
    mbpp: MbppConfig = field(default_factory=lambda: MbppConfig(profile="incoder"))
    humaneval: HumanEvalConfig = field(default_factory=HumanEvalConfig)
    apps: AppsConfig = field(default_factory=AppsConfig)
    quixbugs: QuixBugsConfig = field(default_factory=QuixBugsConfig)
    protocol: Literal["honest", "published"] = "honest"
    visible: int = 1
    task_seed: int | None = None
    plan: Plan = field(default_factory=Plan)
    select: str = "first_visible,first,last,most_visible,vote"
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.8))
    critic_sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(max_new_tokens=160))
    timeout: float = 3.0
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    wandb: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "visible")
        check_fields(self, "more than 0", positive, "timeout")
        check_fields(self, "at least 0 or null", at_least_0, "task_seed")
        if self.protocol == "published" and self.suite != "mbpp":
            remedy = "set suite to mbpp, or protocol to honest"
            raise InputError(f"protocol: published shows the assertions of MBPP; {remedy}")
        if self.replay and self.backend.model:
            raise InputError("replay: the programs of a log are judged without a model; leave backend.model out")
        if not rule_names(self.select):
            raise InputError("select: expected at least one rule")
