"""Forecasts are dated, never written over, and scored by what was measured."""

from datetime import UTC, datetime

import pytest

from llama_scale.errors import InputError
from llama_scale.files import write_json
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.forecasting.forecast import forecast, read_forecast, score, write_forecast

# A forecast as it was written before its fields had the names they have now.
V1 = {
    "format": "llama_scale.forecast.v1",
    "made": "2030-01-02T00:00:00+00:00",
    "laws_sha256": "a",
    "points_sha256": "b",
    "conventions": {"N": "non-embedding", "D": "tokens", "loss": "nats", "compute": "6ND"},
    "largest_compute_fitted": 1e15,
    "runs": [
        {"run": "S1:1e9", "N": 394048, "D": 1e9, "compute": 2e15}
        | {"value": 3.0, "low": 2.9, "high": 3.1, "run_low": 2.8, "run_high": 3.2}
    ],
}


def test_a_forecast_of_an_older_format_is_read_and_scored(tmp_path):
    write_json(tmp_path / "old.json", V1)
    old = read_forecast(tmp_path / "old.json")
    (run,) = old.runs
    assert (old.written_at, old.largest_flops_fitted) == (V1["made"], 1e15)
    assert old.conventions.model_size == "non-embedding" and old.conventions.flops == "6ND"
    assert (run.model_size, run.tokens, run.flops) == (394_048, 1e9, 2e15)
    (tmp_path / "p.csv").write_text("N,D,loss\n394048,1e9,3.1\n")
    assert score(old, read_points(tmp_path / "p.csv")).covered == 1
    new = write_forecast(old, tmp_path / "new.json")
    assert read_forecast(new) == old
    for broken, message in (
        (V1 | {"format": "x"}, "not llama_scale.forecast.v2"),
        ({k: v for k, v in V1.items() if k != "runs"}, "no 'runs'"),
        (V1 | {"runs": [{"run": "S1:1e9"}]}, r"no 'runs\[0\]\.model_size'"),
    ):
        write_json(tmp_path / "broken.json", broken)
        with pytest.raises(InputError, match=message):
            read_forecast(tmp_path / "broken.json")


def test_forecast_is_dated_scored_and_never_written_over(study, tmp_path):
    made = forecast(study, "6e6:8e6, 6e6:1.6e7", datetime(2030, 1, 2, tzinfo=UTC))
    assert made.written_at == "2030-01-02T00:00:00+00:00"
    first, second = made.runs
    path = tmp_path / "later.csv"
    truth = first.value * 1.001
    path.write_text(f"N,D,loss\n6000000,8001000,{truth}\n1e5,1e6,3\n")
    scored = score(made, read_points(path))
    assert scored.runs[0].error_percent == pytest.approx(100 * (1 / 1.001 - 1))
    assert scored.runs[0].covered is True
    assert scored.runs[1].measured is None
    assert (scored.measured, scored.covered) == (1, 1)
    far = score(made, read_points(_row(tmp_path, second.value * 1.5)))
    assert far.runs[1].covered is False
    write_forecast(made, tmp_path / "f.json")
    assert read_forecast(tmp_path / "f.json") == made


def _row(folder, loss):
    path = folder / "far.csv"
    path.write_text(f"N,D,loss\n6e6,1.6e7,{loss}\n")
    return path


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("6e6", "'6e6': expected SIZE:TOKENS"),
        ("6e6:-2", "expected SIZE:TOKENS"),
        ("164000:250000", "the law was fitted to it"),
        ("M99:1e9", "M99"),
    ],
)
def test_bad_forecasts_are_refused(study, runs, message):
    with pytest.raises(InputError, match=message):
        forecast(study, runs)
