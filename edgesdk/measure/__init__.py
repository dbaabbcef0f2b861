"""Latency, memory and placement of artifacts on a device, each engine in a process of its own."""
