"""How a figure was obtained. Every figure that edgesdk shows or writes carries one of these."""

from __future__ import annotations

from enum import StrEnum


class Evidence(StrEnum):
    """From strongest to weakest."""

    MEASURED = "measured"
    """On that hardware."""
    EMULATED = "emulated"
    """The right instructions on the wrong clock."""
    SIMULATED = "simulated"
    """By the vendor's simulator."""
    ESTIMATED = "estimated"
    """By a cost model, or measured on hardware that only resembles the target."""
    UNKNOWN = "unknown"
    """Nobody looked, or the input was not real."""
