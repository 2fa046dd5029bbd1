"""Which form of the law a study takes: the one that predicts its largest runs that are not held out.

The rule is fixed before any outcome: it sees neither the runs that are held out nor how a form fits the runs it was
fitted to, where the one with more parameters always wins.
"""

from dataclasses import replace

import numpy as np

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.fit import DELTA, Fit, check_design, fit_surface, held_out_mask, largest_budget
from llama_scale.scaling.fitting.fitted_laws import FormChoice, FormResult
from llama_scale.scaling.fitting.forms import ADDITIVE, FORMS, Form
from llama_scale.scaling.fitting.points import Points

LEAST_VALIDATED, STARTS = 3, 24
CLEARLY = 0.9  # of the additive form's error
RULE = (
    f"Of the runs that are not held out, those of the greatest compute (within 5 % of it, and at least "
    f"{LEAST_VALIDATED}) are predicted by each form, fitted to the others. The form of least rms error is taken, the "
    f"additive one unless another's error is below {CLEARLY:g} of its own."
)


def choose_form(points: Points, holdout: str = "largest", delta: float = DELTA) -> FormChoice:
    """Return the choice by ``RULE``; ``holdout`` is the rule that the study holds out runs by."""
    known = _without_held_out(points, holdout)
    validation = largest_validated(known.compute)
    results, errors = [], {}
    for form in FORMS.values():
        result = FormResult(form.name, form.formula)
        try:
            fit = _fit(known.select(~validation), form, delta)
            errors[form.name] = prediction_error(fit, known.select(validation))
            result = replace(result, validation_error_percent=errors[form.name])
        except InputError as error:
            result = replace(result, reason=str(error))
        results.append(result)
    chosen = min(errors, key=lambda name: errors[name], default=ADDITIVE.name)
    if errors and errors[chosen] >= CLEARLY * errors.get(ADDITIVE.name, np.inf):
        chosen = ADDITIVE.name
    names = [known.label(int(i)) for i in np.flatnonzero(validation)]
    return FormChoice(RULE, chosen, names, results)


def with_outcome(choice: FormChoice, points: Points, holdout: str, delta: float = DELTA) -> FormChoice:
    """Return a choice with what each form makes of all runs, and of those held out: the outcome, after the choice."""
    try:
        out = held_out_mask(points, holdout) if holdout != "none" else None
    except InputError:
        out = None
    results = []
    for result in choice.results:
        form = FORMS[result.form]
        try:
            fit = _fit(points, form, delta)
            parameters = {name: float(getattr(fit.law, name)) for name in form.parameters}
            rms = 100 * float(np.sqrt(np.mean(fit.residual**2)))
            result = replace(result, parameters=parameters, objective=fit.objective, residual_rms_percent=rms)
            if out is not None:
                error = prediction_error(_fit(points.select(~out), form, delta), points.select(out))
                result = replace(result, holdout_error_percent=error)
        except InputError as error:
            result = replace(result, reason=result.reason or str(error))
        results.append(result)
    return replace(choice, results=results)


def largest_validated(compute: np.ndarray) -> np.ndarray:
    """Return which runs (n,) the forms are judged by: the greatest compute, at least three runs."""
    mask = largest_budget(compute)
    mask[np.argsort(-compute, kind="stable")[:LEAST_VALIDATED]] = True
    return mask


def prediction_error(fit: Fit, points: Points) -> float:
    """Return the rms error of the log loss of runs that the fit has not seen, in percent."""
    return float(100 * np.sqrt(np.mean(np.log(fit.law.loss(points.N, points.D) / points.loss) ** 2)))


def _without_held_out(points: Points, holdout: str) -> Points:
    """Return the runs that are not held out; all where a rule holds out none, or too many for a law."""
    if holdout == "none":
        return points
    try:
        known = points.select(~held_out_mask(points, holdout))
        check_design(known)
    except InputError:
        return points
    return known


def _fit(points: Points, form: Form, delta: float) -> Fit:
    return fit_surface(points, resamples=1, starts=STARTS, form=form, delta=delta)
