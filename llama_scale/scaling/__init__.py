"""Planning, fitting and showing scaling studies.

``fit("points.csv")`` fits a scaling law to the runs of a CSV file and returns its ``FittedLaws``.
The import needs neither torch nor SciPy; the call needs SciPy.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llama_scale.bootstrap import RESAMPLES

if TYPE_CHECKING:
    from llama_scale.scaling.fitting.fitted_laws import FittedLaws

__all__ = ["fit"]


def fit(
    points: str | Path,
    columns: dict[str, str] | None = None,
    where: str | None = None,
    holdout: str = "largest",
    resamples: int = RESAMPLES,
    seed: int = 0,
    against: str | None = None,
    form: str = "auto",
    delta: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> "FittedLaws":
    """Fit a law of the loss, L(N, D), to the runs of a CSV file.

    Args:
        points: The file, one run a row, with columns N (or n_params_non_embedding), D (or tokens), loss, maybe flops.
        columns: The file's own names, as {"N": "n_params", "loss": "val_loss"}.
        where: Rows to keep, as "N>5e7,annealed==true".
        holdout: Runs to leave out and predict: "largest" (greatest compute), "none" or a condition.
        resamples: Bootstrap resamples of the runs.
        seed: Seed of the resampling.
        against: A law stated of these runs, as "E=1.69,A=406,alpha=.34,B=411,beta=.28"; warnings say what is wrong.
        form: "additive", E + A N^-alpha + B D^-beta; "joint", E + (A N^-alpha + B D^-beta)^k; "kaplan", the joint form
            with E = 0; or "auto", the one that predicts the largest runs not held out (``results.choice.RULE``).
        delta: Residual of log loss from which on the Huber loss is straight; None is 1e-3.
        progress: Is told in words what is fitted next.

    Raises InputError where the file, a column or a value cannot be used, or the runs cannot fit a law.
    """
    from llama_scale.scaling.fitting.fit import DELTA, fit_surface, try_hold_out
    from llama_scale.scaling.fitting.forms import form_named
    from llama_scale.scaling.fitting.points import read_points
    from llama_scale.scaling.fitting.results.choice import choose_form, with_outcome
    from llama_scale.scaling.fitting.results.summarize import summarize
    from llama_scale.scaling.fitting.stated_law import check_stated_law, form_of, parse_law

    say = progress or (lambda _: None)
    named = None if form == "auto" else form_named(form)
    stated = parse_law(against) if against else None
    runs, delta, forms = read_points(points, columns, where), DELTA if delta is None else delta, None
    if named is None:
        say("forms of the law")
        forms = choose_form(runs, holdout, delta)
        named = form_named(forms.chosen)
    how = {"form": named, "delta": delta}
    say("law and bootstrap")
    surface = fit_surface(runs, resamples, seed, **how)
    say("hold-out")
    hold_out, notes = try_hold_out(runs, holdout, resamples, seed, **how)
    if forms:
        forms = with_outcome(forms, runs, holdout, delta)
    if stated:
        say("stated law")
        own = surface.form == form_of(stated)
        notes += check_stated_law(
            stated, surface if own else fit_surface(runs, resamples, seed, form=form_of(stated), delta=delta)
        )
    say("intervals and conventions")
    return summarize(surface, hold_out, notes, forms)
