"""Micro-benchmarks of the engines on this machine, kept as a device profile."""
