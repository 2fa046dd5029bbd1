"""Planning, fitting and showing scaling studies.

``fit("points.csv")`` fits a scaling law to the runs of a CSV file and returns its ``FittedLaws``.
The import needs neither torch nor SciPy; the call needs SciPy.
"""

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
) -> "FittedLaws":
    """Fit L(N, D) = E + A N^-alpha + B D^-beta to the runs of a CSV file.

    Args:
        points: The file, one run a row, with columns N (or n_params_non_embedding), D (or tokens), loss, maybe flops.
        columns: The file's own names, as {"N": "n_params", "loss": "val_loss"}.
        where: Rows to keep, as "N>5e7,annealed==true".
        holdout: Runs to leave out and predict: "largest" (greatest compute), "none" or a condition.
        resamples: Bootstrap resamples of the runs.
        seed: Seed of the resampling.
        against: A law stated of these runs, as "E=1.69,A=406,alpha=.34,B=411,beta=.28"; warnings say what is wrong.

    Raises InputError where the file, a column or a value cannot be used, or the runs cannot fit a law.
    """
    from llama_scale.scaling.fitting.fit import fit_surface, try_hold_out
    from llama_scale.scaling.fitting.points import read_points
    from llama_scale.scaling.fitting.stated_law import check_stated_law, parse_law
    from llama_scale.scaling.fitting.summarize import summarize

    stated = parse_law(against) if against else None
    runs = read_points(points, columns, where)
    surface = fit_surface(runs, resamples, seed)
    hold_out, notes = try_hold_out(runs, holdout, resamples, seed)
    if stated:
        notes += check_stated_law(stated, surface)
    return summarize(surface, hold_out, notes)
