"""Why something was ruled out, as data: a fact, what follows from it, and where it is from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

CauseKind = Literal["profile", "engine", "model", "samples", "budget", "catalogue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One fact that speaks against a candidate.

    Attributes:
        kind: whose fact it is: a line of the `profile`, what the `engine` (or its adapter) can do,
            the `model`, the `samples`, the `budget`, or what the `catalogue` of recipes knows.
        key: what is stated: `units.cpu.capabilities.*.bf16`, `ops.LSTM`, `calibration_rows`, ….
        value: what it is, a JSON value; None where the key says it all.
        why: what follows from it, in a sentence.
        source: the document, measurement or program that says so; empty for what the user gave.
        date: of the source, `YYYY-MM-DD` or `YYYY-MM`; empty where it has none.
        file: name of the profile file that states the key; empty for other kinds.
    """

    kind: CauseKind
    key: str
    value: str | int | float | bool | None = None
    why: str = ""
    source: str = ""
    date: str = ""
    file: str = ""

    @property
    def fact(self) -> str:
        """`units.cpu.capabilities.*.bf16 = 'emulated'`."""
        if self.value is None:
            return self.key
        return f"{self.key} = {_spelt(self.value)}"

    def __str__(self) -> str:
        return f"{self.fact}: {self.why}" if self.why else self.fact

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)


def reason(causes: Iterable[Cause], profile: str) -> str:
    """The causes in a sentence; the lines of the profile are cited by their keys."""
    told = list(causes)
    said = [cause.why or cause.fact for cause in told if cause.kind != "profile"]
    cited = [str(cause) for cause in told if cause.kind == "profile"]
    return "; ".join(said + ([f"profile {profile}: {'; '.join(cited)}"] if cited else []))


def _spelt(value: str | float | bool) -> str:
    """A value as TOML and people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else f"{value:g}"
