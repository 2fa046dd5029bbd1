"""The figure of a study: its values are those of the sealed rows, its files are pictures."""

import numpy as np

from evals.repair.report.curves import curves
from tests.evals.repair.helpers import mixed, study


def test_values_are_those_of_the_rows_and_the_pictures_are_written(tmp_path):
    result, rows, _ = study(tmp_path, mixed, 4, **{"plan.arms": "resample,tests", "plan.rounds": 2})
    figure = curves(result, "repair-mbpp")
    assert [panel.key for panel in figure.panels] == ["repair-mbpp-programs", "repair-mbpp-tokens"]
    first = [row for row in rows if row["arm"] == "tests" and row["round"] == 0]
    for panel in figure.panels:
        lines = {series.name: series for series in panel.series if series.kind == "line"}
        assert list(lines) == ["resample", "tests"] and lines["resample"].dash
        assert lines["tests"].y[0] == 100 * np.mean([row["solved"] for row in first])
        assert panel.x.range[1] > max(series.x.max() for series in lines.values())
    assert 1 < figure.panels[0].series[2].x[0] < 1.1, "beside the other arm"
    highest = 100 * max(p["rate"]["interval"][1] for arm in result["arms"].values() for p in arm["curve"])
    assert all(panel.y.range == (0, 100) and highest > 80 for panel in figure.panels)
    names = ("prompt_tokens", "tokens", "critic_prompt_tokens", "critic_tokens")
    assert figure.panels[1].series[2].x[0] == sum(row[name] for row in first for name in names)
    assert (tmp_path / "figures" / "repair-mbpp.png").read_bytes().startswith(b"\x89PNG")
    assert b"tasks solved" in (tmp_path / "figures" / "repair-mbpp.svg").read_bytes()


def test_the_axis_ends_soon_above_what_is_shown():
    interval = {"value": 0.1, "interval": [0.05, 0.19]}
    curve = [{"rate": interval, "tokens": 9, "programs_at_most": 1, "solved": 5, "chains": 50}]
    (panel, _) = curves({"arms": {"a": {"curve": curve}}, "n_tasks": 50}, "k").panels
    assert panel.y.range == (0, 20) and [label for _, label in panel.y.ticks] == ["0", "5", "10", "15", "20"]


def test_without_token_counts_there_is_one_panel(tmp_path):
    result, _, _ = study(tmp_path, mixed, 2, **{"plan.arms": "resample,tests", "plan.rounds": 1})
    result["arms"]["tests"]["curve"][0]["tokens"] = None
    assert [panel.key for panel in curves(result, "k").panels] == ["k-programs"]
