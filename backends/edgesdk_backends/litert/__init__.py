"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK. The artifact is `model.tflite` and `interface.json`."""

from edgesdk_backends.litert.backend import LiteRtBackend

__all__ = ["LiteRtBackend"]
