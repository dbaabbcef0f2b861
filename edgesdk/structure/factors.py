"""The best product of two matrices in place of one, for inputs with given moments; pure.

A layer Y = X W becomes Y' = (X U) V with U of r columns. The best U V of that rank is not the
truncated SVD of W, which takes all inputs for equally likely, but that of C^(1/2) W, where C is the
second moment of X: then the error on the rows, |C^(1/2) (W - U V)|^2, is what is left of the squared
singular values. No root is needed for it: with R_r the first r right singular vectors of C^(1/2) W,
which are the eigenvectors of W'CW, the product is U V = W R_r R_r'. (Data-aware SVD: DRONE, Chen et
al., 2021; SVD-LLM, Wang et al., 2024, with a Cholesky root of C; as a projection of the outputs on
their principal components: Yu and Wu, Compressing Transformers: Features Are Low-Rank, but Weights
Are Not, 2023.)

U is scaled so that all that passes between the two layers has the same variance, and an integer form
of it can share one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgesdk.structure.layers import Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Form = Literal["channels", "separable"]
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Choice:
    """How a layer is split.

    Attributes:
        form: `channels`: the layer itself with fewer outputs, then a product (a 1x1 convolution);
            `separable`: a column of the kernel, then a row of it.
        rank: channels between the two, at least 1.
    """

    form: Form
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """The principal components of what a layer makes.

    Attributes:
        values: float64[n], sums of squares along the components, greatest first; n is the lesser
            of features and outputs.
        basis: float64[outputs, n], one component a column; zeros where there is nothing along it.
    """

    values: Floats
    basis: Floats

    def error(self, rank: int) -> float:
        """Sum of squares that a product of that rank leaves out."""
        return float(self.values[rank:].sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Separable:
    """Columns and, in closed form, the rows that go best with any number of them.

    Attributes:
        columns: float64[channels * height, ranks], the best first.
        square: float64[ranks * width, ranks * width], second moments of what the columns make under
            a row of the kernel.
        cross: float64[ranks * width, outputs], the same with what the layer makes.
    """

    columns: Floats
    square: Floats
    cross: Floats

    def rows(self, rank: int, width: int) -> Floats:
        """float64[rank, width, outputs], least squares for the first `rank` columns."""
        size = rank * width
        square = self.square[:size, :size]
        ridge = TINY * max(float(np.trace(square)), TINY) / size * np.eye(size)
        solved = np.linalg.solve(square + ridge, self.cross[:size])
        return np.asarray(solved.reshape(rank, width, -1))

    def gained(self, rank: int, width: int) -> float:
        """Sum of squares of the layer's outputs that these rows and columns explain."""
        size = rank * width
        return float((self.rows(rank, width).reshape(size, -1) * self.cross[:size]).sum())


def principal(matrix: Floats, second: Floats) -> Spectrum:
    """The components of X W.

    Args:
        matrix: W, float64[features, outputs].
        second: X'X, float64[features, features].
    """
    features, outputs = matrix.shape
    if outputs <= features:
        values, basis = np.linalg.eigh(matrix.T @ second @ matrix)
        return Spectrum(values=np.maximum(values[::-1], 0.0), basis=basis[:, ::-1])
    # The other side of C^(1/2) W has the same singular values, and fewer.
    scale = float(np.trace(second)) / features
    half = matrix.T @ np.linalg.cholesky(second + TINY * max(scale, TINY) * np.eye(features))
    values, basis = np.linalg.eigh(half.T @ half)
    values = np.maximum(values[::-1], 0.0)
    live = values > TINY * max(float(values[0]), TINY)
    basis = half @ basis[:, ::-1] * (live / np.sqrt(np.where(live, values, 1.0)))
    return Spectrum(values=values, basis=basis)


def factors(matrix: Floats, spectrum: Spectrum, rank: int) -> tuple[Floats, Floats]:
    """U, float64[features, rank], and V, float64[rank, outputs], of the best product of that rank."""
    spread = np.sqrt(spectrum.values[:rank])
    spread = np.maximum(spread, TINY**0.5 * max(float(spread.max(initial=0.0)), TINY))
    spread /= float(spread.mean())
    basis = spectrum.basis[:, :rank]
    return matrix @ basis / spread, spread[:, None] * basis.T


def break_even(layer: Layer, form: Form = "channels") -> int:
    """The largest rank at which the two layers hold fewer values than the one; 0 where none does."""
    one = parameters_of(layer, Choice(form, 1))
    return max(0, (layer.parameters - 1) // one)


def parameters_of(layer: Layer, choice: Choice | None) -> int:
    """Elements of the weights of a layer, whole (None) or split."""
    if choice is None:
        return layer.parameters
    return sum(piece.parameters for piece in pieces(layer, choice))


def pieces(layer: Layer, choice: Choice) -> tuple[Layer, Layer]:
    """The two layers that a split one becomes, in order."""
    between = f"{layer.output}.rank"
    first = replace(
        layer,
        node=f"{layer.node}.first",
        output=between,
        biased=between,
        weight=f"{layer.weight}.first",
        bias="",
        adder="",
        outputs=choice.rank,
    )
    second = replace(layer, source=between, features=choice.rank)
    if layer.op != "Conv":
        return first, second
    ones = (1,) * len(layer.kernel)
    if choice.form == "channels":
        none = (0,) * (2 * len(ones))
        return first, replace(second, kernel=ones, strides=ones, dilations=ones, pads=none)
    height, width = layer.kernel
    return (
        replace(first, features=layer.channels * height, **_along(layer, 0)),
        replace(second, features=choice.rank * width, **_along(layer, 1)),
    )


def separable(layer: Layer, matrix: Floats, second: Floats) -> Separable:
    """Columns by a weighted SVD, as if the columns under a kernel were independent; rows exactly.

    The kernel unfolds to a matrix from (channel, height) to (width, output) whose rank is that of
    its separable form (Jaderberg et al., Speeding up Convolutional Neural Networks with Low Rank
    Expansions, 2014). Here it is weighted by the moments of one column of the image.
    """
    height, width = layer.kernel
    channels, outputs = layer.channels, layer.outputs
    tall = channels * height
    moments = second.reshape(tall, width, tall, width)
    column = np.einsum("aibi->ab", moments) / width
    unfolded = matrix.reshape(tall, width * outputs)
    most = max(1, min(break_even(layer, "separable"), tall, width * outputs))
    lower = np.linalg.cholesky(column)
    left, _, _ = np.linalg.svd(lower.T @ unfolded, full_matrices=False)
    columns = np.linalg.solve(lower.T, left[:, :most])
    # What the columns make of every column under the kernel: [rank, width] out of [tall, width].
    half = np.einsum("aibj,bs->aisj", moments, columns, optimize=True)
    square = np.einsum("ar,aisj->risj", columns, half, optimize=True)
    made = (second @ matrix).reshape(tall, width, outputs)
    cross = np.einsum("ar,aio->rio", columns, made, optimize=True)
    size = most * width
    return Separable(
        columns=columns, square=square.reshape(size, size), cross=cross.reshape(size, outputs)
    )


def _along(layer: Layer, axis: int) -> dict[str, Any]:
    """The geometry of a kernel of two axes along one of them."""
    ones = [1, 1]

    def only(values: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
        return tuple(v if place % 2 == axis else other[place] for place, v in enumerate(values))

    pads = layer.pads if isinstance(layer.pads, str) else only(layer.pads, (0, 0, 0, 0))
    return {
        "kernel": only(layer.kernel, ones),
        "strides": only(layer.strides, ones),
        "dilations": only(layer.dilations, ones),
        "pads": pads,
    }
