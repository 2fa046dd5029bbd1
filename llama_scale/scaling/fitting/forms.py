"""The forms that a law of the loss can have: additive, joint, and joint without a floor."""

from dataclasses import dataclass

import numpy as np

from llama_scale.errors import InputError, nearest
from llama_scale.scaling.fitting.chinchilla import LOWER_EXPONENT, UPPER_EXPONENT, Curvature, Surface, SurfaceModel

LOWER_K, UPPER_K = 0.02, 20.0
NO_FLOOR = -100.0  # ln E of a law without E, whose share of any loss is below the precision of a number
NATURAL_LN = 800.0  # reach of ln A and ln B at N = D = 1
LN_MOST = 700.0  # of the logarithm of a number
START_EXPONENTS = 0.15, 0.4, 0.9
START_KS = 0.2, 0.5, 1.0, 2.0
START_FLOORS = 0.05, 0.6  # of the least loss


@dataclass(frozen=True)
class Form:
    """A form of the law: its name, formula, and the parameters of ``Surface`` that it fits."""

    name: str
    formula: str
    parameters: tuple[str, ...]

    def model(
        self, N: np.ndarray, D: np.ndarray, center: tuple[float, float] | None = None, natural: bool = False
    ) -> SurfaceModel:
        """Return log loss at N, D (n,) as a function of theta; ``natural`` is as of ``JointModel``."""
        if "k" not in self.parameters:
            return SurfaceModel(N, D, center)
        return JointModel(N, D, center, floor="E" in self.parameters, natural=natural)


ADDITIVE = Form("additive", "L(N, D) = E + A N^-alpha + B D^-beta", ("E", "A", "alpha", "B", "beta"))
JOINT = Form("joint", "L(N, D) = E + (A N^-alpha + B D^-beta)^k", ("E", "A", "alpha", "B", "beta", "k"))
KAPLAN = Form("kaplan", "L(N, D) = (A N^-alpha + B D^-beta)^k", ("A", "alpha", "B", "beta", "k"))
FORMS = {form.name: form for form in (ADDITIVE, JOINT, KAPLAN)}


def form_named(name: str) -> Form:
    """Return a form by its name; raise InputError where there is none."""
    if name not in FORMS:
        raise InputError(f"form: expected auto, {', '.join(FORMS)}, found {name!r}{nearest(name, FORMS)}")
    return FORMS[name]


