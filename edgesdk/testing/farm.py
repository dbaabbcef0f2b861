"""A farm on this machine: a Dask scheduler and workers, by their own commands.

`python -m edgesdk.testing.farm …` is `dask …` that ends with the process that started it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from edgesdk.farm.host import DEVICE
from edgesdk.process import Child, Launcher, hold_leash

_START_S = 60.0
_NO_PAGES = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
"""Dask serves its health there even so."""


class LocalFarm:
    """A scheduler, and workers as they are added. A context manager that ends them all.

    Attributes:
        address: of the scheduler.
        workers: the running processes, by the names of the workers.
    """

    def __init__(self, *, cache: Path) -> None:
        """Start the scheduler on a free port of 127.0.0.1, without its dashboard.

        Args:
            cache: the workers' cache folder.
        """
        self.workers: dict[str, Child] = {}
        self._cache = cache
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        place = self._folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler",
            ["scheduler", "--host", "127.0.0.1", "--port", "0"],
            "--scheduler-file",
            place,
        )
        self._until("scheduler", lambda: place.is_file() and place.stat().st_size > 0)
        self.address = str(json.loads(place.read_text())["address"])

    def add(
        self,
        name: str,
        *,
        device: str = "",
        options: Sequence[str] = ("--no-nanny",),
        resources: str = "edgesdk=1",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a worker.

        Args:
            name: of the worker.
            device: what it drives; this machine where empty.
            options: more of `dask worker`.
            resources: what it offers; empty for nothing.
            environment: more variables for it.
        """
        offered = ["--resources", resources] if resources else []
        self.workers[name] = self._start(
            name,
            ["worker", self.address, "--name", name, "--nthreads", "1", *offered, *options],
            "--local-directory",
            self._folder / f"{name}.scratch",
            {**(environment or {}), **({DEVICE: device} if device else {})},
        )

    def wait(self) -> None:
        """Until all workers are known to the scheduler."""
        for name in self.workers:
            self._until(name, partial(self._is_known, name))

    def _is_known(self, name: str) -> bool:
        return "Registered to" in self.log(name)

    def _until(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_S
        process = self.workers.get(name, self.scheduler)
        while not ready():
            if process.ended() or time.monotonic() > deadline:
                log = self.log(name)
                self.close()
                raise RuntimeError(f"{name} did not start: {log}")
            time.sleep(0.05)

    def log(self, name: str) -> str:
        """What the scheduler or a worker has printed."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """End them all. Calling it twice is harmless."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(
        self,
        name: str,
        command: Sequence[str],
        option: str,
        path: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        child = Child(
            "edgesdk.testing.farm",
            *command,
            *_NO_PAGES,
            option,
            str(path),
            log=self._folder / f"{name}.log",
            launcher=Launcher(
                environment={"EDGESDK_CACHE": str(self._cache), **(environment or {})}
            ),
        )
        return self._stack.enter_context(child)


def main() -> None:
    """Dask's command line."""
    hold_leash()
    from dask import __main__ as dask

    command: Any = dask.main
    command()


if __name__ == "__main__":
    main()
