"""`program.json`: what a program was compiled for, and where its nodes went.

A compiled program is one opaque node to the runtime, so placement is kept when it is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgesdk.backend import NodePlacement
from edgesdk.errors import StepFailed
from edgesdk.files import read_json, write_json
from edgesdk_backends.qnn.precision import HALF
from edgesdk_backends.qnn.target import Target

FILE = "program.json"
PROGRAM = "program.onnx"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is kept beside a program.

    Attributes:
        target: what it was compiled for; opening it does not ask again.
        version: of onnxruntime-qnn, which compiled it.
        placement: of the nodes of the graph that it was compiled from.
        files: sizes in bytes by name of the files that it consists of.
    """

    target: Target
    version: str
    placement: tuple[NodePlacement, ...]
    files: Mapping[str, int]

    @property
    def halves(self) -> tuple[str, ...]:
        """Nodes that the HTP computes in half precision."""
        return tuple(p.node for p in self.placement if p.unit == "npu" and p.precision == HALF)


def write_about(about: About, folder: Path) -> None:
    """Write `program.json`."""
    write_json(folder / FILE, {"format": _FORMAT, **asdict(about)})


def read_about(program: Path) -> About:
    """What lies beside a program.

    Raises:
        StepFailed: it is missing, damaged or belongs to other files; or this is no compiled program.
    """
    folder = program.parent
    try:
        found = read_json(folder / FILE)
        if found["format"] != _FORMAT:
            raise StepFailed(f"{folder / FILE} has format {found['format']}, not {_FORMAT}")
        about = About(
            target=Target(**found["target"]),
            version=str(found["version"]),
            placement=tuple(
                NodePlacement(**{**item, "origin": tuple(item["origin"])})
                for item in found["placement"]
            ),
            files={str(name): int(size) for name, size in found["files"].items()},
        )
        sizes = {name: (folder / name).stat().st_size for name in about.files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise StepFailed(
            f"{program} or the {FILE} beside it is missing or damaged ({exc}); "
            "qnn opens what it has compiled"
        ) from exc
    for name, size in sizes.items():
        if size != about.files[name]:
            raise StepFailed(
                f"{folder / name} has {size:,} bytes; {FILE} says {about.files[name]:,}"
            )
    return about
