"""Named arrays in .npz files, whatever the names. Numpy only; nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.errors import InputError

if TYPE_CHECKING:
    from edgesdk.backend import Array


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as an uncompressed .npz, readable by `numpy.load`.

    Unlike `numpy.savez`, any tensor name is fine (`file` is not), and object arrays are refused.

    Raises:
        InputError: an array holds Python objects.
    """
    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise InputError(f"{name}: arrays of objects cannot be kept; dtype {array.dtype}")
            entry = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: equal arrays give equal bytes
            with archive.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def load_arrays(path: Path) -> dict[str, Array]:
    """All arrays of an .npz file.

    Raises:
        InputError: no such file, not an .npz file, or it holds pickled objects.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as exc:
        raise InputError(f"{path} is not a readable .npz file of plain arrays: {exc}") from exc
