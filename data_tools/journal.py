"""A journal of a step's results, so that a killed step goes on at the first missing one.

A journal is results one after another, each as its length, its CRC-32 and a pickle. What a kill
tore at the end is told by its length or its checksum and dropped.
"""

import pickle
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import IO, Any

from llama_scale.files import open_file

HEAD = struct.Struct("<II")  # bytes and CRC-32 of a result


def with_journal(path: Path, map_: Callable) -> Callable:
    """Return ``map_`` with a memory: results go to a file as they come and are not made again.

    After a kill the same maps over the same tasks read the whole results that they find and make
    the rest. The n-th map has the file ``path`` with n behind its name.
    """
    files = (path.with_name(f"{path.name}.{n}") for n in count())

    def journaled_map(function: Callable, *arguments: Iterable) -> Iterator:
        return _resume_map(next(files), map_, function, zip(*arguments, strict=False))

    return journaled_map


def _resume_map(path: Path, map_: Callable, function: Callable, tasks: Iterator) -> Iterator:
    with open_file(path, "ab+") as file:
        file.seek(0)
        whole_bytes = 0
        for result, end in read_results(file):
            whole_bytes = end
            next(tasks)
            yield result
        file.truncate(whole_bytes)
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
