"""Locks that die with the process that holds them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def lock(file: IO[Any], before_waiting: Callable[[], None] | None = None) -> bool | None:
    """Lock an open file until it is closed.  -> whether it is locked; None without such locks.

    Where another process has it: waits, after `before_waiting()`, or returns False without one.
    """
    if fcntl is None:
        return None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if before_waiting is None:
                return False
            before_waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # not every file system has locks
        return None
    return True


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for `what`; it is there only while it is held, or after a crash.

    Raises ValueError where another process holds it, which is named, and for what is no file of
    its own, such as a link to one of others.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} is a link, or no file; remove it")
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open("a+"))
            found = lock(file)
            if found is False:
                file.seek(0)
                owner = file.read(80).strip() or "another process"
                raise ValueError(f"{what} is in use by {owner}")
            if found is None or _is_there(path, file):
                break
            stack.pop_all().close()  # its owner has just removed it
        try:
            file.truncate(0)
            with contextlib.suppress(OSError):  # on a full disk it holds without a name in it
                owner = f"process {os.getpid()} on {socket.gethostname()}\n"
                os.write(file.fileno(), owner.encode())
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_there(path: Path, file: IO[Any]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
