"""One command, one table: training speed of several sizes on one device, beside the dry run."""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.environment import TRAINING_PEERS, child_environment, module_command, peer_python, project_folder
from benchmarks.hardware import matmul_ceiling, processor_name, provenance
from benchmarks.tables import format_markdown, format_ratio, format_table
from benchmarks.training.interleave import Contender, ContenderError, ContenderOutOfMemory, run_interleaved, summarize
from benchmarks.training.train import format_mfu
from benchmarks.training.worker import TrainingJob
from llama_scale.config import CONFIGS, ModelConfig, load_size
from llama_scale.cost.accounting import flops_per_token
from llama_scale.cost.hardware import DEFAULT_MFU, GIB, find_hardware
from llama_scale.cost.memory import training_memory
from llama_scale.cost.step_time import step_time
from llama_scale.errors import InputError, nearest
from llama_scale.files import atomic_write, read_fields, write_json

HEAD = [
    "size", "micro-batch", "blocks", "tokens/s", "MFU full", "MFU causal", "of the ceiling",
    "peak GiB", "dry-run GiB", "dry-run tokens/s",
    "llama_scale is, beside", "compiled against eager gradients",
]  # fmt: skip


@dataclass(frozen=True)
class TableRow:
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
            raise InputError(f"{self.size}: micro_batches {self.micro_batches} must divide the first")
        for peer in self.peers:
            if peer not in TRAINING_PEERS:
                known = ", ".join(TRAINING_PEERS)
                raise InputError(f"{self.size}: no peer {peer!r}; known: {known}")

    @property
    def model_config(self) -> ModelConfig:
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
        profile: Steps of ours after them whose kernels are recorded; 0 records none.
        seconds: Time after which no step of a size begins, but two are timed; null has no limit.
        threads: CPU threads; null leaves the library's choice.
        out: Path of the results without extension; null is docs/results/<name>.
    """

    name: str
    rows: list[TableRow]
    only: str | None = None
    device: Literal["cpu", "cuda"] = "cuda"
    precision: Literal["fp32", "bf16"] = "bf16"
    steps: int = 100
    warmup: int = 10
    profile: int = 0
    seconds: float | None = None
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 2 or self.warmup < 1:
            raise InputError(f"steps: {self.steps} timed and {self.warmup} untimed are too few")

    @property
    def selected_rows(self) -> list[TableRow]:
        """The rows to measure now; raises InputError on a name that is none of them."""
        if self.only is None:
            return self.rows
        sizes = {row.size: row for row in self.rows}
        names = self.only.split(",")
        for name in names:
            if name not in sizes:
                raise InputError(f"only: no row {name!r}{nearest(name, sizes)} in {self.name}")
        return [sizes[name] for name in names]


def with_config_file(argv: list[str]) -> list[str]:
    """Replace ``--table NAME`` or ``--table=NAME`` by ``--config configs/benchmark/NAME.yaml``."""
    position = next(n for n, argument in enumerate(argv) if argument.split("=")[0] == "--table")
    _, equals, name = argv[position].partition("=")
    following = argv[position + 1 :]
    if not equals:
        name, following = (following or [""])[0], following[1:]
    known = sorted(path.stem for path in (CONFIGS / "benchmark").glob("*.yaml"))
    path = Path(name) if name.endswith(".yaml") else CONFIGS / "benchmark" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"table: no {path}{nearest(name, known)}; known: {', '.join(known)}")
    return [*argv[:position], *([f"--config={path}"] if equals else ["--config", str(path)]), *following]


def run(config: TableBenchmark) -> Path:
    """Measure the rows one after another, writing JSON and Markdown after each; print the table.

    Rows that were measured before with the same device and versions stay. A row that fails is told
    and the others are measured. Returns the path of the Markdown.

    Raises:
        InputError: A row failed, or there is no such device.
    """
    import torch

    from llama_scale.device import pick_device, set_threads

    rows = config.selected_rows
    pick_device(config.device)
    set_threads(config.threads)
    out = Path(config.out or project_folder() / "docs" / "results" / config.name)
    bf16 = config.precision == "bf16"
    gpu = torch.cuda.get_device_name() if config.device == "cuda" else None
    result = {
        "table": config.name,
        "device": processor_name(config.device),
        "precision": config.precision,
        **provenance(),
        "rows": {},
    }
    if out.with_suffix(".json").exists():
        before = read_fields(out.with_suffix(".json"), ("device", "precision", "versions", "rows"))
        if not isinstance(before["rows"], dict):
            raise InputError(f"{out}.json: rows: expected fields; name another path (out)")
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
        ceilings = [known["contenders"][0].get("matmul_ceiling") for known in result["rows"].values()]
        result["matmul_ceiling"] = statistics.median(filter(None, ceilings))  # in the turns of the rows
        write_json(out.with_suffix(".json"), result)
        with atomic_write(out.with_suffix(".md")) as file:
            file.write(markdown(result))
        print(f"{row.size}: measured", file=sys.stderr, flush=True)
    print(table(result))
    if failed:
        raise InputError(f"{', '.join(failed)}: not measured, for the reasons above")
    return out.with_suffix(".md")


def check_gradients(rows: list[TableRow], config: TableBenchmark) -> dict[str, dict[str, Any]]:
    """Return for each size how far compiled gradients are from eager ones, found by a process.

    What could not be found is said on standard error and left out.
    """
    settings = {
        "sizes": {row.size: (asdict(row.model_config), row.micro_batches[0]) for row in rows},
        "device": config.device,
        "bf16": config.precision == "bf16",
    }
    done = subprocess.run(
        module_command("benchmarks.training.gradients", json.dumps(settings)),
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    deviations = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if "error" in row:
            print(f"{row['size']}: gradients: {row['error']}", file=sys.stderr, flush=True)
        else:
            deviations[row["size"]] = row
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1][:300]
        print(f"gradients: the process ended with {done.returncode}: {last}", file=sys.stderr)
    return deviations


def measure(row: TableRow, config: TableBenchmark, ceiling: float, gpu: str | None) -> dict[str, Any]:
    """Time the row's contenders at the largest micro-batch that fits all of them; add the dry run.

    They hold the device at the same time, and which of them runs out of memory is chance: then all take the next
    micro-batch. A peer is left out, and the first micro-batch tried again, only once the last one has not fitted; one
    that fails otherwise is left out at once. Raises InputError when ours fails or no micro-batch fits ours alone.
    """
    peers, left_out = list(row.peers), {}
    sizes = list(row.micro_batches)
    while sizes:
        micro_batch = sizes[0]
        job = make_job(row, config, micro_batch)
        contenders = [Contender("llama_scale", job)]
        for peer in peers:
            its_job = replace(job, peer=peer, recompute=False)
            contenders.append(Contender(peer, its_job, peer_python(peer)))
        try:
            workers = run_interleaved(contenders, config.steps, config.warmup, config.profile, config.seconds)
        except ContenderError as error:
            print(f"{row.size}: micro-batch {micro_batch}: {error}", file=sys.stderr, flush=True)
            memory = isinstance(error, ContenderOutOfMemory)
            if memory and (len(sizes) > 1 or not peers):
                del sizes[0]
            elif memory or error.name in peers:
                failed = error.name if error.name in peers else peers[-1]
                peers.remove(failed)
                left_out[failed] = error.reason
                sizes = list(row.micro_batches) if memory else sizes
            else:
                raise
            continue
        return {
            "forecast": dry_run_estimate(row.model_config, job, gpu),
            "contenders": [summarize(worker, workers, ceiling, gpu) for worker in workers],
            "left_out": left_out,
        }
    raise InputError(f"no micro-batch of {row.micro_batches} fits this device")


def make_job(row: TableRow, config: TableBenchmark, micro_batch: int) -> TrainingJob:
    """Return what ours trains in a row at a micro-batch; the tokens of a step are the row's."""
    return TrainingJob(
        peer="llama_scale",
        model=asdict(row.model_config),
        micro_batch=micro_batch,
        accumulate=row.accumulate * row.micro_batches[0] // micro_batch,
        bf16=config.precision == "bf16",
        compile=row.compile,
        recompute=row.recompute,
        device=config.device,
        threads=config.threads,
        draw_on_device=not row.peers,
    )


