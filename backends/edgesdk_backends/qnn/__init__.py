"""Qualcomm HTP through onnxruntime-qnn. The artifact is `model.onnx`, the program an EP context model."""

from edgesdk_backends.qnn.backend import QnnBackend

__all__ = ["QnnBackend"]
