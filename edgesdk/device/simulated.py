"""A unit that is not here, by what its vendor's tools can tell without it.

Compilers for neural processors and GPUs run on this machine: they say what they refuse, where each
node goes and how large the program is, and some compute what the unit would or state a time. Nothing
is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgesdk.backend import backend_names, load_backend
from edgesdk.device.base import EngineThere
from edgesdk.device.local import LocalDevice
from edgesdk.device.survey import look_at_engine
from edgesdk.evidence import Evidence

SIMULATED = "simulated"


class SimulatedDevice(LocalDevice):
    """This machine, with adapters told to simulate."""

    name = SIMULATED
    evidence = Evidence.SIMULATED
    tells = "sizes"
    simulates = True
    identity = SIMULATED

    def engines(self, backends: Sequence[str]) -> dict[str, EngineThere]:
        """Those that can simulate their unit; the others need the device."""
        return {name: _simulated(name) for name in backends}


def _simulated(name: str) -> EngineThere:
    if name in backend_names() and load_backend(name).simulation is None:
        return EngineThere(
            version="", unavailable=f"{name} cannot simulate the device, only run on it"
        )
    here = look_at_engine(name)
    return EngineThere(version=here.version, unavailable=here.unavailable, simulated=True)
