"""Where a loss comes from: nodes that quantization hurts, nodes that a conversion breaks."""
