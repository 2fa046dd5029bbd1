"""Forecasts are dated, never written over, and scored by what was measured."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from llama_scale.errors import InputError
from llama_scale.files import write_json
from llama_scale.scaling.fitting.fit import hold_out
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.fitting.results.summarize import summarize
from llama_scale.scaling.forecasting.forecast import (
    cautions,
    forecast,
    other_conventions,
    read_forecast,
    score,
    write_forecast,
)
from tests.conftest import run_here
from tests.llama_scale.scaling.helpers import grid

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


def test_a_forecast_has_the_interval_of_the_same_run_held_out(tmp_path):
    """A report shows both: drawn from a part of the resamples alone, one said inside where the other said outside."""
    held = hold_out(grid(sizes=4, budgets=4), "largest")
    summarize(held.fit, None).write(tmp_path / "laws.json")
    (size,), (tokens,) = held.points.N, held.points.D
    (run,) = forecast(tmp_path, f"{size}:{tokens}").runs
    for name in ("value", "low", "high", "run_low", "run_high"):
        assert getattr(run, name) == pytest.approx(held.predicted[name][0], rel=1e-7), name


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


def test_a_forecast_by_a_law_in_millions_is_refused(study, laws, tmp_path):
    """M2's parameters in a law of N in millions are a million times too many: the loss would be E."""
    small = [replace(run, model_size=run.model_size / 1e6, tokens=run.tokens / 1e6) for run in laws.runs]
    replace(laws, runs=small).write(tmp_path / "laws.json")
    with pytest.raises(InputError, match=r"N has a median of .* counted in millions or billions"):
        forecast(tmp_path, "M2:2e9")
    thousandth = [replace(run, tokens=run.tokens / 1e6) for run in laws.runs]
    replace(laws, runs=thousandth).write(tmp_path / "laws.json")
    with pytest.raises(InputError, match="tokens per parameter; is D counted in thousands"):
        forecast(tmp_path, "M2:2e9")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("5e5:1e6", None),
        ("1.6e6:9e6", None),
        ("1e9:2e10", "times the largest compute of a run fitted; more than ten times outside the runs"),
        ("1000:1e8", "0.00610 times the smallest size of a run fitted"),
        ("1e6:2e3", "times the smallest compute of a run fitted"),
        ("3e6:2.5e6", "0.833 tokens per parameter, where no model is known to train well"),
    ],
)
def test_a_forecast_far_from_the_runs_says_so(laws, study, run, words):
    """The runs have 164,000 to 3.1M parameters and 250,000 to 4M tokens."""
    found = cautions(laws, forecast(study, run))
    assert [words in text for text in found[:1]] == ([True] if words else [])


def test_points_of_other_conventions_are_named(study, tmp_path):
    """Scored by bits per byte instead of nats, or with embeddings counted, a forecast is not what was measured."""
    made = forecast(study, "5e5:1e6")
    assert other_conventions(made, read_points(study / "points.csv")) == []
    bits = other_conventions(made, read_points(study / "points.csv", {"loss": "bits_per_byte"}))
    assert bits == [
        "the forecast's loss is column 'loss' in nats per token, that of these points column 'bits_per_byte'; name it "
        "with columns"
    ]
    (size,) = other_conventions(made, read_points(study / "points.csv", {"N": "n_params"}))
    assert "size is non-embedding parameters, that of these points all parameters, embeddings included" in size
    write_forecast(made, tmp_path / "f.json")
    argv = ("score", "f.json", "--points", str(study / "points.csv"), "--columns", "loss=bits_per_byte")
    done = run_here("scaling.py", *argv, cwd=tmp_path)
    assert done.returncode == 0 and f"warning: {bits[0]}" in done.stdout


def test_the_commands_repeat_what_the_law_warns_of(study, laws, tmp_path):
    warned = [f"warning: {text}" for text in laws.warnings]
    assert warned
    for argv in (
        ("recommend", str(study), "--budget=6e14"),
        ("forecast", str(study), "--runs=5e5:1e6", "--out=f.json"),
    ):
        done = run_here("scaling.py", *argv, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stdout.splitlines() if line.startswith("warning")] == warned
    done = run_here("scaling.py", "recommend", str(study), "--budget=6e14", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["warnings"] == laws.warnings
