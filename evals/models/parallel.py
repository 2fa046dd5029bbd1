"""Completions drawn by several processes, each with a copy of the model on a device of its own."""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from evals.models.completion import Request, Source
from evals.perplexity import References
from llama_scale.errors import InputError

PATIENCE = 1.0  # seconds between looks whether a process has died


@dataclass
class Ranks:
    """A ``source`` whose tasks are shared out to ``count`` processes.

    ``load(device)`` opens the model in each of them; it must be picklable. The completions are
    those of one process, because each depends on its seed, task and number alone.
    """

    source: Source
    load: Callable[[str], Source]
    count: int
    device: str

    def place(self, rank: int) -> str:
        """Return the device of a process."""
        return f"cuda:{rank % torch.cuda.device_count()}" if self.device == "cuda" else self.device

    def complete(self, request: Request) -> Iterator[dict[str, Any]]:
        """Yield completions as they come; raise InputError if a process fails or dies."""
        context = torch.multiprocessing.get_context("spawn")
        rows = context.Queue()
        ranks = []
        prompts = list(request.prompts.items())
        for rank in range(min(self.count, len(prompts))):
            mine = replace(request, prompts=dict(prompts[rank :: self.count]))
            arguments = (self.load, self.place(rank), mine, rows)
            ranks.append(context.Process(target=draw, args=arguments, daemon=True))
            ranks[-1].start()
        left = len(ranks)
        try:
            while left:
                try:
                    row = rows.get(timeout=PATIENCE)
                except queue.Empty:
                    for rank, process in enumerate(ranks):
                        if process.exitcode:
                            raise InputError(
                                f"ranks: process {rank} on {self.place(rank)} ended with exit code "
                                f"{process.exitcode}; the same command goes on, or try fewer ranks"
                            ) from None
                    continue
                if isinstance(row, str):
                    raise InputError(row)
                left -= row is None
                if row is not None:
                    yield row
        finally:
            for process in ranks:
                process.terminate()
                process.join()

    def gold(self, pairs: Sequence[tuple[str, str]]) -> References | None:
        """Score (prompt, solution) pairs in this process."""
        return self.source.gold(pairs)


def draw(load: Callable[[str], Source], device: str, request: Request, rows: Any) -> None:
    """Put the completions of a rank into ``rows``: a None ends them, a text is an error's line."""
    try:
        for row in load(device).complete(request):
            rows.put(row)
        rows.put(None)
    except InputError as error:
        rows.put(str(error))
