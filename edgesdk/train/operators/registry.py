"""What an operator is told of its node, and the table of those that are known.

An operator takes the `Call` and its inputs, None for those left out, and returns its output, or a
list of them. Half floats are float32 tensors here; what QuantizeLinear makes is a float tensor that
holds integers, so that gradients pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Operator = Callable[..., Any]
_Operator = TypeVar("_Operator", bound=Operator)

OPERATORS: dict[tuple[str, str], Operator] = {}
"""By domain and name; the standard domain is the empty string."""

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A node as its operator sees it.

    Attributes:
        op: name of the operator.
        opset: version of the operator's domain that the model imports.
        attributes: by name; strings are `str`, tensors are numpy arrays.
        outputs: how many outputs are asked for, those left out before the last one included.
        kinds: ONNX element types of the inputs, 0 where they are not known.
    """

    op: str
    opset: int
    attributes: Mapping[str, Any]
    outputs: int = 1
    kinds: tuple[int, ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it is when it is left out."""
        return self.attributes.get(name, default)

    def kind(self, place: int) -> int:
        """The element type of an input, 0 where it is not known."""
        return self.kinds[place] if place < len(self.kinds) else 0


def operator(*names: str, domain: str = "") -> Callable[[_Operator], _Operator]:
    """Register a function for operators of these names."""

    def register(function: _Operator) -> _Operator:
        for name in names:
            OPERATORS[domain, name] = function
        return function

    return register
