"""The table at the end."""

import pytest

from benchmarks.gpu.summary import goals_of, ladder_tables, markdown, speed_tables, table
from llama_scale.cost.hardware import GIB


def speed_row(**own):
    ours = {
        "micro_batch": 8, "accumulate": 8, "tokens_per_second": 1000.0, "ms_per_step": 500.0, "peak_memory": 96 * GIB,
        "share_of_ceiling": 0.7, "mfu_full": 0.59, "mfu_causal": 0.55,
        "kernels": {
            "ms_per_step": 450.0, "kinds": {"matrix products": 0.75, "attention": 0.25}, "attention": ["cudnn_sdpa"],
            "top": [{"name": "nvjet", "share": 0.75, "ms": 337.5, "calls": 12.0}],
        },
    }  # fmt: skip
    return {
        "size": "M4", "goal": 0.6, "contenders": [ours | own], "left_out": {},
        "forecast": {"memory": 94 * GIB, "tokens_per_second": 950.0},
    }  # fmt: skip


def test_goals_are_met_or_missed():
    assert goals_of(speed_row()) == {"MFU": False, "memory": True, "time": True}
    assert goals_of(speed_row(mfu_full=0.6)) == {"MFU": True, "memory": True, "time": True}
    assert goals_of(speed_row(peak_memory=89 * GIB))["memory"] is False
    assert goals_of(speed_row(tokens_per_second=840.0))["time"] is False


def test_speed_beside_its_forecast():
    sizes, kinds, kernels = speed_tables({"rows": [speed_row(), {"size": "M5", "skipped": "needs a larger card"}]})
    head, (m4, m5) = sizes[1]
    cells = dict(zip(head, m4, strict=True))
    assert cells["micro-batch"] == "8 x 8" and cells["MFU full"] == "59.0%" and cells["goal"] == "60%"
    assert cells["forecast GiB"] == "94.0 (-2.1%)"
    assert cells["forecast ms"] == "526 (+5%)"  # 1,000 of 950 tokens/s
    assert cells["goals"] == "MFU MISSED, memory met, time met"
    assert m5[:2] == ["M5", "needs a larger card"] and len(m5) == len(head)
    assert kinds[1][1] == [["M4", "90%", "matrix products 75.0%, attention 25.0%", "cudnn_sdpa"]]
    assert kernels[1][1] == [["M4", "75.0%", "337.50", "12", "nvjet"]]


def test_forecast_beside_what_came_of_it():
    def run(size, tokens, loss):
        return {
            "run": f"{size}-{tokens}", "size": size, "n_params_non_embedding": 10, "tokens": tokens, "flops": 1e15,
            "loss": loss, "bits_per_byte": loss / 2,
        }  # fmt: skip

    forecast = {"run": "S4", "tokens": 5.05e6, "value": 3.03, "run_low": 2.9, "run_high": 3.1}
    step = {"rows": [run("S3", 5_000_000, 4.0), run("S4", 5_000_000, 3.0)], "planned": 3}
    (title, _), (_, (_, rows)) = ladder_tables(step | {"forecasts": [{"runs": [forecast]}]})
    assert title == "2 of 3 runs"
    assert rows == [["S4", "3.0300 (2.9000 to 3.1000)", "3.0000", "+1.00 %"]]
    (_, (_, rows)) = ladder_tables(step | {"forecasts": [{"runs": [forecast | {"tokens": 9e6}]}]})[1]
    assert rows[0][2:] == ["not trained", "-"]


@pytest.mark.parametrize("render", [table, markdown])
def test_steps_without_rows_are_named(render):
    result = {
        "device": "a GPU", "command": "benchmark gpu", "versions": {"torch": "2.11"},
        "steps": {name: {"status": "not reached", "rows": []} for name in ("setup", "speed", "sampling", "ladder")},
    }  # fmt: skip
    text = render(result)
    assert text.count("not reached") == 4 and "a GPU: 0 checks" in text
