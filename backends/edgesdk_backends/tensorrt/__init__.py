"""TensorRT on NVIDIA's Jetson, proved with TensorRT-RTX where there is none. The artifact is ONNX."""

from edgesdk_backends.tensorrt.backend import TensorRtBackend

__all__ = ["TensorRtBackend"]
