"""Does a rewritten model still compute what it did? One made-up input through both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.generic]
    Outputs = dict[str, Array]

_SEED = 20261121
_TOLERANCE = 1e-3
"""Largest error, relative to the largest output. Folding and fusing seven real models moved nothing
by more than 1.4e-5; a wrong rewrite is wrong by far more than this."""

_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
_UNKNOWN_LENGTHS = (1, 48)
"""What unknown axes are tried with when the deployed shapes are not fixed: the smallest, and one
that survives five halvings by stride."""


def open_quietly(model: Path) -> Any:
    """An onnxruntime session on the CPU that neither prints nor spins.

    Raises:
        Exception: whatever onnxruntime says about a model that it cannot load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def signature(session: Any) -> tuple[tuple[str, str], ...]:
    """Names and types of a session's inputs and outputs, in order."""
    return tuple(
        (value.name, value.type) for value in (*session.get_inputs(), *session.get_outputs())
    )


def first_answer(
    session: Any,
    shapes: Mapping[str, tuple[int, ...]],
    example: Mapping[str, Array] | None,
) -> tuple[dict[str, Array], Outputs] | None:
    """A feed (the example, else a made-up one of these shapes) and what comes out for it.

    None when the model accepts none of those tried.
    """
    feeds = (
        {
            value.name: _made_up(value, shapes.get(value.name), length)
            for value in session.get_inputs()
        }
        for length in _UNKNOWN_LENGTHS
    )
    for feed in (dict(example),) if example is not None else feeds:
        outputs = run(session, feed)
        if outputs is not None:
            return feed, outputs
    return None


def run(session: Any, feed: Mapping[str, Array]) -> Outputs | None:
    """Outputs by name, or None when the model refuses the feed."""
    names = [value.name for value in session.get_outputs()]
    try:
        values = session.run(names, dict(feed))
    except Exception:  # onnxruntime's error types share no other base; a made-up feed may be wrong
        return None
    return dict(zip(names, values, strict=True))


def disagreement(before: Outputs, after: Outputs) -> str | None:
    """Where the outputs differ by more than rounding, or None."""
    for name, old in before.items():
        new = after[name]
        if not isinstance(old, np.ndarray) or not np.issubdtype(old.dtype, np.number):
            continue
        if old.shape != new.shape:
            return f"output {name!r} changed shape from {list(old.shape)} to {list(new.shape)}"
        if not old.size:
            continue
        wide_old, wide_new = old.astype(np.float64), new.astype(np.float64)
        error = np.abs(np.nan_to_num(wide_old) - np.nan_to_num(wide_new)).max()
        scale = np.abs(np.nan_to_num(wide_old)).max() + 1e-6
        if error > _TOLERANCE * scale or (np.isnan(wide_old) != np.isnan(wide_new)).any():
            return f"output {name!r} moved by {error:.3g} where its largest value is {scale:.3g}"
    return None


def _made_up(value: Any, shape: tuple[int, ...] | None, unknown: int) -> Array:
    """A plausible array: noise for floats, ones (a mask, an id, a length) for everything else."""
    if shape is None:
        lengths = (1 if axis == 0 else unknown for axis in range(len(value.shape)))
        pairs = zip(value.shape, lengths, strict=True)
        shape = tuple(dim if isinstance(dim, int) else length for dim, length in pairs)
    if value.type in _DTYPES:
        noise = np.random.default_rng(_SEED).normal(0.0, 0.5, shape)
        return noise.astype(_DTYPES[value.type])
    return np.ones(shape, dtype=value.type.removeprefix("tensor(").removesuffix(")"))
