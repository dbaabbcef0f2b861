"""The adapter: convert through onnx2tf, quantize with ai-edge-quantizer, run in the interpreter."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgesdk.backend import Backend, OpenOptions, Session
from edgesdk.errors import BackendUnavailable, RecipeError, StepFailed
from edgesdk.recipe import Recipe
from edgesdk_backends.litert.engine import Engine, interpreter_class
from edgesdk_backends.litert.interface import Interface, read_interface, write_interface
from edgesdk_backends.litert.session import LiteRtSession

if TYPE_CHECKING:
    from edgesdk.compress.calibration import SampleSet

FILE = "model.tflite"
_PACKAGES = ("ai-edge-litert", "tflite-runtime")


class LiteRtBackend(Backend):
    """Google's ai-edge-litert, or tflite-runtime, on the CPU with XNNPACK."""

    name: ClassVar[str] = "litert"
    install: ClassVar[str] = "pip install 'edgesdk[litert]'"
    distributions: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)

    def unavailable(self) -> str | None:
        """Why the interpreter does not import or would not start, if so."""
        try:
            found = interpreter_class().__module__
        except ImportError as exc:
            return f"neither ai-edge-litert nor tflite-runtime imports ({exc}); {self.install}"
        import numpy as np

        if found.startswith("tflite_runtime") and int(np.__version__.split(".")[0]) >= 2:
            # It imports; the first interpreter then raises a SystemError.
            return (
                f"tflite-runtime needs numpy below 2, and this is {np.__version__}; "
                f"pip install 'numpy<2', or {self.install}"
            )
        return None

    def version(self) -> str:
        """Of ai-edge-litert, or of tflite-runtime where only that is installed."""
        for package in _PACKAGES:
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        raise BackendUnavailable(f"litert is not installed; {self.install}")

    def rejects(self, recipe: Recipe) -> str | None:
        """Besides the float type: what LiteRT's quantizer or its kernels do not have."""
        from edgesdk_backends.litert.quantizing import against

        return super().rejects(recipe) or against(recipe)

    def quantizes(self, recipe: Recipe) -> bool:
        """All but the plain float form: of ONNX with quantizers in it, the file is as slow as float."""
        return recipe.stored != Recipe()

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """Convert, and prove on a random input that the result computes what the model does.

        Raises:
            StepFailed: an operation that the converter or LiteRT lacks, open shapes that LiteRT cannot
                resize, or a result that departs from the model's.
            BackendUnavailable: the converter's environment cannot be made.
        """
        # A device that only opens artifacts needs none of these.
        from edgesdk.onnxfile.open import open_onnx
        from edgesdk_backends.litert.converting import to_tflite
        from edgesdk_backends.litert.matching import find_interface

        del recipe
        open_onnx(model)  # says what is wrong with a damaged file
        with tempfile.TemporaryDirectory(prefix="edgesdk-litert-") as scratch:
            made = to_tflite(model, Path(scratch))
            interface = find_interface(model, made)
            shutil.copyfile(made, out / FILE)
        return finished(out, interface)

    def quantize(
        self, artifact: Path, recipe: Recipe, out: Path, calibration: SampleSet | None
    ) -> Path:
        """Quantize a file that `convert` wrote.

        Raises:
            RecipeError: LiteRT cannot run the recipe on any model.
            SamplesError: a static recipe without samples.
            StepFailed: nothing in the model takes the recipe, or the quantizer failed.
        """
        from edgesdk_backends.litert.quantizing import quantize

        refusal = self.rejects(recipe)
        if refusal:
            raise RecipeError(f"{recipe}: {refusal}")
        interface = read_interface(artifact)
        quantize(artifact, out / FILE, recipe, interface, calibration)
        _check_ends(out / FILE, interface)
        return finished(out, interface)

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load a TFLite file with the `interface.json` beside it."""
        self.check_options(options)
        return LiteRtSession(artifact, options)


def finished(out: Path, interface: Interface) -> Path:
    """Write the interface beside the file in that folder, and return the file."""
    artifact = out / FILE
    write_interface(replace(interface, file_bytes=artifact.stat().st_size), out)
    return artifact


def _check_ends(artifact: Path, interface: Interface) -> None:
    """See that the quantizer left inputs and outputs as they were.

    Raises:
        StepFailed: the file does not open, or its ends have other names or types.
    """
    engine = Engine(artifact)
    try:
        ends = {**engine.inputs, **engine.outputs}
    finally:
        engine.close()
    for port in (*interface.inputs, *interface.outputs):
        if port.tensor and (port.tensor not in ends or ends[port.tensor].dtype != port.dtype):
            raise StepFailed(f"the quantizer changed {port.tensor!r} ({port.dtype}) of the file")
