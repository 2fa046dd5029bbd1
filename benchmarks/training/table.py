"""One command, one table: training speed of several sizes on one device, with its forecasts."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.environment import OWN, ROOT, peer_python, variables
from benchmarks.hardware import cpu_name, matmul_ceiling, versions
from benchmarks.training.interleave import Failed, OutOfMemory, race, summarise
from benchmarks.training.worker import Job
from llama_scale.config import CONFIGS, ModelConfig, load_size
from llama_scale.cost.accounting import flops_per_token
from llama_scale.cost.hardware import DEFAULT_MFU, GIB, bf16_peak
from llama_scale.cost.memory import training_memory
from llama_scale.errors import InputError, nearest
from llama_scale.files import atomic_write, read_json, write_json


@dataclass(frozen=True)
class Row:
    """One size of the table.

    Args:
        size: Name of the rung.
        micro_batches: Sequences in a forward pass, tried from the first until one fits.
        accumulate: Forward passes in a step with the first of them.
        peers: Other implementations to run beside ours, compiled too where ours is.
        compile: Compile the blocks.
        recompute: Recompute each block in the backward pass.
        model: Fields that differ from the size's.
    """

    size: str
    micro_batches: list[int]
    accumulate: int = 1
    peers: list[str] = field(default_factory=list)
    compile: bool = True
    recompute: bool = False
    model: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.micro_batches or min(self.micro_batches) < 1:
            raise InputError(f"{self.size}: micro_batches: {self.micro_batches} must be positive")
        first = self.micro_batches[0]
        if any(first % count for count in self.micro_batches):
            raise InputError(
                f"{self.size}: micro_batches {self.micro_batches} must divide the first"
            )
        known = ("transformers", *OWN)
        for peer in self.peers:
            if peer not in known:
                raise InputError(f"{self.size}: no peer {peer!r}; known: {', '.join(known)}")

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return load_size(self.size, **self.model)


@dataclass(frozen=True)
class TableBenchmark:
    """Training speed of several sizes: launch/benchmark.py train --table NAME.

    Args:
        name: Name of the table.
        rows: Its sizes (configs/benchmark/NAME.yaml).
        only: Sizes to measure now, separated by commas; null is all. Others stay as they are.
        device: Where to run.
        precision: Compute precision; weights and moments are in float32.
        steps: Timed steps of each contender.
        warmup: Untimed steps before them.
        threads: CPU threads; null leaves the library's choice.
        out: Path of the results without extension; null is docs/results/<name>.
    """

    name: str
    rows: list[Row]
    only: str | None = None
    device: Literal["cpu", "cuda"] = "cuda"
    precision: Literal["fp32", "bf16"] = "bf16"
    steps: int = 100
    warmup: int = 10
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 2 or self.warmup < 1:
            raise InputError(f"steps: {self.steps} timed and {self.warmup} untimed are too few")

    @property
    def chosen(self) -> list[Row]:
        """The rows to measure now; raises InputError on a name that is none of them."""
        if self.only is None:
            return self.rows
        sizes = {row.size: row for row in self.rows}
        names = self.only.split(",")
        for name in names:
            if name not in sizes:
                raise InputError(f"only: no row {name!r}{nearest(name, sizes)} in {self.name}")
        return [sizes[name] for name in names]


def expand(argv: list[str]) -> list[str]:
    """Replace ``--table NAME`` by ``--config configs/benchmark/NAME.yaml``."""
    place = next(n for n, argument in enumerate(argv) if argument.split("=")[0] == "--table")
    _, equals, name = argv[place].partition("=")
    rest = argv[place + 1 :]
    if not equals:
        name, rest = (rest or [""])[0], rest[1:]
    known = sorted(path.stem for path in (CONFIGS / "benchmark").glob("*.yaml"))
    path = Path(name) if name.endswith(".yaml") else CONFIGS / "benchmark" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"table: no {path}{nearest(name, known)}; known: {', '.join(known)}")
    return [*argv[:place], "--config", str(path), *rest]


def run(config: TableBenchmark, command: str) -> Path:
    """Measure the rows one after another, writing JSON and Markdown after each; return the path.

    Rows that were measured before with the same device and torch stay. A row that fails is told
    and the others are measured. Raises InputError then, or when there is no such device.
    """
    import torch

    from llama_scale.device import pick_device, set_threads

    rows = config.chosen
    pick_device(config.device)
    set_threads(config.threads)
    out = Path(config.out or ROOT / "docs" / "results" / config.name)
    bf16 = config.precision == "bf16"
    gpu = torch.cuda.get_device_name() if config.device == "cuda" else None
    result = {
        "table": config.name,
        "device": gpu or cpu_name(),
        "precision": config.precision,
        "versions": versions(),
        "command": command,
        "rows": {},
    }
    if out.with_suffix(".json").exists():
        before = read_json(out.with_suffix(".json"))
        if all(before[key] == result[key] for key in ("device", "precision", "versions")):
            result["rows"] = before["rows"]
    result["matmul_ceiling"] = matmul_ceiling(config.device, bf16)
    checks = check_gradients(rows, config)
    failed = []
    for row in rows:
        try:
            measured = measure(row, config, result["matmul_ceiling"], gpu)
        except InputError as error:
            print(f"{row.size}: {error}", file=sys.stderr, flush=True)
            failed.append(row.size)
            continue
        result["rows"][row.size] = measured | {"gradients": checks.get(row.size)}
        write_json(out.with_suffix(".json"), result)
        with atomic_write(out.with_suffix(".md")) as file:
            file.write(markdown(result))
        print(line(row.size, result["rows"][row.size]), flush=True)
    if failed:
        raise InputError(f"{', '.join(failed)}: not measured, for the reasons above")
    return out.with_suffix(".md")


def check_gradients(rows: list[Row], config: TableBenchmark) -> dict[str, dict[str, Any]]:
    """Return for each size how far compiled gradients are from eager ones, found by a process.

    What could not be found is said on standard error and left out.
    """
    settings = {
        "sizes": {row.size: (asdict(row.config), row.micro_batches[0]) for row in rows},
        "device": config.device,
        "bf16": config.precision == "bf16",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training.gradients", json.dumps(settings)],
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
    )
    found = {}
    for text in done.stdout.splitlines():
        row = json.loads(text)
        if "error" in row:
            print(f"{row['size']}: gradients: {row['error']}", file=sys.stderr, flush=True)
        else:
            found[row["size"]] = row
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1][:300]
        print(f"gradients: the process ended with {done.returncode}: {last}", file=sys.stderr)
    return found


def measure(row: Row, config: TableBenchmark, ceiling: float, gpu: str | None) -> dict[str, Any]:
    """Time the row's contenders at the largest micro-batch that fits ours; add the forecasts.

    A peer that fails, for lack of memory too, is left out with its reason. Raises InputError when
    ours fails or no micro-batch fits.
    """
    peers, left_out = list(row.peers), {}
    sizes = iter(row.micro_batches)
    micro_batch = next(sizes)
    while micro_batch is not None:
        job = make_job(row, config, micro_batch)
        entries = [("llama_scale", job, sys.executable)]
        for peer in peers:
            its = replace(job, peer=peer, recompute=False)
            entries.append((peer, its, peer_python(peer)))
        try:
            workers = race(entries, config.steps, config.warmup)
        except Failed as error:
            print(f"{row.size}: micro-batch {micro_batch}: {error}", file=sys.stderr, flush=True)
            if error.name in peers:
                peers.remove(error.name)
                left_out[error.name] = error.why
            elif isinstance(error, OutOfMemory):
                micro_batch = next(sizes, None)
            else:
                raise
            continue
        return {
            "forecast": forecast(row.config, job, gpu),
            "contenders": [summarise(worker, workers, ceiling, gpu) for worker in workers],
            "left_out": left_out,
        }
    raise InputError(f"no micro-batch of {row.micro_batches} fits this device")


def make_job(row: Row, config: TableBenchmark, micro_batch: int) -> Job:
    """Return what ours trains in a row at a micro-batch; the tokens of a step are the row's."""
    return Job(
        peer="llama_scale",
        model=asdict(row.config),
        micro_batch=micro_batch,
        accumulate=row.accumulate * row.micro_batches[0] // micro_batch,
        bf16=config.precision == "bf16",
        compile=row.compile,
        recompute=row.recompute,
        device=config.device,
        threads=config.threads,
        draw_on_device=not row.peers,
    )


