"""What a person may ask of launch/evaluate.py."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from evals.benchmarks.apps import AppsConfig
from evals.benchmarks.humaneval import HumanEvalConfig
from evals.benchmarks.mbpp import MbppConfig
from evals.benchmarks.mbxp import MbxpConfig
from evals.benchmarks.pairs import PairsConfig
from evals.models.server_config import ServerConfig
from evals.perplexity import PerplexityConfig
from evals.verdicts import ExecutionConfig
from llama_scale.config import Auto
from llama_scale.errors import at_least_1, check_fields


@dataclass(frozen=True)
class EvalConfig:
    """What to measure, and of what.

    Args:
        checkpoint: A checkpoint folder, a run folder for its newest checkpoint, a folder that transformers can load, or
            the URL of an OpenAI-compatible server (http://host/v1).
        suites: Names separated by commas: perplexity, humaneval, mbpp, mbxp, apps, pairs.
        all: Every checkpoint of the run.
        watch: Every checkpoint of the run, and new ones until the run has its result.
        suite: The suite that --samples were drawn for.
        samples: Judge the completions of this JSONL file (task_id, completion), of no model here.
        out: Folder for the results of --samples, a transformers folder or a server; of a checkpoint, instead of that in
            its run.
        name: The model's name on the server.
        server: How a server is asked.
        compare: Folder of results of another model; prints the paired difference of pass@1.
        perplexity: Loss on the validation split.
        humaneval: Functions completed and judged by tests.
        mbpp: Short functions from a sentence, judged by tests.
        mbxp: MBPP's tasks in Python, Java and JavaScript, judged by tests.
        apps: Introductory programming problems.
        pairs: Held-out pairs of fine-tuning, completed and parsed.
        before: File of JSON lines (id, before), texts that go before the prompts of these tasks, as solved ones.
        similarity: Compare samples with the references (BLEU, ROUGE-L, chrF, CodeBLEU) and flag those that say nothing.
        efficiency: Count instructions and peak memory of samples that pass, and of the references, on the same tests.
        execution: How programs are run.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; null is bf16 on a GPU and fp32 on a CPU, where no text then depends on
            what is decoded beside it; auto is bf16 where this machine multiplies that faster, measured on a CPU.
        threads: CPU threads of the model; null leaves the library's choice.
        processes: Processes that draw completions, each with a copy of the model; auto is one for each GPU.
        cuda_graphs: Replay the kernels of a decoding step as one CUDA graph (a GPU alone).
        wandb: Show the scores of the run in this Weights & Biases project.
    """

    RENAMED: ClassVar[dict[str, str]] = {"graphs": "cuda_graphs", "ranks": "processes"}

    checkpoint: str | None = None
    suites: str = "perplexity,humaneval"
    all: bool = False
    watch: bool = False
    suite: str | None = None
    samples: str | None = None
    out: str | None = None
    name: str = "model"
    server: ServerConfig = field(default_factory=ServerConfig)
    compare: str | None = None
    perplexity: PerplexityConfig = field(default_factory=PerplexityConfig)
    humaneval: HumanEvalConfig = field(default_factory=HumanEvalConfig)
    mbpp: MbppConfig = field(default_factory=MbppConfig)
    mbxp: MbxpConfig = field(default_factory=MbxpConfig)
    apps: AppsConfig = field(default_factory=AppsConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    before: str | None = None
    similarity: bool = False
    efficiency: bool = False
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] | None = None
    threads: int | None = None
    processes: int | Auto = "auto"
    cuda_graphs: bool = False
    wandb: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1 or auto", at_least_1, "processes")
