"""Built-in engine adapters, one module an engine."""
