"""A killed process leaves nothing that is believed, and processes at once end with one entry."""

import collections
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_entry
from toy_entry import assert_same, blocks_of, toy

from vaejax import locks as file_locks
from vaejax.data import cache, columns
from vaejax.data.arrays import Dataset
from vaejax.data.cache import kept

TESTS = Path(__file__).parent


def in_a_process(tmp_path: Path, name: str, *arguments) -> str:
    """Call a function of this module in a fresh process, which may fork; -> its stderr."""
    program = f"import test_cache_processes as t; t.{name}(*{arguments!r})"
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "VAEJAX_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def forked(function: Callable[[], None]) -> int:
    """Id of a process that calls a function and ends with 0, or 1 if it raises."""
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        warnings.simplefilter("error")
        function()
        status = 0
    except BaseException as error:
        print(f"process {os.getpid()}: {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def prepared() -> Dataset:
    with cache.writing("toy"):
        return cache.cached("toy") or toy_entry.write(toy(), 2, 3, canonical=True)


def content() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (cache.cache_folder() / "toy").iterdir()}


def names() -> list[str]:
    return sorted(os.listdir(cache.cache_folder()))


def killed_at_every_line():
    os.fsync = lambda descriptor: None  # what a killed process wrote is with the system
    files = {module.__file__ for module in (cache, columns, toy_entry, shutil)}
    wanted = prepared_and_traced(lines := [], files)
    last = {line: index for index, line in enumerate(lines)}
    moments = sorted({*last.values(), *range(0, len(lines), 40)})[::2]
    believed = collections.Counter()
    for moment in moments:
        shutil.rmtree(cache.cache_folder())
        child = forked(lambda: prepared_and_traced([], files, moment))  # noqa: B023
        assert status(child) == -signal.SIGKILL, moment
        entry = cache.cached("toy")
        believed[entry is not None] += 1
        assert entry is None or content() == wanted, lines[moment]
        assert_same_content(prepared(), wanted, f"after {lines[moment]}")
    print(len(moments), len(lines), dict(believed), file=sys.stderr)


def prepared_and_traced(lines: list, files: set, moment: int = -1) -> dict[str, bytes]:
    def trace(frame, event, argument):
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            if len(lines) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            lines.append((frame.f_code.co_name, frame.f_lineno))
        return trace

    sys.settrace(trace)
    prepared()
    sys.settrace(None)
    return content()


def assert_same_content(entry: Dataset, wanted: dict[str, bytes], when: str = "") -> None:
    assert content() == wanted, when
    assert entry.sha256 in wanted["manifest.json"].decode()
    assert names() == [".toy.lock", "toy"], when


@pytest.mark.long
def test_killed_at_any_line_the_entry_is_absent_or_whole_and_the_next_writer_succeeds(tmp_path):
    told = in_a_process(tmp_path, "killed_at_every_line").splitlines()[-1]
    count, believed = told.split(" ", 1)
    assert int(count) > 80
    assert "False" in believed
    assert "True" in believed  # after the rename


def full_at_every_size():
    wanted = prepared_and_traced([], set())
    largest = max(map(len, wanted.values()))
    for limit in (0, 1, 127, 128, 129, 200, 300, largest - 1):
        shutil.rmtree(cache.cache_folder())
        assert status(forked(lambda: refused_beyond(limit))) == 0, limit  # noqa: B023
        assert cache.cached("toy") is None
        assert names() == [".toy.lock"]
    assert_same_content(prepared(), wanted)


def refused_beyond(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        prepared()


def test_a_file_that_may_not_grow_is_an_os_error_and_leaves_nothing(tmp_path):
    in_a_process(tmp_path, "full_at_every_size")


def raced(num_processes: int, locks: str) -> None:
    wanted = prepared_and_traced([], set())
    shutil.rmtree(cache.cache_folder())
    started = cache.cache_folder().with_name("started")
    pids = [forked(lambda: kept_once(num_processes, locks, started)) for _ in range(num_processes)]
    assert [status(pid) for pid in pids] == [0] * num_processes
    assert_same_content(prepared(), wanted)
    assert started.stat().st_size == (1 if locks == "working" else num_processes)


def kept_once(num_processes: int, locks: str, started: Path) -> None:
    def recipe():
        with started.open("a") as file:
            file.write("x")
        slow = {split: slowly(split, part) for split, part in toy().items()}
        return slow, "drawn"

    def slowly(split: str, part: dict):
        for block in blocks_of(part, 2, 3):
            time.sleep(0.03)
            yield block
        while locks != "working" and started.stat().st_size < num_processes:
            time.sleep(0.01)  # until all are writing

    def refused(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if locks == "absent":
        file_locks.fcntl = None
    if locks == "refused":
        file_locks.fcntl.flock = refused
    entry = kept("toy", "toy", recipe, 255.0, canonical=True)
    in_order = {split: part["factors"].argsort(axis=0)[:, 0] for split, part in toy().items()}
    assert_same(
        entry,
        {
            split: {kind: rows[in_order[split]] for kind, rows in part.items()}
            for split, part in toy().items()
        },
    )


@pytest.mark.parametrize(
    ("num_processes", "locks"), [(2, "working"), (4, "working"), (2, "absent"), (4, "refused")]
)
@pytest.mark.long
def test_processes_at_once_end_with_one_entry_and_prepare_once_where_locks_work(
    tmp_path, num_processes, locks
):
    in_a_process(tmp_path, "raced", num_processes, locks)


def bereaved():
    wanted = prepared_and_traced([], set())
    shutil.rmtree(cache.cache_folder())
    started = cache.cache_folder().with_name("started")
    first = forked(lambda: stuck(started))
    while not started.exists():
        time.sleep(0.01)
    told = started.with_name("told")
    second = forked(lambda: prepared_and_told(told))
    while not told.exists() or not told.read_text():
        time.sleep(0.01)
    assert told.read_text() == "data: waiting for another process that prepares toy\n"
    time.sleep(0.1)
    assert os.waitpid(second, os.WNOHANG) == (0, 0)  # waits
    assert cache.cached("toy") is None
    assert len(names()) == 2  # the lock and what the first has written
    os.kill(first, signal.SIGKILL)
    assert (status(first), status(second)) == (-signal.SIGKILL, 0)
    assert_same_content(prepared(), wanted)


def prepared_and_told(told: Path) -> None:
    sys.stderr = told.open("w", buffering=1)
    prepared()


def stuck(started: Path) -> None:
    def blocks():
        yield from blocks_of(toy()["train"])
        started.touch()
        time.sleep(60)

    with cache.writing("toy"):
        cache.write("toy", "toy", {"train": blocks()}, scale=1, note="")


def test_the_lock_dies_with_its_owner_and_the_one_that_waited_prepares(tmp_path):
    in_a_process(tmp_path, "bereaved")


def test_only_what_was_left_of_the_same_key_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path))
    keys = ["toy", "toy-64", "toy.v2", "to", "[toy]", "toy.*", "*"]
    left = {key: f".{key}.{'0' * 16}.partial" for key in keys}
    for name in left.values():
        (cache.cache_folder() / name).mkdir(parents=True)
    for key in keys:
        with cache.writing(key):
            del left[key]
            assert [name for name in names() if name.endswith(".partial")] == sorted(left.values())
