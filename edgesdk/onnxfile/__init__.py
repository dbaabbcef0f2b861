"""ONNX files as untrusted bytes: what may be read, and what a graph costs to run."""
