"""Maps over processes, and a journal of their results so that a killed step goes on."""

import functools
import multiprocessing
import os
import pickle
import signal
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import count, repeat
from pathlib import Path
from typing import IO, Any

from llama_scale.errors import InputError

HEAD = struct.Struct("<II")  # bytes and CRC-32 of a result


@contextmanager
def mapper(workers: int) -> Iterator[Callable]:
    """Yield an ordered ``map``, over ``workers`` fresh interpreters when there are two or more.

    They leave Ctrl-C to the parent, and end when it does, however it ends.

    Raises:
        InputError: A worker was killed.
    """
    if workers == 1:
        yield map
        return
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield functools.partial(_ordered, executor, 2 * workers + 2)
    except BaseException as error:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                f"workers: one of {workers} worker processes was killed, perhaps for want of "
                "memory; try fewer"
            ) from None
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _ordered(
    executor: ProcessPoolExecutor, ahead: int, function: Callable, *arguments: Iterable
) -> Iterator:
    """Yield results in order with at most ``ahead`` tasks under way, so that memory is bounded."""
    running = deque()
    for task in zip(*arguments, strict=False):
        if len(running) >= ahead:
            yield running.popleft().result()
        running.append(executor.submit(function, *task))
    while running:
        yield running.popleft().result()


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def journalled(path: Path, map_: Callable) -> Callable:
    """Return ``map_`` with a memory: results go to a file as they come and are not made again.

    After a kill the same maps over the same tasks read the whole results that they find and make
    the rest. A result that a kill tore is told by its checksum. The n-th map has the file
    ``path`` with n behind its name.
    """

    numbers = count()

    def mapped(function: Callable, *arguments: Iterable) -> Iterator:
        name = path.with_name(f"{path.name}.{next(numbers)}")
        return _recorded(name, map_, function, zip(*arguments, strict=False))

    return mapped


def _recorded(path: Path, map_: Callable, function: Callable, tasks: Iterator) -> Iterator:
    with open(path, "ab+") as file:
        file.seek(0)
        end = 0
        for result, place in read_results(file):
            end = place
            next(tasks)
            yield result
        file.truncate(end)
        for result in map_(_call, repeat(function), tasks):
            write_result(file, result)
            file.flush()
            yield result


def _call(function: Callable, arguments: tuple) -> Any:
    return function(*arguments)


def write_result(file: IO[bytes], result: Any) -> bytes:
    """Append a result for ``read_results``; return its bytes."""
    content = pickle.dumps(result, protocol=5)
    file.write(HEAD.pack(len(content), zlib.crc32(content)) + content)
    return content


def read_results(file: IO[bytes]) -> Iterator[tuple[Any, int]]:
    """Yield each whole result and where it ends. Only files that this program wrote are read."""
    while len(head := file.read(HEAD.size)) == HEAD.size:
        size, checksum = HEAD.unpack(head)
        content = file.read(size)
        if len(content) < size or zlib.crc32(content) != checksum:
            return
        yield pickle.loads(content), file.tell()
