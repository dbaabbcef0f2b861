"""One model for devices of several kinds: a deploy for each profile, side by side on one farm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesdk.deployment import Deployment, deploy
from edgesdk.errors import EdgeSdkError, InputError
from edgesdk.events import Event, Listener, nobody
from edgesdk.lanes import side_by_side
from edgesdk.together import one_at_a_time


def deploy_fleet(
    model: str | Path,
    *,
    profiles: Sequence[str],
    farm: str,
    out: str | Path | None = None,
    refresh: bool | float = False,
    listen: Listener = nobody,
    **options: Any,
) -> dict[str, Deployment | EdgeSdkError]:
    """`deploy` for every profile at once, each on the farm's devices that come closest to its own.

    What artifacts have in common is made once; they are made one after the other, on this machine.

    Args:
        model: an ONNX file.
        profiles: as `deploy` takes one each.
        farm: the address of its scheduler.
        out: takes an output folder for each profile, of its name; default `MODEL-PROFILE` here.
        refresh: as for `deploy`; what several of them need is still made once.
        listen: called with each `Event`, whose subject begins with the profile.
        options: for every one of them, as `deploy` takes them.

    Returns:
        By profile, what came of it: a deployment, or the error that it ended with.

    Raises:
        InputError: profiles whose output folders would be the same.
    """
    names = [Path(profile).stem for profile in profiles]
    if len(set(names)) < len(names):
        raise InputError(f"profiles {', '.join(profiles)}: each needs a name of its own")
    heard = one_at_a_time(listen)
    since = time.time() if refresh is True else float(refresh)

    def one(profile: str) -> Deployment | EdgeSdkError:
        name = Path(profile).stem

        def listen_to_one(event: Event) -> None:
            heard(replace(event, subject=f"{name} {event.subject}".strip(), done=0, total=0))

        place = None if out is None else Path(out) / name
        try:
            return deploy(
                model,
                profile=profile,
                farm=farm,
                out=place,
                refresh=since,
                listen=listen_to_one,
                **options,
            )
        except EdgeSdkError as exc:
            return exc

    found = side_by_side(one, profiles, len(profiles))
    return dict(zip(profiles, found, strict=True))
