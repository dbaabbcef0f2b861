"""The same work on many things, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def side_by_side(
    work: Callable[[_Item], _Result], items: Sequence[_Item], lanes: int
) -> Iterator[_Result]:
    """`work` of each item, in order, each in one of so many threads.

    Whoever stops asking, by an error or an interrupt, does not wait for what is not finished: nothing
    more is begun then, and no thread keeps the program from ending.

    Args:
        work: an error of it is raised where its result would be.
        items: begun in order.
        lanes: at most so many at the same time, at least 1.
    """
    results: list[Future[_Result]] = [Future() for _ in items]
    waiting = iter(zip(items, results, strict=True))
    taking = threading.Lock()
    stopped = threading.Event()

    def lane() -> None:
        while not stopped.is_set():
            with taking:
                found = next(waiting, None)
            if found is None:
                return
            item, result = found
            try:
                result.set_result(work(item))
            except BaseException as exc:  # belongs to whoever asks for the result
                result.set_exception(exc)

    for _ in range(min(lanes, len(items))):
        threading.Thread(target=lane, daemon=True, name="edgesdk-lane").start()
    try:
        for result in results:
            yield result.result()
    finally:
        stopped.set()
