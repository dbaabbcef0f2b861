"""What a reference model is, and what is needed to prepare one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.fetch_models import Packaged


class DataMissingError(Exception):
    """Labelled data that this project does not ship was not found; says what to provide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One model with labelled samples.

    Attributes:
        name: folder it is prepared in, and its name in the results.
        task: what it does, in a few words.
        files: what is taken from published packages.
        licence: SPDX identifier of the weights.
        metric: as `edgesdk deploy --metric` takes it, run from the root of the repository.
        build: `build(files, data, out)` writes the ONNX model to `out`, from the folder that holds
            `files` and the folder of labelled data.
        samples: `samples(files, data, out)` writes labelled samples into the folder `out` and gives
            their path: an `.npz` whose first axis is the sample, or a folder of one `.npz` each.
        marks: published or earlier measured values of the metric, for orientation.
    """

    name: str
    task: str
    files: tuple[Packaged, ...]
    licence: str
    metric: str
    build: Callable[[Path, Path, Path], None]
    samples: Callable[[Path, Path, Path], Path]
    marks: str = ""


def require(path: Path, what: str) -> Path:
    """The path, when it exists.

    Raises:
        DataMissingError: what is missing and where it was expected.
    """
    if not path.exists():
        raise DataMissingError(
            f"{path} is not there: {what}; give the folder that holds it with --data"
        )
    return path
