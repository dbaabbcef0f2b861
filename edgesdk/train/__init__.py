"""Training ONNX models with PyTorch (`edgesdk[train]`); everything else works without it.

This module is importable without PyTorch; those in it are not.
"""

from __future__ import annotations

import importlib.util


def unavailable() -> str | None:
    """Why nothing can be trained here, with the install line; None where it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed; pip install 'edgesdk[train]'"
    return None
