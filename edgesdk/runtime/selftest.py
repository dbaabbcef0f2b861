"""Does this bundle, on this machine, still give what it gave when it was proven?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """One output of one golden sample.

    Attributes:
        sample: the golden file.
        deviation: largest absolute difference from what was recorded, in the output's own unit.
        tolerance: the largest that is healthy.
        from_reference: largest absolute difference from the float original.
    """

    sample: str
    output: str
    deviation: float
    tolerance: float
    from_reference: float

    @property
    def ok(self) -> bool:
        """True when the deviation is within the tolerance."""
        return self.deviation <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """All golden samples run again. Without any, `ok` is False: nothing was shown."""

    checks: tuple[OutputCheck, ...]

    @property
    def ok(self) -> bool:
        """True when there was something to compare and all of it is within tolerance."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def __str__(self) -> str:
        if not self.checks:
            return "self test: the bundle holds no golden samples"
        bad = [check for check in self.checks if not check.ok]
        shown = bad or [max(self.checks, key=lambda check: check.deviation)]
        lines = [
            f"  {check.sample} {check.output}: off by {check.deviation:.3g}, "
            f"tolerance {check.tolerance:.3g}"
            for check in shown
        ]
        head = f"{len(bad)} of {len(self.checks)} outputs off" if bad else "ok; the largest:"
        return "\n".join([f"self test: {head}", *lines])