def forecast(config: ModelConfig, job: Job, gpu: str | None) -> dict[str, float | None]:
    """Return what the dry run says before the run: bytes, and tokens a second on a known GPU."""
    need = training_memory(
        config,
        job.micro_batch,
        job.bf16,
        "block" if job.recompute else "none",
        device=job.device,
        compiled=job.compile,
        micro_steps=job.accumulate,
    )
    peak = bf16_peak(gpu) if gpu else None
    rate = peak and DEFAULT_MFU * peak / flops_per_token(config, causal=False)
    return {"memory": need.total, "tokens_per_second": rate}


def line(size: str, row: dict[str, Any]) -> str:
    """Return one size's outcome as a line of a Markdown table."""
    ours, *peers = row["contenders"]
    percent = [f"{ours[key]:.1%}" if key in ours else "-" for key in ("mfu_full", "mfu_causal")]
    memory = row["forecast"]["memory"]
    rate = row["forecast"]["tokens_per_second"]
    beside = [
        f"{peer['name']}{' compiled' if peer['compile'] else ''} "
        f"{peer['ratios']['llama_scale']['median']:.2f}x, {peer['peak_memory'] / GIB:.1f} GiB"
        for peer in peers
    ]
    beside += [f"{name}: {why}" for name, why in row["left_out"].items()]
    mode = [
        "compiled" if ours["compile"] else "eager",
        *(["recomputed"] if ours["recompute"] else []),
    ]
    check = row["gradients"]
    cells = [
        size,
        f"{ours['micro_batch']} x {ours['accumulate']}",
        ", ".join(mode),
        f"{ours['tokens_per_second']:,.0f}",
        *percent,
        f"{ours['share_of_ceiling']:.1%}",
        f"{ours['peak_memory'] / GIB:.1f}",
        f"{memory / GIB:.1f} ({memory / ours['peak_memory'] - 1:+.0%})",
        f"{rate:,.0f} ({rate / ours['tokens_per_second'] - 1:+.0%})" if rate else "-",
        ", ".join(beside) or "-",
        f"{check['compiled']:.1e} ({'agree' if check['agree'] else 'DIFFER'})" if check else "-",
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(result: dict[str, Any]) -> str:
    """Return the whole table as Markdown."""
    heads = [
        "size", "micro-batch", "blocks", "tokens/s", "MFU full", "MFU causal", "of the ceiling",
        "peak GiB", "forecast GiB", f"forecast tokens/s (MFU {DEFAULT_MFU:.0%})",
        "ours is, beside", "compiled against eager gradients",
    ]  # fmt: skip
    packages = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return "\n".join(
        [
            f"# Training speed: {result['table']}",
            "",
            f"{result['device']}, {result['precision']} compute, float32 weights and moments, "
            f"AdamW. Matrix products reach {result['matmul_ceiling'] / 1e12:,.1f} TFLOP/s (the "
            "ceiling; shares count attention full). Medians over the timed steps.",
            f"{packages}.",
            "",
            f"    {result['command']}",
            "",
            "| " + " | ".join(heads) + " |",
            "|" + "---|" * len(heads),
            *(line(size, row) for size, row in sorted(result["rows"].items())),
            "",
        ]
    )
