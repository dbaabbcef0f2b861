"""What ships: artifacts, wiring, golden samples, measured baseline, environment and hashes.

`docs/bundle.md` is the specification. Reading and verifying import the standard library only.
"""
