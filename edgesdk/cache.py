"""Results by content: a step whose inputs were seen before is not run again.

    ROOT/entries/<step>-<hash>/   what a step wrote, whole; entry.json lists its files
    ROOT/locks/<step>-<hash>      held while it is built; the kernel frees it when the holder dies
    ROOT/unfinished/<step>-<hash> what a long step had done when it was killed

An entry is built in a hidden `.part` folder beside its place, and renamed when it is finished and
on the disk: a process killed at any moment leaves either the whole entry or none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgesdk import __version__
from edgesdk.errors import OutputError, StepFailed
from edgesdk.files import new_folder, read_json, sha256_file, sha256_json, tree_bytes, write_json
from edgesdk.isolate import RECORD

SCHEMAS: dict[str, int] = {"prepare": 2, "compress": 2, "restructure": 3}
"""Schema number of a step, 1 where it is not named: raise it when the step's result changes."""

ENTRY, FAILURE = "entry.json", "failure.json"

_FORMAT = 1
_REMEMBERED = frozenset({"error", "crash", "memory"})
"""Kinds of failure that the same inputs bring again; a timeout or an outside kill may not recur."""


def default_root() -> Path:
    """`$EDGESDK_CACHE`, else `edgesdk` in the user's cache folder."""
    if named := os.environ.get("EDGESDK_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgesdk"


class Cache:
    """Finished steps on disk, shared by any number of processes."""

    def __init__(self, root: Path | None = None) -> None:
        """Use, and make where missing, the cache at `root`.

        Raises:
            OutputError: it cannot be made or written.
        """
        self.root = (root or default_root()).resolve()
        try:
            for folder in (self._entries, self._locks):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise OutputError(
                f"cache folder {self.root} cannot be made: {exc.strerror}; "
                "set EDGESDK_CACHE to a folder that can be written"
            ) from exc
        if not os.access(self._entries, os.W_OK):
            raise OutputError(
                f"cache folder {self.root} is not writable; "
                "set EDGESDK_CACHE to a folder that can be written"
            )

    @property
    def _entries(self) -> Path:
        return self.root / "entries"

    @property
    def _locks(self) -> Path:
        return self.root / "locks"

    def key(self, step: str, **inputs: Any) -> str:
        """The identity of a step's result: its name, its schema number, our version and its inputs.

        Args:
            step: a name that can be part of a file name.
            inputs: JSON values that the result depends on; files by their hash, never by path.
        """
        schema = SCHEMAS.get(step, 1)
        identity = [_FORMAT, __version__, step, schema, inputs]
        return f"{step}-{sha256_json(identity)[:40]}"

    def unfinished(self, step: str, **inputs: Any) -> Path:
        """Where a long step keeps what it has done so far, and finds it after it was killed.

        A name for a file that need not exist; the step removes it when it is done. `trim` removes
        what was not written for long.
        """
        return self.root / "unfinished" / self.key(step, **inputs)

    def has(self, key: str, *, since: float = 0.0) -> bool:
        """Whether a finished, undamaged result (not a remembered failure) is there.

        Args:
            key: from `key`.
            since: only one made at this time, as `time.time` tells it, or later.
        """
        entry = self._entries / key
        return _is_whole(entry, since) and not (entry / FAILURE).exists()

    def folder(
        self,
        key: str,
        build: Callable[[Path], None],
        *,
        refresh: bool = False,
        since: float = 0.0,
    ) -> Path:
        """The folder of a result, built now if it is not there; nobody must write into it.

        While another process builds the same entry this waits for it and takes what it made.

        Args:
            key: from `key`.
            build: writes the result into the empty folder that it is given.
            refresh: build anew even where a result or a failure is remembered.
            since: the same for what is from before this time. Others who ask for the same take what
                was built since then, so it is not removed while they use it.

        Raises:
            StepFailed: `build` failed, now or, for failures that inputs bring again, earlier.
            OutputError: the disk is full.
        """
        entry = self._entries / key
        with self._locked(key):
            if not refresh and _is_whole(entry, since):
                failure = _remembered_failure(entry)
            else:
                self._remove(entry)
                failure = _build(entry, build)
            os.utime(entry / ENTRY)  # when it was last used, for `trim`
        if failure:
            raise failure
        return entry

    def trim(self, max_bytes: int, *, spare_s: float = 3600.0) -> int:
        """Remove the least recently used entries until the rest fits.

        Args:
            max_bytes: what may stay.
            spare_s: entries used within that many seconds stay in any case; a deploy may need them.

        Returns:
            Bytes that were freed.
        """
        for part in self._entries.glob(".*.part"):
            if time.time() - part.stat().st_mtime > spare_s:
                shutil.rmtree(part, ignore_errors=True)
        for left in (self.root / "unfinished").glob("*"):
            with suppress(FileNotFoundError):  # its step may end meanwhile
                if time.time() - left.stat().st_mtime > spare_s:
                    left.unlink()
        known = sorted(
            (_last_used(entry), tree_bytes(entry), entry)
            for entry in self._entries.iterdir()
            if not entry.name.startswith(".")
        )
        total, freed = sum(size for _, size, _ in known), 0
        for used, size, entry in known:
            if total - freed <= max_bytes or time.time() - used < spare_s:
                break
            with self._locked(entry.name):
                self._remove(entry)
                (self._locks / entry.name).unlink(missing_ok=True)
            freed += size
        return freed

    def _remove(self, entry: Path) -> None:
        """Remove an entry and what a killed process left of it; the caller holds its lock."""
        doomed = entry.with_name(f".{entry.name}.removed.part")
        for left in self._entries.glob(f".{entry.name}.*.part"):
            shutil.rmtree(left)
        if entry.exists():
            entry.rename(doomed)  # never half there, even if we are killed now
            shutil.rmtree(doomed)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        path = self._locks / key
        while True:
            with path.open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _is_file_at(lock.fileno(), path):  # else `trim` removed it while we waited
                    yield
                    return


def _is_file_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _build(entry: Path, build: Callable[[Path], None]) -> StepFailed | None:
    """Make an entry; the failure that is its content when `build` failed in a way that recurs."""
    failure = None
    with new_folder(entry) as part:
        try:
            build(part)
        except StepFailed as exc:
            if exc.kind not in _REMEMBERED:
                raise
            _record_failure(part, exc)
            failure = exc
        _seal(part)
    _sync(entry.parent)
    return failure


def _seal(folder: Path) -> None:
    """List all files with size, time and hash, and force them to the disk."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _sync(file)
            stat = file.stat()
            files[str(file.relative_to(folder))] = [
                stat.st_size,
                stat.st_mtime_ns,
                sha256_file(file),
            ]
    write_json(folder / ENTRY, {"format": _FORMAT, "built": time.time(), "files": files})


def _is_whole(entry: Path, since: float) -> bool:
    """Whether an entry is there, built no earlier than that, with every file as it was sealed.

    A file whose size and time are as they were is taken as unchanged, as version control does;
    otherwise its content decides.
    """
    try:
        sealed = read_json(entry / ENTRY)
        files = sealed["files"].items()
        return sealed.get("built", 0.0) >= since and all(
            _is_unchanged(entry / name, *facts) for name, facts in files
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_unchanged(file: Path, size: int, mtime_ns: int, sha256: str) -> bool:
    stat = file.stat()
    if stat.st_size != size:
        return False
    return stat.st_mtime_ns == mtime_ns or sha256_file(file) == sha256


def _record_failure(folder: Path, failure: StepFailed) -> None:
    """Keep the record of a failed step, and drop what it had made so far."""
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        elif item.name not in RECORD:
            item.unlink()
    write_json(
        folder / FAILURE,
        {
            "message": str(failure),
            "kind": failure.kind,
            "log": failure.log,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _remembered_failure(entry: Path) -> StepFailed | None:
    if not (entry / FAILURE).exists():
        return None
    known = read_json(entry / FAILURE)
    message = f"{known['message']} (known since {known['when']}; refresh to try again)"
    return StepFailed(message, kind=known["kind"], log=known["log"])


def _last_used(entry: Path) -> float:
    try:
        return (entry / ENTRY).stat().st_mtime
    except OSError:
        return 0.0


def _sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