def dry_run_estimate(config: ModelConfig, job: TrainingJob, gpu: str | None) -> dict[str, float | None]:
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
    card = find_hardware(gpu) if gpu else None
    rate = card and DEFAULT_MFU * card.peak / flops_per_token(config, causal=False)
    if card and card.bandwidth and job.bf16:
        recompute = "block" if job.recompute else "none"
        rate = job.tokens / step_time(config, job.micro_batch, card, recompute, micro_steps=job.accumulate).total
    return {"memory": need.total, "tokens_per_second": rate}


def table(result: dict[str, Any]) -> str:
    """Return the rows as text for the terminal."""
    return format_table(HEAD, table_rows(result))


def markdown(result: dict[str, Any]) -> str:
    """Return the whole table, with what it was measured on, as Markdown."""
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
            format_markdown(HEAD, table_rows(result)),
            "",
        ]
    )


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return the cells of every size that was measured."""
    return [row_cells(size, row) for size, row in sorted(result["rows"].items())]


def row_cells(size: str, row: dict[str, Any]) -> list[str]:
    """Return one size's outcome as the cells of a table."""
    own, *peers = row["contenders"]
    memory = row["forecast"]["memory"]
    rate = row["forecast"]["tokens_per_second"]
    measured = own["tokens_per_second"]
    gradients = row["gradients"]
    verdict = gradients and ("agree" if gradients["agree"] else "DIFFER")
    blocks = "compiled" if own["compile"] else "eager"
    return [
        size,
        f"{own['micro_batch']} x {own['accumulate']}",
        f"{blocks}, recomputed" if own["recompute"] else blocks,
        f"{measured:,.0f}",
        *format_mfu(own),
        f"{own['share_of_ceiling']:.1%}",
        f"{own['peak_memory'] / GIB:.1f}",
        f"{memory / GIB:.1f} ({memory / own['peak_memory'] - 1:+.0%})",
        f"{rate:,.0f} ({rate / measured - 1:+.0%})" if rate else "-",
        peers_cell(peers, row["left_out"]),
        f"{gradients['compiled']:.1e} ({verdict})" if gradients else "-",
    ]


def peers_cell(peers: list[dict[str, Any]], left_out: dict[str, str]) -> str:
    """Return the ratio and the memory of each peer, and why others were left out."""
    measured = [
        f"{peer['name']}{' compiled' if peer['compile'] else ''} "
        f"{format_ratio(peer['ratios']['llama_scale']['median'])}, "
        f"{peer['peak_memory'] / GIB:.1f} GiB"
        for peer in peers
    ]
    return ", ".join([*measured, *(f"{name}: {why}" for name, why in left_out.items())]) or "-"
