"""The short table at the end: every step's findings as text."""

from typing import Any

from benchmarks.tables import format_markdown, format_ratio, format_table
from benchmarks.training.train import format_mfu
from llama_scale.cost.hardware import GIB

MEMORY_GOAL, TIME_GOAL = 0.05, 0.10  # largest differences of a forecast from what was measured
WORDS = {True: " - right", False: " - WRONG", None: ""}
KERNELS = 6  # shown of a size; gpu.json has more
Table = tuple[list[str], list[list[str]]]


def table(result: dict[str, Any]) -> str:
    """Return what was found as text for the terminal."""
    parts = [headline(result)]
    for name, step in result["steps"].items():
        parts.append(f"\n{status_line(name, step)}")
        if name in ("setup", "correctness"):
            parts += [f"  {row['check']}: {row['found']}{WORDS[row['ok']]}" for row in step["rows"]]
            continue
        for title, (head, rows) in tables(name, step):
            parts += [f"\n{title}" if title else "", format_table(head, rows)]
    return "\n".join(parts)


def markdown(result: dict[str, Any]) -> str:
    """Return what was found as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    parts = ["# GPU check", "", f"{headline(result)} {versions}.", "", f"    {result['command']}", ""]
    for name, step in result["steps"].items():
        parts += [f"## {name.capitalize()}", "", f"{status_line(name, step)}.", ""]
        for title, (head, rows) in tables(name, step):
            parts += [*([f"{title}:", ""] if title else []), format_markdown(head, rows), ""]
        if step.get("log"):
            parts += ["```", *step["log"][-12:], "```", ""]
    return "\n".join(parts)


def headline(result: dict[str, Any]) -> str:
    """Return the device, how many checks failed and how many goals were met."""
    checks = [row for step in result["steps"].values() for row in step["rows"] if row.get("ok") is not None]
    wrong = [row["check"] for row in checks if not row["ok"]]
    verdict = f"WRONG: {', '.join(wrong)}" if wrong else "all right" if checks else "none"
    goals = [goal for row in speed_rows(result["steps"].get("speed", {})) for goal in goals_of(row).values()]
    met = f"; {sum(goals)} of {len(goals)} speed goals met" if goals else ""
    return f"{result['device']}: {len(checks)} checks, {verdict}{met}."


def status_line(name: str, step: dict[str, Any]) -> str:
    """Return how a step ended: "speed: done in 12 s"."""
    seconds = f" in {step['seconds']:.0f} s" if "seconds" in step else ""
    return f"{name}: {step['status']}{seconds}"


def tables(name: str, step: dict[str, Any]) -> list[tuple[str, Table]]:
    """Return the tables of a step, each with its title."""
    found = {"speed": speed_tables, "sampling": sampling_tables, "ladder": ladder_tables}.get(name, check_tables)(step)
    return [(title, content) for title, content in found if content[1]]


def check_tables(step: dict[str, Any]) -> list[tuple[str, Table]]:
    """Return the table of checks."""
    rows = [[row["check"], row["found"].replace("|", "/"), WORDS[row["ok"]].strip(" -")] for row in step["rows"]]
    return [("", (["check", "found", "verdict"], rows))]


def speed_rows(step: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sizes that were measured."""
    return [row for row in step.get("rows", []) if "contenders" in row]


def goals_of(row: dict[str, Any]) -> dict[str, bool]:
    """Return which goals a size has and whether it meets them: MFU, memory and time as forecast."""
    own, forecast = row["contenders"][0], row["forecast"]
    goals = {}
    if row["goal"] and "mfu_full" in own:
        goals["MFU"] = own["mfu_full"] >= row["goal"]
    if "mfu_full" in own:
        goals["memory"] = abs(forecast["memory"] / own["peak_memory"] - 1) <= MEMORY_GOAL
    if rate := forecast["tokens_per_second"]:
        goals["time"] = abs(own["tokens_per_second"] / rate - 1) <= TIME_GOAL
    return goals


