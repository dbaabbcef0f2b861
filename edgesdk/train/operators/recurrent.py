"""LSTM, GRU and RNN, step by step or by torch's own where it computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from edgesdk.train.operators.registry import Call, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@operator("LSTM", "GRU", "RNN")
def recurrent(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
    c: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> list[Tensor]:
    """All directions of one layer.

    Shapes as the standard has them: x [time, batch, in], w [directions, gates * hidden, in],
    r [directions, gates * hidden, hidden], y [time, directions, batch, hidden]; batch first with
    `layout` 1.
    """
    if call.get("clip") is not None or call.get("input_forget", 0):
        raise NotImplementedError(f"{call.op} with clip or input_forget")
    if call.get("layout", 0):
        x = x.transpose(0, 1)
        h, c = (None if state is None else state.transpose(0, 1) for state in (h, c))
    directions, hidden = w.shape[0], r.shape[2]
    zeros = x.new_zeros(directions, x.shape[1], hidden)
    h, c = (zeros if state is None else state for state in (h, c))
    found = []
    for place in range(directions):
        backwards = place == 1 or call.get("direction", "forward") == "reverse"
        bias = x.new_zeros(2 * _GATES[call.op] * hidden) if b is None else b[place]
        cell = _Cell(
            call, place, w[place], r[place], bias, None if peepholes is None else peepholes[place]
        )
        found.append(_run(cell, x, h[place], c[place], lengths, backwards=backwards))
    y = torch.stack([one[0] for one in found], 1)
    states = [torch.stack([one[1] for one in found]), torch.stack([one[2] for one in found])]
    if call.get("layout", 0):
        y, states = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in states]
    return [y, *states[: 2 if call.op == "LSTM" else 1]]


def _run(
    cell: _Cell, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None, *, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction: y [time, batch, hidden], last hidden and cell state [batch, hidden]."""
    steps = x.shape[0]
    if lengths is None and cell.native is not None:
        flipped = torch.flip(x, (0,)) if backwards else x
        y, h, c = cell.native(flipped, h, c)
        return torch.flip(y, (0,)) if backwards else y, h, c
    outputs: list[Any] = [None] * steps
    for step in reversed(range(steps)) if backwards else range(steps):
        new_h, new_c = cell.step(x[step], h, c)
        outputs[step] = new_h
        if lengths is None:
            h, c = new_h, new_c
            continue
        there = (step < lengths).unsqueeze(1)
        outputs[step] = torch.where(there, new_h, torch.zeros_like(new_h))
        h, c = torch.where(there, new_h, h), torch.where(there, new_c, c)
    return torch.stack(outputs), h, c


class _Cell:
    """The weights and functions of one direction."""

    def __init__(
        self, call: Call, place: int, w: Tensor, r: Tensor, b: Tensor, peepholes: Tensor | None
    ) -> None:
        count = len(_DEFAULT[call.op])
        names = call.get("activations", _DEFAULT[call.op] * 2)[place * count : (place + 1) * count]
        unknown = [name for name in names if name.lower() not in _ACTIVATIONS]
        if unknown:
            raise NotImplementedError(f"{call.op} with the activation {unknown[0]}")
        self._functions = [_ACTIVATIONS[name.lower()] for name in names]
        self._op, self._w, self._r = call.op, w, r
        self._wb, self._rb = b.chunk(2)
        self._peepholes = None if peepholes is None else peepholes.chunk(3)
        self._after = bool(call.get("linear_before_reset", 0))
        usual = tuple(name.lower() for name in names) == tuple(
            name.lower() for name in _DEFAULT[call.op]
        )
        self.native = (
            {"LSTM": self._native_lstm, "GRU": self._native_gru}.get(call.op)
            if usual and peepholes is None and (call.op == "LSTM" or self._after)
            else None
        )

    def _native_lstm(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = [self._ordered(part, (0, 2, 3, 1)) for part in self._all()]
        y, h, c = torch.lstm(
            x, (h.unsqueeze(0), c.unsqueeze(0)), weights, True, 1, 0.0, False, False, False
        )
        return y, h[0], c[0]

    def _native_gru(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = [self._ordered(part, (1, 0, 2)) for part in self._all()]
        y, h = torch.gru(x, h.unsqueeze(0), weights, True, 1, 0.0, False, False, False)
        return y, h[0], c

    def _all(self) -> tuple[Tensor, ...]:
        return self._w, self._r, self._wb, self._rb

    def _ordered(self, part: Tensor, order: tuple[int, ...]) -> Tensor:
        """Gates in torch's order: ONNX has i o f c and z r h, torch has i f c o and r z h."""
        gates = part.chunk(len(order))
        return torch.cat([gates[place] for place in order])

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden and cell state."""
        given = x @ self._w.T + self._wb
        if self._op == "GRU":
            return self._gru(given, h), c
        gates = given + h @ self._r.T + self._rb
        if self._op == "RNN":
            return self._functions[0](gates), c
        return self._lstm(gates, c)

    def _lstm(self, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gate, candidate, squash = self._functions
        i, o, f, new = gates.chunk(4, 1)
        if self._peepholes is not None:
            pi, po, pf = self._peepholes
            i, f = i + pi * c, f + pf * c
        c = gate(f) * c + gate(i) * candidate(new)
        if self._peepholes is not None:
            o = o + po * c
        return gate(o) * squash(c), c

    def _gru(self, given: Tensor, h: Tensor) -> Tensor:
        gate, candidate = self._functions
        xz, xr, xh = given.chunk(3, 1)
        rz, rr, rh = self._r.chunk(3)
        bz, br, bh = self._rb.chunk(3)
        z, reset = gate(xz + h @ rz.T + bz), gate(xr + h @ rr.T + br)
        inner = reset * (h @ rh.T + bh) if self._after else (reset * h) @ rh.T + bh
        return (1 - z) * candidate(xh + inner) + z * h
