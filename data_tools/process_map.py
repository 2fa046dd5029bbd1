"""The map that runs each step's batches: over the processes of this machine, in order.

Every step is a function of a batch and takes a ``map_`` that applies it: Python's own ``map`` for
one worker, this one for several, or ``datatrove_map`` for several machines. Results come in the
order of the batches, so a build does not depend on which it was.
"""

import functools
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from llama_scale.cli import end_with_parent
from llama_scale.errors import InputError


@contextmanager
def process_map(workers: int) -> Iterator[Callable]:
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
        yield functools.partial(_bounded_map, executor, 2 * workers + 2)
    except BaseException as error:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                f"workers: one of {workers} worker processes was killed, perhaps for want of memory; try fewer"
            ) from None
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _bounded_map(executor: ProcessPoolExecutor, max_running: int, function: Callable, *arguments: Iterable) -> Iterator:
    """Yield results in order with at most ``max_running`` tasks under way, for bounded memory."""
    running = deque()  # executor.map would take all tasks from their iterator at once
    for task in zip(*arguments, strict=False):
        if len(running) >= max_running:
            yield running.popleft().result()
        running.append(executor.submit(function, *task))
    while running:
        yield running.popleft().result()


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
