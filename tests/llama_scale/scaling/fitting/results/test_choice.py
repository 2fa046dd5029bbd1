"""The form of a law is chosen by a rule that does not see the outcome."""

import json
from dataclasses import replace

import numpy as np
import pytest

from llama_scale import scaling
from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fit import fit_surface
from llama_scale.scaling.fitting.fitted_laws import FittedLaws, FormChoice, FormResult
from llama_scale.scaling.fitting.forms import FORMS
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.fitting.results.choice import RULE, choose_form, largest_validated, with_outcome
from llama_scale.scaling.fitting.results.summarize import summarize
from llama_scale.scaling.forecasting.design import forecast_width, target_beyond
from llama_scale.scaling.forecasting.recommend import recommend
from llama_scale.scaling.report.page import write_report
from llama_scale.scaling.report.tables import tables
from llama_scale.scaling.report.text import table, why_chosen
from tests.llama_scale.scaling.helpers import SHARED, TRUE, grid, points

JOINT_LAW = Surface(E=0.6, A=300.0, alpha=0.5, B=900.0, beta=0.45, k=0.45)


def write_grid(path, law, noise=0.004, seed=0):
    points = grid(5, 5, noise, seed, law)
    rows = [f"{n},{d},{loss}" for n, d, loss in zip(points.N, points.D, points.loss, strict=True)]
    path.write_text("\n".join(["N,D,loss", *rows]) + "\n")
    return path


def test_the_form_of_the_truth_is_taken_and_the_rest_is_on_record():
    joint = [choose_form(grid(5, 5, 0.004, seed, JOINT_LAW)).chosen for seed in range(4)]
    assert "additive" not in joint
    additive = [choose_form(grid(5, 5, 0.004, seed, TRUE)).chosen for seed in range(4)]
    assert additive.count("additive") >= 3 and "kaplan" not in additive


def test_the_choice_does_not_see_the_runs_held_out():
    points = grid(5, 5, 0.004, 1, JOINT_LAW)
    changed = points.loss.copy()
    changed[points.compute == points.compute.max()] *= 3
    other = grid(5, 5, 0.004, 1, JOINT_LAW)
    object.__setattr__(other, "loss", changed)
    one, two = choose_form(points), choose_form(other)
    assert one == two
    assert with_outcome(one, points, "largest") != with_outcome(two, other, "largest")
    without = points.select(points.compute < points.compute.max())
    assert choose_form(without, "none").results == one.results, "as a study fits before the last run is trained"


def test_the_largest_runs_judge():
    compute = np.array([1.0, 5, 9.6, 10, 3, 9.7, 9.9])
    assert largest_validated(compute).tolist() == [False, False, True, True, False, True, True]
    assert largest_validated(np.array([1.0, 2, 4, 8])).tolist() == [False, True, True, True]


def test_what_is_said_of_the_choice_is_what_the_rule_did():
    """A form is not called the best where another predicted better, nor where none could be tried."""
    one, two, none = (FormResult(name, "", validation_error_percent=error) for name, error in
                      (("additive", 1.0), ("joint", 0.95), ("kaplan", None)))  # fmt: skip
    text = why_chosen(FormChoice(RULE, "additive", ["a", "b", "c"], [one, two, none]))
    said = "additive: joint does not predict the largest 3 runs not held out clearly better"
    assert text == f"{said} (rms error 0.95 % against 1.0 %)"
    better = replace(two, validation_error_percent=0.5)
    text = why_chosen(FormChoice(RULE, "joint", ["a", "b", "c"], [one, better, none]))
    assert text == "joint, which predicts best the largest 3 runs not held out (rms error 0.50 %)"


def test_of_one_budget_no_form_can_be_tried():
    """Every run is among the largest: the additive form stands, and nothing is said of a prediction."""
    N = np.geomspace(8e4, 1.7e6, 9)
    runs = points(N, 1e12 / 6 / N, TRUE.loss(N, 1e12 / 6 / N))
    choice = choose_form(runs)
    assert choice.chosen == "additive" and all(row.validation_error_percent is None for row in choice.results)
    assert why_chosen(choice) == "additive: no form could be fitted without the runs that are to judge it"
    caption = tables(summarize(fit_surface(runs, resamples=20), None, forms=choice))[1].caption
    assert "Predicted here" not in caption and "0 runs cannot fit" in caption


