"""Multiply-accumulate counts of ONNX nodes from the shapes of their tensors.

Formulas follow the definitions of the operators (onnx/docs/Operators.md; contrib operators:
onnxruntime/docs/ContribOperators.md). Counted are the products that convolutions, matrix products,
recurrent cells and attention sum up; element-wise arithmetic, pooling and normalisation count as 0,
as is usual, so that figures compare with those of papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

Shape = tuple[int, ...]
MaybeShape = Shape | None
Attributes = Mapping[str, int | str]

_Count = Callable[[Sequence[MaybeShape], Sequence[MaybeShape], Attributes], int | None]


def count_macs(
    op: str,
    domain: str,
    inputs: Sequence[MaybeShape],
    outputs: Sequence[MaybeShape],
    attributes: Attributes,
) -> int | None:
    """Multiply-accumulates of one run of a node; None where a shape it takes is unknown.

    Args:
        op: operator name.
        domain: empty for the default one.
        inputs: shapes in the order of the operator's inputs; None where unknown or absent.
        outputs: likewise.
        attributes: the node's integer and string attributes.
    """
    count = _COUNTS.get((domain, op))
    if count is not None:
        return count(inputs, outputs, attributes)
    return 0 if domain in ("", "ai.onnx.ml") and op not in _UNCOUNTED else None


_UNCOUNTED = frozenset({"DFT", "STFT"})
"""Transforms whose cost depends on the algorithm that a runtime picks."""


def _at(shapes: Sequence[MaybeShape], index: int) -> MaybeShape:
    return shapes[index] if index < len(shapes) else None


def _conv(weight: int) -> _Count:
    """Conv: W is [M, C/group, k...]; each output value sums C/group * prod(k) products."""

    def count(
        inputs: Sequence[MaybeShape], outputs: Sequence[MaybeShape], _: Attributes
    ) -> int | None:
        w, y = _at(inputs, weight), _at(outputs, 0)
        return None if w is None or y is None else prod(y) * prod(w[1:])

    return count


def _conv_transpose(
    inputs: Sequence[MaybeShape], _: Sequence[MaybeShape], __: Attributes
) -> int | None:
    """ConvTranspose: W is [C, M/group, k...]; each input value goes into M/group * prod(k) sums."""
    x, w = _at(inputs, 0), _at(inputs, 1)
    return None if x is None or w is None else prod(x) * prod(w[1:])


def _matmul(
    inputs: Sequence[MaybeShape], outputs: Sequence[MaybeShape], attributes: Attributes
) -> int | None:
    """A is [..., M, K]: each output value sums K products. FusedMatMul and Gemm may transpose A."""
    a, y = _at(inputs, 0), _at(outputs, 0)
    if not a or y is None:
        return None
    transposed = attributes.get("transA") and len(a) > 1
    return prod(y) * (a[-2] if transposed else a[-1])


def _recurrent(inputs: Sequence[MaybeShape], _: Sequence[MaybeShape], __: Attributes) -> int | None:
    """X is [T, B, I] or [B, T, I]; W and R hold every gate's weights for all directions.

    Each weight is used once for each time step and batch row. RNN has 1, GRU 3 and LSTM 4 gates,
    which the shapes of W [D, gates*H, I] and R [D, gates*H, H] include.
    """
    x, w, r = _at(inputs, 0), _at(inputs, 1), _at(inputs, 2)
    if x is None or w is None or r is None or len(x) != 3:
        return None
    return x[0] * x[1] * (prod(w) + prod(r))


def _matmul_nbits(
    inputs: Sequence[MaybeShape], _: Sequence[MaybeShape], attributes: Attributes
) -> int | None:
    """A is [..., K] and B holds [N, K] in blocks; N is an attribute."""
    a, columns = _at(inputs, 0), attributes.get("N")
    return None if a is None or not isinstance(columns, int) else prod(a) * columns


def _attention(
    inputs: Sequence[MaybeShape], outputs: Sequence[MaybeShape], _: Attributes
) -> int | None:
    """Q is [B, heads, S, D] or [B, S, heads*D]: Q.K and scores.V, over all keys and past ones."""
    q, k, y = _at(inputs, 0), _at(inputs, 1), _at(outputs, 0)
    past = _at(inputs, 4)
    if q is None or k is None or y is None or len(k) < 2:
        return None
    keys = k[-2] + (past[-2] if past is not None and len(past) > 1 else 0)
    return keys * (prod(q) + prod(y))


def _einsum(
    inputs: Sequence[MaybeShape], _: Sequence[MaybeShape], attributes: Attributes
) -> int | None:
    """Every combination of the labels of two operands is one product."""
    equation = attributes.get("equation")
    if not isinstance(equation, str) or "." in equation:
        return None
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) == 1:
        return 0
    if len(terms) != 2 or len(inputs) != 2:
        return None
    lengths: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        if shape is None or len(shape) != len(term):
            return None
        lengths.update(zip(term, shape, strict=True))
    return prod(lengths.values())


_MICROSOFT = "com.microsoft"
_COUNTS: dict[tuple[str, str], _Count] = {
    ("", "Conv"): _conv(1),
    ("", "ConvInteger"): _conv(1),
    ("", "DeformConv"): _conv(1),
    ("", "QLinearConv"): _conv(3),
    (_MICROSOFT, "FusedConv"): _conv(1),
    (_MICROSOFT, "QLinearConv"): _conv(3),
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _matmul,
    ("", "MatMul"): _matmul,
    ("", "MatMulInteger"): _matmul,
    ("", "QLinearMatMul"): _matmul,
    (_MICROSOFT, "QGemm"): _matmul,
    (_MICROSOFT, "FusedGemm"): _matmul,
    (_MICROSOFT, "FusedMatMul"): _matmul,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _matmul,
    (_MICROSOFT, "MatMulIntegerToFloat"): _matmul,
    (_MICROSOFT, "MatMulNBits"): _matmul_nbits,
    ("", "LSTM"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "RNN"): _recurrent,
    (_MICROSOFT, "DynamicQuantizeLSTM"): _recurrent,
    ("", "Attention"): _attention,
    ("", "Einsum"): _einsum,
}
