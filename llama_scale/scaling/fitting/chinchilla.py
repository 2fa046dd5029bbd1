"""Scaling laws: their formulas, and the compute-optimal sizes that follow from them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import product

import numpy as np
from scipy.optimize import nnls

Numbers = float | np.ndarray  # one, or an array of them
Curvature = Callable[[np.ndarray, np.ndarray], np.ndarray]
LOWER_EXPONENT, UPPER_EXPONENT = 0.01, 12.0
LN_LARGEST = np.log(1e30)
STEPS = 100


@dataclass(frozen=True)
class Surface:
    """L(N, D) = E + (A N^-alpha + B D^-beta)^k.

    k = 1 is the additive law of Hoffmann et al. 2022 (arXiv 2203.15556, approach 3), E = 0 that of Kaplan et al. 2020
    (arXiv 2001.08361, equation 1.5), all free that of Busbridge et al. 2025 (arXiv 2502.08606). With k < 1 a larger
    model gains more from the same data. L in the unit of the fitted loss (nats per token), N parameters, D tokens. Each
    field is a number, or an array (S,) with one law for each resample of a bootstrap.
    """

    E: Numbers
    A: Numbers
    alpha: Numbers
    B: Numbers
    beta: Numbers
    k: Numbers = 1.0

    def loss(self, N: Numbers, D: Numbers) -> np.ndarray:
        """Return the loss at N and D (n,): (n,), or (S, n) for S laws."""
        E, A, alpha, B, beta, k = (np.asarray(getattr(self, f.name))[..., None] for f in fields(self))
        # e^(k log(A N^-alpha + B D^-beta)), the sum by its logarithms: of a steep exponent N^-alpha alone may be 0.
        loss = E + np.exp(k * np.logaddexp(np.log(A) - alpha * np.log(N), np.log(B) - beta * np.log(D)))
        return loss[..., 0] if np.ndim(N) == np.ndim(D) == 0 else loss

    def optimum(self, C: np.ndarray, flops: "Flops") -> tuple[np.ndarray, np.ndarray]:
        """Return N and D of least loss at compute C (n,), each (n,) or (S, n) for S laws.

        On the line of equal compute, D = C / flops.per_token(N); there the loss is least where
        alpha A N^-alpha = beta B D^-beta d ln(flops per token) / d ln N, solved by Newton's
        method on ln N from the closed form for 6ND; a step out of the bracket halves it instead.

        For 6ND the derivative is 1, so both terms fall equally fast: N*(C) is proportional to
        C^(beta / (alpha + beta)). Where a token costs 6N + c, as with attention, it is below 1 at
        small N: size is cheaper there than 6ND says, and the optimum larger. Neither E nor k moves the optimum.
        """
        A, alpha, B, beta = (np.asarray(x)[..., None] for x in (self.A, self.alpha, self.B, self.beta))
        ratio = np.log(alpha * A) - np.log(beta * B)
        n = np.clip((ratio + beta * np.log(np.asarray(C) / 6)) / (alpha + beta), 0, LN_LARGEST)  # ln N
        low, high = np.zeros_like(n), np.full_like(n, LN_LARGEST)
        for _ in range(STEPS):
            N = np.exp(n)
            slope = flops.elasticity(N)
            # ln of the left over the right side of the condition: positive where N is too small.
            gain = ratio - alpha * n + beta * np.log(C / flops.per_token(N)) - np.log(slope)
            low, high = np.where(gain > 0, n, low), np.where(gain > 0, high, n)
            step = n + gain / (alpha + beta * slope + np.maximum(flops.elasticity_growth(N), 0))
            before, n = n, np.where((low <= step) & (step <= high), step, (low + high) / 2)
            if np.abs(n - before).max() < 1e-12:
                break
        N = np.exp(n)
        return N, C / flops.per_token(N)

    @property
    def exponent(self) -> Numbers:
        """The exponent a of N*(C) ~ C^a where C = 6ND; that of D*(C) is 1 - a."""
        return self.beta / (self.alpha + self.beta)


# Besiroglu et al. 2024, arXiv 2404.10102: the runs of Hoffmann et al. fitted again.
BESIROGLU = Surface(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)


@dataclass(frozen=True)
class Flops:
    """Training FLOPs of a token as a function of size: 6N (1 + c N^-g)^power, c >= 0, 0 <= g <= 1.

    c = 0 is the convention 6ND. Attention and the output head grow more slowly than N, so an exact count lies above 6ND
    by ever less (power 1); one whose N has tables that do not multiply lies below (power -1). Both cost more than
    nothing, and the more the larger N is, at any N. ``error`` is the largest relative deviation from the counts fitted.
    """

    name: str
    c: float = 0.0
    g: float = 1.0
    power: int = 1
    error: float = 0.0

    def per_token(self, N: Numbers) -> Numbers:
        """Return FLOPs for each training token."""
        return 6 * N * (1 + self.c * N**-self.g) ** self.power

    def elasticity(self, N: np.ndarray) -> np.ndarray:
        """Return d ln(per_token) / d ln N: the rise in percent for 1 % more N."""
        extra = self.c * N**-self.g
        return (1 + (1 - self.power * self.g) * extra) / (1 + extra)

    def elasticity_growth(self, N: np.ndarray) -> np.ndarray:
        """Return d ln(elasticity) / d ln N."""
        extra = self.c * N**-self.g
        return self.power * self.g**2 * extra / (1 + extra) ** 2 / self.elasticity(N)

    def formula(self) -> str:
        """Return the FLOPs of a token as text."""
        sign = " " if self.power > 0 else " / "
        return f"6N{sign}(1 + {self.c:.4g} N^-{self.g:.4g})" if self.c else "6N"


def fit_flops(name: str, N: np.ndarray, D: np.ndarray, flops: np.ndarray) -> Flops:
    """Return the FLOPs of a token that a column of counts implies (see ``Flops``).

    The exponent is that of least squares in logarithms, clipped to [0, 1]: beyond, a few sizes would promise sizes that
    cost nothing. Where the counts lie on both sides of 6ND, the excess over 6ND is its mean at every size.
    """
    ratio = flops / (6 * N * D)
    power = 1 if ratio.mean() >= 1 else -1
    excess, g = ratio**power - 1, 0.0
    if np.all(excess > 1e-9):
        if len(np.unique(N)) > 1:
            g = float(np.clip(-np.polyfit(np.log(N), np.log(excess), 1)[0], 0, 1))
        c = float(np.exp(np.mean(np.log(excess) + g * np.log(N))))
    else:
        c = float(abs(ratio.mean() ** power - 1))
    law = Flops(name, c, g, power)
    return replace(law, error=float(np.abs(law.per_token(N) * D / flops - 1).max()))


class SurfaceModel:
    """log L at n points as a function of theta = (ln A', alpha, ln B', beta, ln E).

    ln N and ln D are centered, so that A' and B' are the sizes of the two terms at the middle of
    the points and hardly correlate with the exponents: log L = log(e^(ln A' - alpha x) +
    e^(ln B' - beta y) + e^(ln E)), whose terms stay within range there.
    """

    names: tuple[str, ...] = ("A", "alpha", "B", "beta", "E")  # of the entries of theta

    def __init__(self, N: np.ndarray, D: np.ndarray, center: tuple[float, float] | None = None):
        self.center = center or (np.log(N).mean(), np.log(D).mean())
        self.x, self.y = np.log(N) - self.center[0], np.log(D) - self.center[1]  # (n,)

    def value(self, theta: np.ndarray) -> np.ndarray:
        """Return log loss (S, n) for parameters (S, 5)."""
        return np.log(sum(self._terms(theta)))

    def _terms(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        a, alpha, b, beta, e = (theta[:, i : i + 1] for i in range(5))
        return np.exp(a - alpha * self.x), np.exp(b - beta * self.y), np.exp(e)

    def expand(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, Curvature]:
        """Return the value (S, n), its gradient (S, 5, n) and a function for its curvature.

        Of weights u and v (S, n) the function returns, summed over the points, u times the outer product of the
        gradient with itself minus v times the second derivatives: (S, 5, 5).
        """
        # d log L / d ln A' is the share p of the first term in the loss, d log L / d alpha is -p x,
        # and so on: the derivatives of a log of a sum of exponentials are its softmax shares.
        terms = self._terms(theta)
        loss = sum(terms)
        p, q, r = (term / loss for term in terms)  # shares of the three terms, (S, n) each
        gradient = np.stack(np.broadcast_arrays(p, -p * self.x, q, -q * self.y, r), axis=1)  # (S, 5, n)

        def curvature(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            # The second derivatives of log L are those of each term, weighted by its share, minus
            # the outer product of the gradient. So "minus v times" them adds v to u in the outer
            # product and leaves v p [1, -x; -x, x^2] to subtract in the block of A' and alpha.
            total = (gradient * (u + v)[:, None]) @ gradient.transpose(0, 2, 1)  # (S, 5, 5)
            for k, share, z in ((0, p, self.x), (2, q, self.y)):
                first = v * share
                second = first @ z
                total[:, k, k] -= first.sum(1)
                total[:, k, k + 1] += second
                total[:, k + 1, k] += second
                total[:, k + 1, k + 1] -= first @ z**2
            total[:, 4, 4] -= (v * r).sum(1)
            return total

        return np.log(loss), gradient, curvature

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper bounds (5,) of theta for losses (n,)."""
        # E may lie above the least loss: noise puts runs that have leveled off below it.
        low, high = np.log(loss.min()), np.log(loss.max())
        lower = [low - 60, LOWER_EXPONENT, low - 60, LOWER_EXPONENT, low - 12]
        upper = [high + 5, UPPER_EXPONENT, high + 5, UPPER_EXPONENT, high]
        if self.center == (0.0, 0.0):
            upper[0], upper[2] = high + 100, high + 100
        return np.array(lower), np.array(upper)

    def starts(self, loss: np.ndarray, count: int) -> np.ndarray:
        """Return at least ``count`` starts (S, 5): a grid of exponents, the rest by least squares."""
        # With both exponents given the law is linear in E, A' and B', which are then those of
        # least relative squared error that are not negative.
        side, starts, ones = int(np.ceil(np.sqrt(count))), [], np.ones_like(loss)
        alphas, betas = (np.geomspace(0.06, 1.8, steps) for steps in (side, int(np.ceil(count / side))))
        for alpha, beta in product(alphas, betas):
            columns = np.exp(-alpha * self.x), np.exp(-beta * self.y), ones
            terms, _ = nnls(np.stack(columns, 1) / loss[:, None], ones)
            a, b, e = np.log(np.maximum(terms, 1e-3 * loss.min()))
            starts.append([a, alpha, b, beta, e])
        return np.array(starts)

    def theta_of(self, law: Surface) -> np.ndarray:
        """Return theta (5,) of one law: the inverse of ``law_of``."""
        a, b = np.log(law.A) - law.alpha * self.center[0], np.log(law.B) - law.beta * self.center[1]
        return np.array([a, law.alpha, b, law.beta, np.log(law.E)])

    def law_of(self, theta: np.ndarray) -> Surface:
        """Return the law of theta (5,) or the laws of theta (S, 5)."""
        a, alpha, b, beta, e = np.moveaxis(np.asarray(theta), -1, 0)
        x, y = self.center
        return Surface(np.exp(e), np.exp(a + alpha * x), alpha, np.exp(b + beta * y), beta)
