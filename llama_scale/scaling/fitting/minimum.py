"""Where a loss is least between values that were tried: the parabola through the best of them and its neighbors.

In the logarithm of a learning rate the loss is a parabola near its minimum only, and a rate that is too large is worse
than any parabola says: its loss tells that the minimum is not there, and no more. Let into the parabola it would push
the vertex half a step to the other side.
"""

import math
from dataclasses import dataclass

import numpy as np

FAR = 0.1  # of the least loss: what lies higher is not near a minimum
LOPSIDED = 10.0  # times the bend on the other side: at even steps the vertex is then .41 to .5 from the least loss


@dataclass(frozen=True)
class Minimum:
    """The parabola ``loss + bend (x - self.x)^2``."""

    x: float
    loss: float
    bend: float

    def loss_at(self, x: float) -> float:
        """Return the parabola's loss at another x."""
        return self.loss + self.bend * (x - self.x) ** 2


def far_sides(x: np.ndarray, loss: np.ndarray, i: int) -> list[int]:
    """Return on which sides, -1 and 1, the neighbor of the least of the losses (n,), number i, is too high to use.

    That is a loss that is not finite, or one that is above the least by more than a tenth of it while the parabola with
    its minimum there would bend more than ten times as much as to the other neighbor. Two that bend alike are a narrow
    parabola.
    """
    rise = {side: float(loss[i + side] - loss[i]) for side in (-1, 1)}
    bend = {side: up / float(x[i + side] - x[i]) ** 2 for side, up in rise.items()}
    return [
        side
        for side, up in rise.items()
        if not math.isfinite(up) or (up > FAR * abs(float(loss[i])) and bend[side] > LOPSIDED * bend[-side])
    ]


def find_minimum(x: np.ndarray, loss: np.ndarray) -> Minimum:
    """Return the minimum near the least of the losses (n,), which is not at an end of the ascending x (n,) alone.

    The parabola goes through the least loss and its neighbors. In place of a neighbor that is too high (``far_sides``)
    it goes through the second one on the other side; where its vertex is then on the far side, where nothing good was
    found, or there is no second neighbor, the minimum is at the least loss itself.

    Example: losses 2.25, 2.22, 2.20 and 3.42 at 0, 1, 2 and 3. The last three have their vertex at 1.52, halfway to a
    rate that was tried and is worse. The first three fall to beyond 2, so that it is at 2.
    """
    i = 1 + int(loss[1:-1].argmin())
    far = far_sides(x, loss, i)
    if not far:
        return _vertex(x[i - 1 : i + 2], loss[i - 1 : i + 2])
    near, second = i - far[0], i - 2 * far[0]
    if len(far) == 1 and 0 <= second < len(x) and math.isfinite(loss[second]):
        three = sorted((i, near, second))
        found = _vertex(x[three], loss[three])
        if (found.x - x[i]) * far[0] < 0 < found.bend:
            return found
    bend = float((loss[near] - loss[i]) / (x[near] - x[i]) ** 2) if len(far) == 1 else 0.0
    return Minimum(float(x[i]), float(loss[i]), bend)


def _vertex(x: np.ndarray, loss: np.ndarray) -> Minimum:
    """Return the vertex of the parabola through three points; the middle one where it does not bend.

    By divided differences: with the slopes s of the two steps h, the parabola bends by (s2 - s1) / (h1 + h2), and its
    slope at the middle point is (s1 h2 + s2 h1) / (h1 + h2).
    """
    (h1, h2), (s1, s2) = np.diff(x), np.diff(loss) / np.diff(x)
    bend, slope = (s2 - s1) / (h1 + h2), (s1 * h2 + s2 * h1) / (h1 + h2)
    away = -slope / (2 * bend) if bend > 0 else 0.0
    return Minimum(float(x[1] + away), float(loss[1] + away * (slope + away * bend)), float(max(bend, 0.0)))