def speed_tables(step: dict[str, Any]) -> list[tuple[str, Table]]:
    """Return the sizes beside their forecasts, then where the time of each goes."""
    head = [
        "size", "micro-batch", "tokens/s", "MFU full", "goal", "MFU causal", "of the ceiling", "peak GiB",
        "forecast GiB", "ms a step", "forecast ms", "goals", "beside",
    ]  # fmt: skip
    rows, kinds, kernels = [], [], []
    for row in step["rows"]:
        if "contenders" not in row:
            rows.append([row["size"], row.get("error") or row["skipped"], *["-"] * (len(head) - 2)])
            continue
        rows.append(speed_cells(row))
        found = row["contenders"][0].get("kernels")
        if found and "error" in found:
            kinds.append([row["size"], "-", found["error"], "-"])
        elif found:
            busy = found["ms_per_step"] / row["contenders"][0]["ms_per_step"]
            shares = ", ".join(f"{kind} {share:.1%}" for kind, share in found["kinds"].items() if share >= 0.001)
            kinds.append([row["size"], f"{busy:.0%}", shares, ", ".join(found["attention"][:2]) or "-"])
            kernels += [
                [row["size"], f"{kernel['share']:.1%}", f"{kernel['ms']:.2f}", f"{kernel['calls']:.0f}", kernel["name"]]
                for kernel in found["top"][:KERNELS]
            ]
    return [
        ("", (head, rows)),
        ("Where the time goes", (["size", "kernels over step", "kinds", "attention kernels"], kinds)),
        ("Kernels by time", (["size", "share", "ms a step", "calls", "kernel"], kernels)),
    ]


def speed_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a size."""
    own, *peers = row["contenders"]
    forecast, rate = row["forecast"], row["forecast"]["tokens_per_second"]
    full, causal = format_mfu(own)
    beside = [f"{peer['name']} {format_ratio(peer['ratios']['llama_scale']['median'])}" for peer in peers]
    beside += [f"{name}: {why}" for name, why in row["left_out"].items()]
    forecast_ms = own["ms_per_step"] * own["tokens_per_second"] / rate if rate else None
    goals = [f"{name} {'met' if met else 'MISSED'}" for name, met in goals_of(row).items()]
    return [
        row["size"],
        f"{own['micro_batch']} x {own['accumulate']}",
        f"{own['tokens_per_second']:,.0f}",
        full,
        f"{row['goal']:.0%}" if row["goal"] else "-",
        causal,
        f"{own['share_of_ceiling']:.1%}",
        f"{own['peak_memory'] / GIB:.1f}",
        f"{forecast['memory'] / GIB:.1f} ({forecast['memory'] / own['peak_memory'] - 1:+.1%})",
        f"{own['ms_per_step']:,.0f}",
        f"{forecast_ms:,.0f} ({forecast_ms / own['ms_per_step'] - 1:+.0%})" if forecast_ms else "-",
        ", ".join(goals) or "-",
        ", ".join(beside) or "-",
    ]


def sampling_tables(step: dict[str, Any]) -> list[tuple[str, Table]]:
    """Return the samplers' rates."""
    head = ["sampler", "tokens", "tokens/s", "llama_scale eager is (quartiles)"]
    rows = [
        [
            row["name"], f"{row['tokens']:,}", f"{row['tokens_per_second']:,.0f}",
            format_ratio(row["ratio"], row["ratio_quartiles"]),
        ]
        for row in step["rows"]
    ]  # fmt: skip
    title = f"{step['size']}, {step['prompts']} prompts x {step['n_samples']}" if "prompts" in step else ""
    return [(title, (head, rows))]


def ladder_tables(step: dict[str, Any]) -> list[tuple[str, Table]]:
    """Return the runs, and the forecasts beside what came of them."""
    runs = sorted(step["rows"], key=lambda row: (row["n_params_non_embedding"], row["tokens"]))
    rows = [
        [
            row["run"], f"{row['n_params_non_embedding']:,}", f"{row['tokens']:,}", f"{row['flops']:.2g}",
            f"{row['loss']:.4f}", f"{row['bits_per_byte']:.4f}",
        ]
        for row in runs
    ]  # fmt: skip
    forecasts = []
    for forecast in step.get("forecasts", []):
        for run in forecast["runs"]:
            loss = next((row["loss"] for row in runs if is_forecast(row, run)), None)
            outcome = [f"{loss:.4f}", f"{100 * (run['value'] / loss - 1):+.2f} %"] if loss else ["not trained", "-"]
            interval = f"{run['value']:.4f} ({run['run_low']:.4f} to {run['run_high']:.4f})"
            forecasts.append([run["run"], interval, *outcome])
    title = f"{len(runs)} of {step['planned']} runs" if "planned" in step else ""
    return [
        (title, (["run", "parameters", "tokens", "FLOPs", "loss", "bits per byte"], rows)),
        ("Forecast before the run", (["run", "forecast loss", "measured", "error"], forecasts)),
    ]


def is_forecast(row: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether a trained run is the one of a forecast: S4:5.2e6 is the S4 of about as many tokens."""
    return run["run"].startswith(row["size"]) and abs(row["tokens"] / run["tokens"] - 1) < 0.02
