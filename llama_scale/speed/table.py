"""One command, one table: training speed of several sizes on one device, with its forecasts."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llama_scale.accounting import GIB, bf16_peak, flops_per_token, training_memory
from llama_scale.config import CONFIGS, ModelConfig, load_size
from llama_scale.errors import UserError, nearest
from llama_scale.files import atomic_write, read_json, write_json
from llama_scale.speed.environment import OWN, ROOT, peer_python
from llama_scale.speed.hardware import cpu_name, matmul_ceiling, versions
from llama_scale.speed.race import OutOfMemory, race, summarise
from llama_scale.speed.worker import Job

FORECAST_MFU = 0.4  # the share of the peak that launch/train.py --dry-run reckons with


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
            raise UserError(f"{self.size}: micro_batches: {self.micro_batches} must be positive")
        first = self.micro_batches[0]
        if any(first % count for count in self.micro_batches):
            raise UserError(
                f"{self.size}: micro_batches {self.micro_batches} must divide the first"
            )
        known = ("transformers", *OWN)
        for peer in self.peers:
            if peer not in known:
                raise UserError(f"{self.size}: no peer {peer!r}; known: {', '.join(known)}")

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return load_size(self.size, **self.model)


@dataclass(frozen=True)
class TableBenchmark:
    """Training speed of several sizes: launch/benchmark.py train --table NAME.

    Args:
        name: Name of the table.
        rows: Its sizes (configs/table/NAME.yaml).
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
            raise UserError(f"steps: {self.steps} timed and {self.warmup} untimed are too few")

    @property
    def chosen(self) -> list[Row]:
        """The rows to measure now; raises UserError on a name that is none of them."""
        if self.only is None:
            return self.rows
        sizes = {row.size: row for row in self.rows}
        names = self.only.split(",")
        for name in names:
            if name not in sizes:
                raise UserError(f"only: no row {name!r}{nearest(name, sizes)} in {self.name}")
        return [sizes[name] for name in names]


def expand(argv: list[str]) -> list[str]:
    """Replace ``--table NAME`` by ``--config configs/table/NAME.yaml``."""
    place = next(n for n, argument in enumerate(argv) if argument.split("=")[0] == "--table")
    _, equals, name = argv[place].partition("=")
    rest = argv[place + 1 :]
    if not equals:
        name, rest = (rest or [""])[0], rest[1:]
    known = sorted(path.stem for path in (CONFIGS / "table").glob("*.yaml"))
    path = Path(name) if name.endswith(".yaml") else CONFIGS / "table" / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"table: no {path}{nearest(name, known)}; known: {', '.join(known)}")
    return [*argv[:place], "--config", str(path), *rest]


def run(config: TableBenchmark, command: str) -> Path:
    """Measure the rows one after another, writing JSON and Markdown after each; return the path.

    Rows that were measured before with the same device and torch stay. Raises UserError when there
    is no such device or a row fails.
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
    for row in rows:
        measured = measure(row, config, result["matmul_ceiling"], gpu)
        result["rows"][row.size] = measured | {"gradients": checks[row.size]}
        write_json(out.with_suffix(".json"), result)
        with atomic_write(out.with_suffix(".md")) as file:
            file.write(markdown(result))
        print(line(row.size, result["rows"][row.size]), flush=True)
    return out.with_suffix(".md")


def check_gradients(rows: list[Row], config: TableBenchmark) -> dict[str, dict[str, Any]]:
    """Return for each size how far compiled gradients are from eager ones, found by a process."""
    settings = {
        "sizes": {row.size: asdict(row.config) for row in rows},
        "device": config.device,
        "bf16": config.precision == "bf16",
    }
    done = subprocess.run(
        [sys.executable, "-m", "llama_scale.speed.gradients", json.dumps(settings)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"gradients: {(done.stderr.strip().splitlines() or [''])[-1][:300]}")
    found = [json.loads(text) for text in done.stdout.splitlines()]
    return {row["size"]: row for row in found}


def measure(row: Row, config: TableBenchmark, ceiling: float, gpu: str | None) -> dict[str, Any]:
    """Time the row's contenders at the largest micro-batch that fits; add the forecasts."""
    bf16 = config.precision == "bf16"
    for micro_batch in row.micro_batches:
        job = Job(
            peer="llama_scale",
            model=asdict(row.config),
            micro_batch=micro_batch,
            accumulate=row.accumulate * row.micro_batches[0] // micro_batch,
            bf16=bf16,
            compile=row.compile,
            recompute=row.recompute,
            device=config.device,
            threads=config.threads,
            draw_on_device=not row.peers,
        )
        entries = [("llama_scale", job, sys.executable)]
        for peer in row.peers:
            its = replace(job, peer=peer, recompute=False)
            entries.append((peer, its, peer_python(peer)))
        try:
            workers = race(entries, config.steps, config.warmup)
        except OutOfMemory as error:
            print(f"{row.size}: micro-batch {micro_batch}: {error}", file=sys.stderr, flush=True)
            continue
        recompute = "block" if row.recompute else "none"
        need = training_memory(
            row.config,
            micro_batch,
            bf16,
            recompute,
            device=config.device,
            compiled=job.compile,
            micro_steps=job.accumulate,
        )
        contenders = [summarise(worker, workers, ceiling, gpu) for worker in workers]
        return {"forecast": forecast(row.config, need.total, gpu), "contenders": contenders}
    raise UserError(f"{row.size}: no micro-batch of {row.micro_batches} fits this device")


def forecast(config: ModelConfig, memory: int, gpu: str | None) -> dict[str, float | None]:
    """Return what the dry run says before the run: bytes, and tokens a second on a known GPU."""
    peak = bf16_peak(gpu) if gpu else None
    rate = peak and FORECAST_MFU * peak / flops_per_token(config, causal=False)
    return {"memory": memory, "tokens_per_second": rate}


def line(size: str, row: dict[str, Any]) -> str:
    """Return one size's outcome as a line of a Markdown table."""
    ours, *peers = row["contenders"]
    percent = [f"{ours[key]:.1%}" if key in ours else "-" for key in ("mfu_full", "mfu_causal")]
    memory = row["forecast"]["memory"]
    rate = row["forecast"]["tokens_per_second"]
    beside = ", ".join(
        f"{peer['name']}{' compiled' if peer['compile'] else ''} "
        f"{peer['ratios']['llama_scale']['median']:.2f}x, {peer['peak_memory'] / GIB:.1f} GiB"
        for peer in peers
    )
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
        beside or "-",
        f"{check['compiled']:.1e} ({'agree' if check['agree'] else 'DIFFER'})",
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(result: dict[str, Any]) -> str:
    """Return the whole table as Markdown."""
    heads = [
        "size", "micro-batch", "blocks", "tokens/s", "MFU full", "MFU causal", "of the ceiling",
        "peak GiB", "forecast GiB", f"forecast tokens/s (MFU {FORECAST_MFU:.0%})",
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