class JointModel(SurfaceModel):
    """log L of the joint form at n points as a function of theta = (a, alpha', b, beta', ln E, ln k).

    With p = a - alpha' x and q = b - beta' y (x, y the centered ln N, ln D) the reducible loss is e^v,
    v = k log(e^(p/k) + e^(q/k)): a soft maximum of two lines with temperature k. alpha' = k alpha and beta' = k beta
    are the exponents where size alone or data alone limits, and hardly correlate with k. ``natural`` takes v = k
    log(e^p + e^q) instead, whose theta has alpha and beta themselves: what a profile of them fixes. Without ``floor`` E
    is 0.
    """

    names = (*SurfaceModel.names, "k")

    def __init__(
        self,
        N: np.ndarray,
        D: np.ndarray,
        center: tuple[float, float] | None = None,
        floor: bool = True,
        natural: bool = False,
    ):
        super().__init__(N, D, center)
        self.floor, self.natural = floor, natural
        # p - q changes by these for a unit of a, alpha', b, beta'.
        ones = np.ones_like(self.x)
        self.apart = np.stack([ones, -self.x, -ones, self.y])  # (4, n)
        self.squares = (self.apart[:, None] * self.apart[None]).reshape(16, -1).T  # (n, 16)

    def _soft_maximum(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return p, q, v, the share of e^p (S, n each), k and ln E (S, 1)."""
        a, alpha, b, beta, e, ln_k = (theta[:, i : i + 1] for i in range(6))
        k = np.exp(ln_k)
        scale = 1.0 if self.natural else k
        p, q = (a - alpha * self.x) / scale, (b - beta * self.y) / scale
        total = np.logaddexp(p, q)
        return p, q, k * total, np.exp(p - total), k, e

    def value(self, theta: np.ndarray) -> np.ndarray:
        """Return log loss (S, n) for parameters (S, 6)."""
        _, _, v, _, _, e = self._soft_maximum(theta)
        return np.logaddexp(e, v)

    def expand(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, Curvature]:
        """Return the value (S, n), its gradient (S, 6, n) and its curvature, as ``SurfaceModel.expand``."""
        p, q, v, w, k, e = self._soft_maximum(theta)
        loss = np.logaddexp(e, v)
        share, floor = np.exp(v - loss), np.exp(e - loss)  # of the reducible loss and of E, (S, n)
        both = w * (1 - w)
        # First and second derivatives of v by the two lines, and by ln k. Of the soft maximum: w, 1 - w and k times the
        # entropy of the shares; of the natural form, where the lines are not divided by k, k w, k (1 - w) and v.
        if self.natural:
            first, second, along_k = k * w, k * (1 - w), v
            bend, cross, bend_k = k * both, (first, second), v
        else:
            first, second, along_k = w, 1 - w, v - k * (w * p + (1 - w) * q)
            turn = both * (q - p)
            bend, cross, bend_k = both / k, (turn, -turn), along_k + k * turn * (q - p)
        inner = np.stack(
            np.broadcast_arrays(first, -first * self.x, second, -second * self.y, 0.0, along_k), axis=1
        )  # (S, 6, n), the gradient of v
        gradient = share[:, None] * inner
        gradient[:, 4] = floor

        def curvature(u: np.ndarray, weight: np.ndarray) -> np.ndarray:
            # log L = log(e^(ln E) + e^v): its second derivatives are share (v'' + v' v'^T) and the floor's share in
            # the place of E, minus the outer product of the gradient. See ``SurfaceModel.expand`` for the sum.
            total = (gradient * (u + weight)[:, None]) @ gradient.transpose(0, 2, 1)  # (S, 6, 6)
            m = weight * share
            total -= (inner * m[:, None]) @ inner.transpose(0, 2, 1)
            total[:, :4, :4] -= ((m * bend) @ self.squares).reshape(-1, 4, 4)
            for i, z, slope in ((0, self.x, cross[0]), (2, self.y, cross[1])):
                mixed = m * slope
                for j, entry in ((i, mixed.sum(1)), (i + 1, -(mixed @ z))):
                    total[:, j, 5] -= entry
                    total[:, 5, j] -= entry
            total[:, 4, 4] -= (weight * floor).sum(1)
            total[:, 5, 5] -= (m * bend_k).sum(1)
            return total

        return loss, gradient, curvature

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper bounds (6,) of theta for losses (n,)."""
        lower, upper = super().bounds(loss)
        if self.natural:
            # The exponents themselves, those of theta over k, within what k can be.
            lower[[0, 2]], upper[[0, 2]] = -NATURAL_LN, NATURAL_LN
            lower[[1, 3]], upper[[1, 3]] = LOWER_EXPONENT / UPPER_K, UPPER_EXPONENT / LOWER_K
        if not self.floor:
            lower[4] = upper[4] = NO_FLOOR
        return np.append(lower, np.log(LOWER_K)), np.append(upper, np.log(UPPER_K))

    def starts(self, loss: np.ndarray, count: int) -> np.ndarray:
        """Return starts (S, 6): grids of the exponents, k and E, with A and B by least squares; at most ``count``."""
        floors = START_FLOORS if self.floor else (0.0,)
        starts = []
        for floor in floors:
            for k in START_KS:
                # (L - E)^(1/k) is linear in A and B; of relative errors of L, its own are 1/k times as large.
                power = (loss - floor * loss.min()) ** (1 / k)
                for alpha in START_EXPONENTS:
                    for beta in START_EXPONENTS:
                        columns = np.exp(-alpha / k * self.x), np.exp(-beta / k * self.y)
                        terms = np.linalg.lstsq(np.stack(columns, 1) / power[:, None], np.ones_like(loss), rcond=None)[
                            0
                        ]
                        a, b = k * np.log(np.maximum(terms, 1e-3 * power.min()))
                        e = np.log(floor * loss.min()) if floor else NO_FLOOR
                        starts.append([a, alpha, b, beta, e, np.log(k)])
        step = max(1, len(starts) // max(count, 1))
        return np.array(starts)[::step]

    def theta_of(self, law: Surface) -> np.ndarray:
        """Return theta (6,) of one law: the inverse of ``law_of``."""
        scale = 1.0 if self.natural else law.k
        a, b = np.log(law.A) - law.alpha * self.center[0], np.log(law.B) - law.beta * self.center[1]
        e = np.log(law.E) if law.E > 0 else NO_FLOOR
        return np.array([scale * a, scale * law.alpha, scale * b, scale * law.beta, e, np.log(law.k)])

    def law_of(self, theta: np.ndarray) -> Surface:
        """Return the law of theta (6,) or the laws of theta (S, 6)."""
        a, alpha, b, beta, e, ln_k = np.moveaxis(np.asarray(theta), -1, 0)
        x, y = self.center
        # ln A is a + alpha x, over k where theta has k times the formula's. At a small k no number may hold e to it.
        log_A, log_B, k = a + alpha * x, b + beta * y, np.exp(ln_k)
        scale = 1.0
        if not self.natural:
            # The soft maximum of two lines is then taken at the least k that does: it differs at its corner alone.
            scale = k = np.maximum(k, np.maximum(np.abs(log_A), np.abs(log_B)) / LN_MOST)
        E = np.exp(e) if self.floor else 0.0 * e
        A, B = (np.exp(np.minimum(log / scale, LN_MOST)) for log in (log_A, log_B))
        return Surface(E, A, alpha / scale, B, beta / scale, k)
