"""Several processes as one backend, each with a copy of the model on a device of its own."""

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from evals.models.parallel import PATIENCE
from evals.repair.backends.protocol import Ask, Backend, Reply
from llama_scale.cli import end_with_parent
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig


class ParallelBackend:
    """A local model in ``count`` processes, which open it by the picklable ``load(device)`` and live until ``close``.

    The replies are those of one process, as each depends on its ask alone. Raises InputError if one cannot open it.
    """

    def __init__(self, load: Callable[[str], Backend], count: int, device: str) -> None:
        self.count, self.device, self.calls = count, device, 0
        context = torch.multiprocessing.get_context("spawn")
        self.found, self.work = context.Queue(), [context.Queue() for _ in range(count)]
        self.processes = [
            context.Process(target=answer, args=(load, self.device_of(n), self.work[n], self.found), daemon=True)
            for n in range(count)
        ]
        for process in self.processes:
            process.start()
        try:
            opened = [self._next() for _ in range(count)]
        except BaseException:
            self.close()
            raise
        self.identity, self.chat, self.context, self.parameters = opened[0]

    def device_of(self, number: int) -> str:
        """Return the device of a process."""
        return self.device if self.device != "cuda" else f"cuda:{number % torch.cuda.device_count()}"

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield replies as they come; each process answers every ``count``-th ask.

        What processes still draw for an earlier call that was not read to its end is passed over.
        """
        self.calls += 1
        call, left = self.calls, len(asks)
        for number, work in enumerate(self.work):
            share = list(range(number, len(asks), self.count))
            if share:
                work.put((call, share, [asks[place] for place in share], sampling))
        while left:
            made, place, replies = self._next()
            if made == call:
                left -= 1
                yield place, replies

    def _next(self) -> Any:
        """Return the next thing that a process says; raise InputError if it is an error's line or a process died."""
        while True:
            try:
                said = self.found.get(timeout=PATIENCE)
            except queue.Empty:
                for number, process in enumerate(self.processes):
                    if process.exitcode is not None:
                        ended = f"number {number} on {self.device_of(number)} ended with exit code {process.exitcode}"
                        raise InputError(f"processes: {ended}; the same command goes on, or try fewer") from None
                continue
            if isinstance(said, str):
                raise InputError(said)
            return said

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.terminate()
            process.join()


def answer(load: Callable[[str], Backend], device: str, work: Any, found: Any) -> None:
    """Open a model, say what it is, and answer what comes, until the process is ended; a text is an error's line."""
    end_with_parent()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            backend = load(device)
            found.put((backend.identity, backend.chat, backend.context, backend.parameters))
            while True:
                call, places, asks, sampling = work.get()
                for number, replies in backend.ask(asks, sampling):
                    found.put((call, places[number], replies))
        except InputError as error:
            found.put(str(error))
