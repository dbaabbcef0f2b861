"""onnxruntime with Qualcomm's execution provider, which is a plug-in library of its own."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesdk.errors import BackendUnavailable, StepFailed
from edgesdk_backends.qnn.target import Target

PROVIDER = "QNNExecutionProvider"
CPU = "CPUExecutionProvider"
VERBOSE, QUIET = 0, 4
"""Log levels: the first tells why a node is not taken, the second only what is fatal."""

_BOARDS = ("aarch64", "arm64")


def is_board() -> bool:
    """Whether this machine can have an HTP; on others the vendor's library simulates one."""
    return platform.machine().lower() in _BOARDS


def open_engine(
    model: Path,
    target: Target,
    *,
    threads: int = 1,
    level: int = QUIET,
    settings: Mapping[str, str] | None = None,
) -> Any:
    """An `InferenceSession` whose nodes go to the HTP where it takes them, else to the CPU.

    Args:
        model: a graph, or a compiled program.
        target: of its HTP.
        threads: for what runs on the CPU.
        level: of what is written to standard error.
        settings: further entries of the session's configuration.

    Raises:
        BackendUnavailable: the provider does not load or finds no device.
        StepFailed: the model does not load.
    """
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.disable_telemetry_events()
    try:
        with _stdout_as_stderr():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
            options.log_severity_level = level
            entries = {
                "session.intra_op.allow_spinning": "0",
                "session.record_ep_graph_assignment_info": "1",
                **(settings or {}),
            }
            for name, value in entries.items():
                options.add_session_config_entry(name, value)
            options.add_provider_for_devices(
                _devices(onnxruntime, onnxruntime_qnn),
                {
                    "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
                    "htp_arch": target.htp_arch,
                    "soc_model": target.soc_model,
                },
            )
            # Without it onnxruntime's Python part goes on with the CPU alone when a provider fails.
            return onnxruntime.InferenceSession(str(model), options, enable_fallback=0)
    except errors() as exc:
        raise StepFailed(f"onnxruntime-qnn cannot load {model.name}: {exc}") from exc


def _devices(onnxruntime: Any, onnxruntime_qnn: Any) -> list[Any]:
    """The HTP of this process; its library is registered once, for sessions that ask for it."""
    for attempt in (1, 2):
        found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
        if found:
            return found
        if attempt == 1:
            library = onnxruntime_qnn.get_library_path()
            onnxruntime.register_execution_provider_library(PROVIDER, library)
    raise BackendUnavailable(f"{PROVIDER} finds no HTP on this machine ({platform.machine()})")


def errors() -> tuple[type[Exception], ...]:
    """All that onnxruntime raises; its own classes have no common base below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    own = [kind for kind in vars(native).values() if isinstance(kind, type)]
    return (RuntimeError, ValueError, *(kind for kind in own if issubclass(kind, Exception)))


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """The simulator prints a line when it starts; standard output is for documents."""
    if is_board():
        yield
        return
    import ctypes

    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
        ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
