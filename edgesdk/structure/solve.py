"""Weights fitted to what a layer should make, in closed form from moments; pure.

The ridge pulls towards the weights that are there, not towards zero: where the rows say little, little
changes. It is chosen by the error on rows that the fit has not seen, which the moments of these rows
give exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.structure.factors import factors, principal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesdk.structure.moments import Moments

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

RIDGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
"""Shares of the mean diagonal of X'X that are tried as ridges."""
_TINY = 1e-12
_ITERATIONS = 64
_SETTLED = 1e-5
"""Of the first residual, at which an iterative solution is good enough."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """Other weights for a layer.

    Attributes:
        matrix: W, float64[groups, features, outputs / groups].
        vector: b, float64[outputs].
        parts: U and V where W is their product.
        ridge: that was chosen, a share of the mean diagonal of X'X.
        before, after: errors on the held rows, shares of what should come out; 0 up.
    """

    matrix: Floats
    vector: Floats
    parts: tuple[Floats, Floats] | None
    ridge: float
    before: float
    after: float


def best_fit(
    seen: Moments,
    held: Moments,
    matrix: Floats,
    vector: Floats,
    *,
    biased: bool,
    mask: Mask | None = None,
    rank: int | None = None,
) -> Fit:
    """The ridge solution that is best on the held rows.

    Args:
        seen: moments that are fitted, with a target.
        held: moments of other rows.
        matrix: W as it is, float64[groups, features, outputs / groups].
        vector: b as it is, float64[outputs].
        biased: b may change.
        mask: bool, shaped as W: weights that may differ from zero; None for all. An output that
            has none keeps its b: it was taken out.
        rank: of W, of one group; the reduced-rank regression of that rank (Izenman, 1975).
    """
    energy = max(held.energy if biased else float(held.yy.sum()), _TINY)
    before = held.error(matrix, vector) / energy
    found: Fit | None = None
    for ridge in RIDGES:
        fitted = least_squares(seen, matrix, vector, ridge=ridge, biased=biased, mask=mask)
        parts = None
        if rank is not None:
            second = (seen.centred if biased else seen.xx)[0]
            second = second + ridge * np.trace(second) / len(second) * np.eye(len(second))
            parts = factors(fitted[0], principal(fitted[0], second), rank)
            fitted = (parts[0] @ parts[1])[None]
        shift = _bias(seen, fitted, vector) if biased else vector
        if mask is not None:
            shift = np.where(mask.any(axis=1).reshape(vector.shape), shift, vector)
        after = held.error(fitted, shift) / energy
        if found is None or after < found.after:
            found = Fit(
                matrix=fitted, vector=shift, parts=parts, ridge=ridge, before=before, after=after
            )
        elif after > 2 * found.after and ridge < found.ridge:
            break  # smaller ones only fit the seen rows more closely
    assert found is not None
    return found


def least_squares(
    seen: Moments,
    matrix: Floats,
    vector: Floats,
    *,
    ridge: float,
    biased: bool,
    mask: Mask | None = None,
) -> Floats:
    """W that minimizes |Y - X W - b|^2 + ridge |W - W0|^2, with the best b if it may change.

    Args:
        seen: moments with a target.
        matrix: W0, float64[groups, features, outputs / groups].
        vector: b, float64[outputs].
        ridge: a share of the mean diagonal of X'X, above 0.
        biased: b may change.
        mask: bool, shaped as W: weights that may differ from zero; None for all.
    """
    count = max(seen.count, 1)
    if biased:
        second = seen.centred
        cross = seen.xy - seen.x[:, :, None] * seen.y[:, None, :] / count
    else:
        second = seen.xx
        cross = seen.xy - seen.x[:, :, None] * vector.reshape(seen.y.shape)[:, None, :]
    residual = cross - second @ matrix
    features = second.shape[-1]
    level = np.einsum("gff->g", second) / features
    added = np.maximum(ridge * level, _TINY * max(float(level.max()), _TINY))
    second = second + added[:, None, None] * np.eye(features)
    if mask is None or mask.all():
        return np.asarray(matrix + np.linalg.solve(second, residual))
    return _masked(second, residual, matrix, mask)


def _bias(seen: Moments, matrix: Floats, vector: Floats) -> Floats:
    """The best b for a W."""
    made = np.einsum("gf,gfo->go", seen.x, matrix)
    return np.asarray(((seen.y - made) / max(seen.count, 1)).reshape(vector.shape))


def _masked(second: Floats, residual: Floats, matrix: Floats, mask: Mask) -> Floats:
    """All outputs at once, each on its own weights, by conjugate gradients with a diagonal preconditioner.

    Solving for each output alone would take a factorization for each.
    """
    inverse = 1 / np.einsum("gff->gf", second)[:, :, None]
    change = np.zeros_like(residual)
    left = residual * mask
    scaled = left * inverse
    direction = scaled.copy()
    size = np.einsum("gfo,gfo->go", left, scaled)
    first = size.copy()
    for _ in range(_ITERATIONS):
        if (size <= _SETTLED**2 * first).all():
            break
        turned = (second @ direction) * mask
        curve = np.einsum("gfo,gfo->go", direction, turned)
        step = (size / np.where(curve > 0, curve, np.inf))[:, None, :]
        change += step * direction
        left -= step * turned
        scaled = left * inverse
        fresh = np.einsum("gfo,gfo->go", left, scaled)
        ratio = fresh / np.where(size > 0, size, np.inf)
        direction = scaled + ratio[:, None, :] * direction
        size = fresh
    return np.asarray(np.where(mask, matrix + change, 0.0))
