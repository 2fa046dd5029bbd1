"""Check a law that someone states of the same runs: is it an optimum, and within the intervals?"""

import math

from llama_scale.bootstrap import percentile_interval
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fit import FLOOR, Fit, objective
from llama_scale.scaling.fitting.forms import ADDITIVE, FORMS, JOINT, KAPLAN, Form
from llama_scale.scaling.fitting.profile import profiles

TOLERATED_EXCESS = 1e-3


def parse_law(text: str) -> Surface:
    """Read ``"E=1.69,A=406,alpha=.34,B=411,beta=.28"``, with or without k; raise InputError when it is not that."""
    values = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name in values:
            raise InputError(f"against: {name} is given twice; give it once")
        try:
            values[name] = float(value)
        except ValueError:
            raise InputError(f"against: {part.strip()!r}: expected NAME=NUMBER") from None
    if not any(set(values) == set(form.parameters) for form in FORMS.values()):
        found = ", ".join(values)
        raise InputError(f"against: expected {', '.join(ADDITIVE.parameters)}, found {found} (a joint law has k too)")
    if not all(0 < value < math.inf for value in values.values()):
        raise InputError(f"against: {', '.join(values)} must be positive")
    return Surface(**{"E": 0.0} | values)


def form_of(law: Surface) -> Form:
    """Return the form of a stated law."""
    return KAPLAN if law.E == 0 else ADDITIVE if law.k == 1 else JOINT


def check_stated_law(law: Surface, fit: Fit) -> list[str]:
    """Return what is wrong with a stated law of runs that were fitted in its form, in words; empty when nothing is.

    A law whose objective lies above the least was left before the optimum. That is the known
    error of approach 3 in Hoffmann et al. 2022: averaged over the runs the objective is so small
    that an optimizer's default tolerance ends the search far away (arXiv 2404.10102).
    """
    complaints, value, profile = [], objective(law, fit.points, fit.delta), profiles(fit)
    excess = value / max(fit.objective, FLOOR) - 1
    if excess > TOLERATED_EXCESS:
        complaints.append(
            f"The stated law is no optimum of these runs: its objective is {value:.8f}, "
            f"{100 * excess:.2g} % above the least, {fit.objective:.8f}. An objective averaged "
            "over the runs and minimized to a default tolerance stops early like this."
        )
    for name in fit.form.parameters:
        stated, ends = getattr(law, name), profile[name]
        low, high = percentile_interval(getattr(fit.resampled, name))
        beyond = (ends.low is not None and stated < ends.low) or (ends.high is not None and stated > ends.high)
        if beyond and not low <= stated <= high:
            complaints.append(
                f"The stated {name} = {stated:.4g} lies outside both 95 % intervals of these runs "
                f"(bootstrap {low:.4g} to {high:.4g})."
            )
    return complaints
