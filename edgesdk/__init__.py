"""Plan, convert, prove, measure and bundle ONNX models for edge devices.

`edgesdk.deploy(...)` does the whole job; `edgesdk.load(bundle)` opens what it made. Both are loaded
when first used, so that `import edgesdk.runtime` stays light on a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "deploy", "load"]

if TYPE_CHECKING:
    from edgesdk.deployment import deploy
    from edgesdk.runtime import load


def __getattr__(name: str) -> Any:
    if name == "deploy":
        from edgesdk.deployment import deploy

        return deploy
    if name == "load":
        from edgesdk.runtime import load

        return load
    raise AttributeError(f"module 'edgesdk' has no attribute {name!r}")
