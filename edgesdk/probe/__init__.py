"""Micro-benchmarks of the engines on a device, kept as a device profile."""
