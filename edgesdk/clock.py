"""The time that a whole deploy may take: what is left of it, and what its next steps will cost."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgesdk.errors import BudgetError, StepFailed

OUT_OF_TIME = "out_of_time"
"""Kind of the `StepFailed` of a step that the time budget did not allow, or cut short."""

Work = tuple[str, str]
"""A stage, and what makes its costs alike: `("measure", "openvino")`."""

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))\s*(?P<unit>[^\d\s]*)")


def parse_duration(text: str, what: str = "time budget") -> float:
    """Seconds of `90s`, `10m` (or `10min`) or `1.5h`.

    Args:
        text: as the user wrote it.
        what: it is, for the message.

    Raises:
        BudgetError: names what was seen and the legal units.
    """
    match = _DURATION.fullmatch(text.strip())
    legal = "write e.g. 90s, 10m or 1h"
    if not match:
        raise BudgetError(f"{what} {text!r} does not parse; {legal}")
    unit = match["unit"]
    if unit not in _UNITS:
        seen = f"unknown unit {unit!r}" if unit else "no unit"
        raise BudgetError(f"{what} {text!r}: {seen}; {legal}")
    return check_seconds(float(match["number"]) * _UNITS[unit], what)


def check_seconds(seconds: float, what: str = "time budget") -> float:
    """A time that something may take, if it makes sense.

    Raises:
        BudgetError: not above 0, or not finite.
    """
    if not 0.0 < seconds < math.inf:
        raise BudgetError(f"a {what} of {seconds:g} s; it must be above 0, as in 90s or 10m")
    return seconds


def spell(seconds: float) -> str:
    """`45 s`, `10 min`, `1.5 h`."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


class Clock:
    """The time budget of one deploy, shared by its steps. Without a budget it refuses nothing.

    Attributes:
        budget_s: seconds for the whole search; None for no limit.
    """

    def __init__(self, budget_s: float | None = None) -> None:
        """Start counting.

        Raises:
            BudgetError: the budget is not above 0.
        """
        self.budget_s = None if budget_s is None else check_seconds(budget_s)
        self._started = time.monotonic()
        self._seen: dict[Work, float] = {}

    @property
    def left_s(self) -> float:
        """Seconds left; infinite without a budget, negative when it is overdrawn."""
        if self.budget_s is None:
            return math.inf
        return self.budget_s - (time.monotonic() - self._started)

    def expected_s(self, steps: Sequence[Work]) -> float:
        """What steps will take: each as long as the longest of its like so far.

        Where none of its like was run, as long as the longest of its stage; 0 where none was.
        """
        return sum(self._longest(step) for step in steps)

    def _longest(self, step: Work) -> float:
        if step in self._seen:
            return self._seen[step]
        return max((took for known, took in self._seen.items() if known[0] == step[0]), default=0.0)

    def allows(self, steps: Sequence[Work]) -> bool:
        """Whether there is time for steps, as far as the like of them can tell."""
        return 0.0 < self.left_s >= self.expected_s(steps)

    def admit(self, steps: Sequence[Work]) -> None:
        """Refuse work that will not be done before the time is over.

        Raises:
            StepFailed: of the kind `OUT_OF_TIME`.
        """
        if self.allows(steps):
            return
        left_s = self.left_s
        if left_s <= 0.0:
            raise self.over()
        raise self.over(f"{spell(left_s)} left, the like took {spell(self.expected_s(steps))}")

    def over(self, detail: str = "") -> StepFailed:
        """The error of what there was no time for."""
        told = f" ({detail})" if detail else ""
        message = f"the time budget of {spell(self.budget_s or 0.0)} was used up{told}"
        return StepFailed(message, kind=OUT_OF_TIME)

    @contextmanager
    def bounding(self, steps: Sequence[Work]) -> Iterator[None]:
        """Around a step that is really run: admit it, note what it takes, say when it was cut.

        Args:
            steps: the step itself, then those that must follow for it to be of use.

        Raises:
            StepFailed: no time for it, or the time was over before it ended.
        """
        self.admit(steps)
        begun = time.monotonic()
        try:
            yield
        except StepFailed as exc:
            if exc.kind == "timeout" and self.left_s <= 0.0:
                what = steps[0][0] if steps else "it"
                raise self.over(
                    f"{what} was stopped after {spell(time.monotonic() - begun)}"
                ) from exc
            raise
        if steps:
            took = time.monotonic() - begun
            self._seen[steps[0]] = max(took, self._seen.get(steps[0], 0.0))
