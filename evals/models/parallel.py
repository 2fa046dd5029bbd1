"""Completions drawn by several processes, each with a copy of the model on a device of its own."""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from evals.models.request import Completer, Completion, Request
from evals.perplexity import References
from llama_scale.cli import end_with_parent
from llama_scale.errors import InputError

PATIENCE = 1.0  # seconds between looks whether a process has died


@dataclass
class ParallelCompleter:
    """A ``model`` whose tasks are shared out to ``count`` processes, each of which opens it by the picklable ``load``.

    The completions are those of one process, because each depends on its seed, task and number alone.
    """

    model: Completer
    load: Callable[[str], Completer]
    count: int
    device: str

    def device_of(self, number: int) -> str:
        """Return the device of a process."""
        return self.device if self.device != "cuda" else f"cuda:{number % torch.cuda.device_count()}"

    def complete(self, request: Request) -> Iterator[Completion]:
        """Yield completions as they come; raise InputError if a process fails or dies."""
        context = torch.multiprocessing.get_context("spawn")
        results, processes = context.Queue(), []
        prompts = list(request.prompts.items())
        try:
            for number in range(min(self.count, len(prompts))):
                share = replace(request, prompts=dict(prompts[number :: self.count]))
                arguments = (self.load, self.device_of(number), share, results)
                process = context.Process(target=draw, args=arguments, daemon=True)
                process.start()
                processes.append(process)
            yield from self._collect(processes, results)
        finally:
            for process in processes:
                process.terminate()
                process.join()

    def _collect(self, processes: list[Any], results: Any) -> Iterator[Completion]:
        """Yield what the processes draw until each has said that it is done."""
        running = len(processes)
        while running:
            try:
                result = results.get(timeout=PATIENCE)
            except queue.Empty:
                for number, process in enumerate(processes):
                    if process.exitcode:
                        ended = f"number {number} on {self.device_of(number)} ended with exit code {process.exitcode}"
                        raise InputError(f"processes: {ended}; the same command goes on, or try fewer") from None
                continue
            if isinstance(result, str):
                raise InputError(result)
            if result is None:
                running -= 1
            else:
                yield result

    def score_references(self, pairs: Sequence[tuple[str, str]]) -> References | None:
        """Score (prompt, solution) pairs in this process."""
        return self.model.score_references(pairs)


def draw(load: Callable[[str], Completer], device: str, request: Request, results: Any) -> None:
    """Put a process's completions into ``results``: None ends them, a text is an error's line."""
    end_with_parent()
    try:
        for completion in load(device).complete(request):
            results.put(completion)
        results.put(None)
    except InputError as error:
        results.put(str(error))
