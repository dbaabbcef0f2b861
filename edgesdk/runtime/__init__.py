"""What a device app imports: `load` a bundle, `run` it. Needs numpy and one engine, on use.

from edgesdk import runtime

with runtime.load("bundle") as session:
    outputs = session.run({"image": image})
"""

from edgesdk.runtime.session import Session, load

__all__ = ["Session", "load"]
