"""Reference models for benchmarks: real weights, real labelled samples, the task's own metric.

One module a model. Each states source, licence and metric, builds `model.onnx` from files that
published packages carry, and writes labelled samples. `python -m benchmarks.models --help`.
"""
