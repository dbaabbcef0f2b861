"""One plan for a whole pipeline: each component its recipe and its backend, one budget for all."""