def test_errors_are_those_of_fits_that_have_not_seen_the_runs():
    points = grid(5, 5, 0.004, 2, JOINT_LAW)
    outcome = with_outcome(choose_form(points), points, "largest")
    largest = points.compute == points.compute.max()
    known = points.select(~largest)
    validated = largest_validated(known.compute)
    for result in outcome.results:
        form = FORMS[result.form]
        for seen, unseen, found in (
            (points.select(~largest), points.select(largest), result.holdout_error_percent),
            (known.select(~validated), known.select(validated), result.validation_error_percent),
        ):
            law = fit_surface(seen, resamples=1, form=form).law
            error = np.log(law.loss(unseen.N, unseen.D) / unseen.loss)
            assert found == pytest.approx(100 * np.sqrt(np.mean(error**2)), rel=1e-6)


@pytest.mark.parametrize("name", ["ScalingLaws", "ScalingLawsHE"])
def test_public_code_runs_are_predicted_better_by_the_joint_form(name):
    """The Stack: the largest budget, left out, by the additive form 1.9 and 2.8 % off, by the joint one 1.4 and 1.8."""
    path = SHARED / "bigcode_stack" / f"python_val_loss_{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    points = read_points(path, {"N": "n_params", "D": "tokens", "loss": "python_val_loss"}, "N>5e7")
    outcome = with_outcome(choose_form(points), points, "largest")
    error = {result.form: result.holdout_error_percent for result in outcome.results}
    assert outcome.chosen == "joint" and error["joint"] < 0.75 * error["additive"]


@pytest.mark.parametrize("form", ["auto", "kaplan"])
def test_everything_works_with_either_form(tmp_path, form):
    path = write_grid(tmp_path / "points.csv", JOINT_LAW)
    laws = scaling.fit(path, resamples=100, form=form)
    laws.write(tmp_path / "laws.json")
    assert FittedLaws.read(tmp_path) == laws
    saved = json.loads((tmp_path / "laws.json").read_text())
    assert saved["format"] == "llama_scale.laws.v2"
    assert (saved["forms"] is None) == (form != "auto")
    if form == "auto":
        assert saved["forms"]["rule"] == RULE and saved["forms"]["chosen"] == laws.surface.form == "joint"
        assert {row["form"] for row in saved["forms"]["results"]} == set(FORMS)
        assert any(shown.key == "forms" for shown in tables(laws))
    fit = fit_surface(read_points(path), 100, form=FORMS[laws.surface.form])
    predicted, C = laws.predict(1e7, 1e8), 8e13
    for name, value in fit.predict(1e7, 1e8).items():
        assert getattr(predicted, name) == pytest.approx(value[0], rel=1e-6), name
    k = laws.surface.parameters["k"].value
    assert laws.surface.limits["k alpha"].value == pytest.approx(k * laws.law.alpha)
    best = recommend(laws, C).best
    assert best.loss.value == pytest.approx(fit.law.loss(best.model_size, best.tokens), rel=1e-6)
    assert set(laws.holdout.parameters) >= {"A", "alpha", "B", "beta", "k"}
    assert "(A N^-alpha + B D^-beta)^k" in table(laws)
    assert (tmp_path / "report.html") in write_report(tmp_path)
    assert "(A N^-α + B D^-β)^k" in (tmp_path / "report.html").read_text()


def test_a_design_is_judged_with_either_law():
    points = grid(5, 5, 0.0, 0, JOINT_LAW)
    target = target_beyond(points.compute.max(), JOINT_LAW)
    widths = [forecast_width(points.N, points.D, target, noise, 60, JOINT_LAW) for noise in (0.002, 0.008)]
    assert 0 < widths[0] < widths[1] / 2
