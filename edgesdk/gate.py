"""Whether a placement keeps the largest share that may run elsewhere, and why not; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from edgesdk.placement import OF, NodeShare, UnitShares, percent, shortened

_NAMED = 3
"""Nodes on another unit that a reason names."""


def gate_problem(shares: UnitShares | None, most: float, backend: str) -> str | None:
    """Why a placement does not keep the gate, naming the largest nodes elsewhere; None where it does.

    Args:
        shares: None where the runtime does not tell, so that nothing can be proved.
        most: the largest share that may be elsewhere, 0 to 1.
        backend: whose runtime it is.
    """
    if shares is None:
        return (
            f"at most {percent(most)} may run elsewhere, which cannot be proved: {backend} does not "
            "tell where its nodes run"
        )
    if shares.fallback <= most:
        return None
    largest = [node for node in shares.elsewhere[:_NAMED] if node.share > 0.0]
    rest = len(shares.elsewhere) - len(largest)
    named = [*_named(largest), *([f"{rest} more"] if rest else [])]
    return f"{too_much(shares, most)}: {', '.join(named)}"


def too_much(shares: UnitShares, most: float) -> str:
    """`34.2 % of the time not on npu, limit 5 %`, with as many digits as tell them apart."""
    digits = next((n for n in (3, 6, 9) if f"{shares.fallback:.{n}g}" != f"{most:.{n}g}"), 17)
    seen, limit = (f"{100 * share:.{digits}g} %" for share in (shares.fallback, most))
    return f"{seen} {OF[shares.by]} not on {shares.wanted}, limit {limit}"


def _named(nodes: Sequence[NodeShare]) -> Iterator[str]:
    """Nodes with their shares; the unit and the reason once for those that have them in common."""
    for (unit, why), alike in groupby(nodes, key=lambda node: (node.unit, node.why)):
        listed = ", ".join(f"{n.op} {shortened(n.node)!r} {percent(n.share)}" for n in alike)
        yield f"{listed} on {unit}" + (f" ({why})" if why else "")
