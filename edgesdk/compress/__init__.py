"""Recipes applied to a model, ONNX in and ONNX out; one technique a file, no engine imported."""
