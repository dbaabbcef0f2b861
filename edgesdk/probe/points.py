"""What a probe measures, the most informative first; pure.

Every pass goes once through all engines and precisions, so a probe that is cut short knows a little
of everything. The sizes are those that layers of small vision, speech and text models have; none is
taken from a particular model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgesdk.profile_speeds import ELEMENTWISE

Sizes = tuple[int, ...]

_PRODUCTS: tuple[Sizes, ...] = (
    *((32, 256, 256), (1, 1024, 1024), (128, 384, 1536), (1, 64, 64), (256, 768, 768)),
    *((8, 256, 256), (64, 128, 512), (512, 256, 1024), (1, 256, 1000), (16, 768, 3072)),
    *((128, 96, 96), (32, 512, 512), (1, 2048, 2048), (8, 1024, 4096), (1024, 64, 256)),
    *((16, 64, 64), (64, 1024, 1024), (4, 512, 512), (256, 128, 128), (64, 256, 8192)),
)
_BATCHED: tuple[Sizes, ...] = (
    *((12, 128, 32, 128), (8, 32, 16, 32), (12, 256, 64, 256), (4, 64, 64, 64), (12, 16, 32, 16)),
)
_CONVS: tuple[Sizes, ...] = (
    *(
        (784, 64, 128, 1),
        (784, 64, 64, 9),
        (196, 128, 512, 1),
        (3136, 32, 96, 1),
        (12544, 16, 3, 9),
    ),
    *(
        (49, 256, 1024, 1),
        (196, 128, 256, 9),
        (12544, 16, 64, 1),
        (49, 256, 512, 9),
        (1, 64, 256, 1),
    ),
    *((784, 16, 16, 1), (3136, 32, 32, 9), (3136, 64, 24, 1), (49, 64, 64, 9), (256, 64, 64, 1)),
    *(
        (12544, 32, 16, 1),
        (196, 64, 32, 9),
        (784, 192, 48, 1),
        (1, 480, 120, 1),
        (16384, 96, 24, 9),
    ),
    *(
        (49, 960, 160, 1),
        (400, 96, 96, 9),
        (25600, 16, 16, 1),
        (6400, 64, 64, 1),
        (196, 512, 512, 9),
    ),
    *((784, 32, 32, 25), (2500, 128, 128, 1), (1600, 128, 128, 1), (25600, 24, 24, 9)),
)
_STEMS: tuple[Sizes, ...] = (
    *((12544, 3, 32, 9), (12544, 3, 64, 49), (25600, 3, 16, 9), (1600, 1, 64, 25)),
)
_DEPTHWISE: tuple[Sizes, ...] = (
    *((784, 144, 9), (196, 480, 25), (12544, 32, 9), (49, 960, 9), (3136, 96, 25), (196, 64, 9)),
    *((6400, 48, 25), (49, 240, 25), (784, 32, 25), (12544, 64, 25)),
)
_ROWS: tuple[Sizes, ...] = ((128, 384), (1024, 128), (32, 128), (1536, 64), (16, 768), (40, 6000))
_GATHERS: tuple[Sizes, ...] = ((128, 384), (16, 64))
_LSTMS: tuple[Sizes, ...] = ((32, 64, 64), (16, 128, 128), (1, 128, 128))
_POOLS: tuple[Sizes, ...] = ((100352, 9), (6272, 9))
_ELEMENTS = (64 * 196, 64 * 3136, 64, 64 * 12544)
_TAILS = (64 * 784, 64 * 6400, 64 * 49)
_PRODUCT_TAILS = (256 * 128, 256 * 784, 256 * 16)
_RUNS = (64, 600_000, 60_000, 4_800_000)
_MOVING = ("transpose", "copy", "reshape")
_REDUCED = (*_ELEMENTS[:3], 64 * 25600)
"""The largest no longer fits the inner caches: it took five times as long as the others foretold."""
_FEW = 2
"""Sizes for kinds that hardly weigh in."""

_PASSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One point of a series, yet to be measured.

    Attributes:
        backend, execution: what runs it, and the float type it is told.
        precision: of the graph and of the series: `w8a8` graphs run with execution `fp32`.
        kind, sizes: of `edgesdk.profile_speeds.KINDS`.
        turn: in which pass; the first is 0.
    """

    backend: str
    execution: str
    precision: str
    kind: str
    sizes: Sizes
    turn: int

    @property
    def series(self) -> tuple[str, str, str]:
        """Which series it belongs to."""
        return self.backend, self.precision, self.kind


def experiments(engines: Sequence[tuple[str, Sequence[str]]]) -> tuple[Experiment, ...]:
    """All experiments in order.

    Args:
        engines: each backend with the precisions that it natively has on the device.
    """
    found = [
        Experiment(
            backend=backend,
            execution="fp32" if precision.startswith("w8") else precision,
            precision=precision,
            kind=kind,
            sizes=sizes,
            turn=turn,
        )
        for backend, precisions in engines
        for precision in precisions
        for kind, sizes, turn in _points(precision)
    ]
    return tuple(sorted(found, key=lambda item: item.turn))


def _points(precision: str) -> Iterator[tuple[str, Sizes, int]]:
    """Kinds, sizes and turns of one precision; what others are corrected by comes first."""
    if precision == "w8-dynamic":
        yield from _spread("product", _PRODUCTS)
        return
    if precision != "w8a8":
        yield from _spread("run", [(size,) for size in _RUNS])
        yield from _spread("softmax", [(e // 64, 64) for e in _ELEMENTS])
        yield from _spread("softmax", _ROWS)
        yield from _spread("norm", _ROWS)
    yield from _spread("conv", _CONVS)
    yield from _spread("product", _PRODUCTS)
    yield from _spread("depthwise", _DEPTHWISE)
    yield from _spread("batched", _BATCHED)
    yield from _spread("conv", _STEMS)
    for kind in ELEMENTWISE:
        yield from _spread(f"conv>{kind}", [(size,) for size in _TAILS])
        if kind in ("add", "relu", "scale", "gelu", "swish"):
            yield from _spread(f"product>{kind}", [(size,) for size in _PRODUCT_TAILS])
    yield from _spread("border", [(size,) for size in _ELEMENTS])
    if precision == "w8a8":
        return
    for kind in ELEMENTWISE:
        yield from _spread(kind, [(size,) for size in _ELEMENTS])
    for kind in _MOVING:
        yield from _spread(kind, [(size,) for size in _ELEMENTS[: _FEW + 1]])
    yield from _spread("reduce", [(size,) for size in _REDUCED])
    yield from _spread("pool", _POOLS)
    yield from _spread("gather", _GATHERS)
    yield from _spread("lstm", _LSTMS)


def _spread(kind: str, sizes: Sequence[Sizes]) -> Iterator[tuple[str, Sizes, int]]:
    """A series over the passes: a quarter of the points in each, never none in the first."""
    for number, size in enumerate(sizes):
        yield kind, size, number * _PASSES // len(sizes)
