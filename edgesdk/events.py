"""What a long command tells while it runs. Anybody may listen; nothing depends on being heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something began, ended or deserves a word.

    Attributes:
        stage: `plan`, `prepare`, `compress`, `convert`, `check`, `place`, `measure`, `compare`, `decide`,
            `bundle`, `probe`.
        subject: the candidate it is about, or empty.
        message: what there is to say, in a sentence or a figure.
        state: `begin`, `done`, `failed`, `note`, or `progress` of what began and has not ended.
        cached: the result was there already.
        done, total: candidates finished and to do, for a progress bar.
    """

    stage: str
    subject: str = ""
    message: str = ""
    state: str = "note"
    cached: bool = False
    done: int = 0
    total: int = 0


Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """The listener that does not."""
    del event
