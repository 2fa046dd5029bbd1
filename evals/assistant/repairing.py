"""A person's program repaired until it holds their tests: its task, and POST /repair, which streams the rounds."""

import ast
import asyncio
import difflib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evals.assistant.judging import MOST_SECONDS, Judging, read_program
from evals.repair.backends.protocol import Backend
from evals.repair.backends.served import ServedBackend, StoppedError
from evals.repair.critics import open_critics
from evals.repair.loop import Pipelines, Plan, Step, as_row
from evals.repair.outcome import Runs, VisibleJudge
from evals.repair.split import Shown, Visible, entry_of
from evals.sandbox.types import Program, Script, Verdict
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig
from llama_scale.serving.app import EventStream, Service, acquire, read_body
from llama_scale.serving.engine import BusyError
from llama_scale.serving.protocol import Fields, ProtocolError, as_protocol_error, refuse

CRITICS = ("assertion", "interpreter", "generic")  # they need no model, and start nothing outside of the sandbox
ROUNDS, MOST_ROUNDS = 3, 10
TOKENS = 384  # of a program
MOST_AT_ONCE = 4  # repairs
STOPS = ("\nassert", "\nprint", "\n#", "\n```")
ASKED = "The program below fails a test. Find what is wrong and correct it."


def read_task(program: str, tests: str, about: str = "") -> tuple[Shown, Visible]:
    """Return the task of a program that is to hold tests, all of them shown; raise ProtocolError where it is none."""
    read = read_program(Fields({"program": program, "tests": tests}))
    if not isinstance(read, Program):
        raise ProtocolError(400, "tests: expected assertions that the program is to hold, found none", "tests")
    if not program.strip():
        raise ProtocolError(400, "program: there is nothing to repair in an empty one", "program")
    asserts = [node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Assert)]
    asserts.sort(key=lambda node: (node.lineno, node.col_offset))
    if not asserts:
        raise ProtocolError(400, "tests: expected assertions that the program is to hold, found none", "tests")
    texts = tuple(ast.unparse(node) for node in asserts)
    entry = entry_of(texts, read.names)
    shown = Shown(
        task_id="program",
        number=0,
        text="\n\n".join(filter(None, [about.strip(), ASKED])),
        entry=entry,
        tests=texts,
        prompt=f"# {entry or 'The program'} without its bug\n",
        stops=STOPS,
        start=program.strip("\r\n") + "\n",
    )
    return shown, Visible((replace(read, source=""),), lambda verdicts: verdicts[0])


def repair(
    task: tuple[Shown, Visible], backend: Backend, runs: Runs, critic: str, rounds: int, sampling: SamplingConfig,
    timeout: float, seen: Callable[[Step], None], quiet: bool = False,
) -> list[Step]:  # fmt: skip
    """Return the rounds of a repair, the program as it is first; ``seen`` gets each as it ends.

    A program that was drawn before is drawn once more, and if it comes again the repair ends.
    """
    shown, visible = task
    arm = "generic" if critic == "generic" else f"logic:{critic}"
    plan = Plan(arms=arm, rounds=rounds, repeats="redraw", budget="programs")
    critics = open_critics(["compiler", critic], None, sampling)
    judge = VisibleJudge({0: visible}, runs, timeout)
    return list(Pipelines(plan, judge, backend, critics, sampling, seen=seen, quiet=quiet).run([shown]))


def changes(before: str, after: str, name: str = "program.py") -> list[str]:
    """Return a unified diff as lines."""
    lines = [text.splitlines(keepends=True) for text in (before, after)]
    found = difflib.unified_diff(*lines, f"a/{name}", f"b/{name}")
    return [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in found]


class Turns:
    """The sandbox of a server for a thread: each program waits for its turn among those of other requests."""

    def __init__(self, judging: Judging, loop: asyncio.AbstractEventLoop) -> None:
        self.judging, self.loop = judging, loop

    def judge(self, programs: Sequence[Program | Script], timeout: float, title: str) -> list[Verdict]:
        """Return the verdict of each program."""
        return [
            asyncio.run_coroutine_threadsafe(self.judging.run(program, timeout), self.loop).result()
            for program in programs
        ]


class Repairing:
    """Repairs of a server, a few at a time."""

    def __init__(self, judging: Judging) -> None:
        self.judging, self.running = judging, 0

    async def __call__(self, request: Request) -> Response:
        """Answer with the rounds of a repair as events."""
        service: Service = request.app.state.service
        fields = Fields(await read_body(request))
        task = await asyncio.to_thread(
            read_task, fields.text("program", ""), fields.text("tests", ""), fields.text("task", "")
        )
        critic = fields.text("critic", CRITICS[0])
        if critic not in CRITICS:
            raise refuse("critic", f"one of {', '.join(CRITICS)}", critic)
        settings = {
            "critic": critic,
            "rounds": fields.whole("rounds", ROUNDS, 1, MOST_ROUNDS),
            "sampling": read_sampling(fields),
            "timeout": float(fields.number("timeout", 3.0, 0.1, MOST_SECONDS)),
        }
        await asyncio.to_thread(self.judging.open)  # a machine without a sandbox says so before a model is loaded
        if self.running >= MOST_AT_ONCE:
            raise ProtocolError(429, "too many repairs are under way; try again later", code="busy")
        self.running += 1
        try:
            loaded = await acquire(service, fields.text("model"))
        except BaseException:
            self.running -= 1
            raise
        loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

        def tell(event: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        backend = ServedBackend(service.engine, loaded, lambda text: tell({"type": "draft", "text": text}))
        work = asyncio.ensure_future(asyncio.to_thread(self.work, task, backend, loop, settings, tell))

        def ended(_: object) -> None:
            self.running -= 1
            service.shelf.release(loaded)

        work.add_done_callback(ended)
        return EventStream(parts(events), backend.stop)

    def work(
        self, task: tuple[Shown, Visible], backend: ServedBackend, loop: asyncio.AbstractEventLoop,
        settings: dict[str, Any], tell: Callable[[dict[str, Any] | None], None],
    ) -> None:  # fmt: skip
        """Repair in a thread; what is seen of it, or what went wrong, is told as events."""
        shown = task[0]

        def seen(step: Step) -> None:
            if backend.stopped:
                raise StoppedError
            tell(round_event(shown, step))

        try:
            steps = repair(task, backend, Turns(self.judging, loop), seen=seen, quiet=True, **settings)
            tell(last_event(steps, settings["sampling"].seed))
        except StoppedError:
            pass
        except Exception as error:
            told = ProtocolError(429, str(error), code="busy") if isinstance(error, BusyError) else error
            tell(as_protocol_error(told).body())
            if not isinstance(error, ProtocolError | InputError | BusyError):
                raise
        finally:
            tell(None)


async def parts(events: "asyncio.Queue[dict[str, Any] | None]") -> AsyncIterator[dict[str, Any]]:
    """Yield events until one is None."""
    while (event := await events.get()) is not None:
        yield event


def read_sampling(fields: Fields) -> SamplingConfig:
    """Return how the programs of a request are drawn."""
    return SamplingConfig(
        temperature=float(fields.number("temperature", 0.8, 0, 100)),
        top_p=float(fields.number("top_p", 0.95, 1e-9, 1)),
        max_new_tokens=fields.whole("max_tokens", TOKENS, 1, 1 << 30),
        seed=fields.whole("seed", 0, 0, (1 << 63) - 1),
    )


ROUND_FIELDS = (
    "round", "program", "parses", "passed", "held", "tests", "reason", "repeat_of", "renamed", "taken", "critic",
    "feedback", "refused", "prompt_tokens", "tokens", "prompt_truncated",
)  # fmt: skip


def round_event(shown: Shown, step: Step) -> dict[str, Any]:
    """Return what a client is told of a round; the diff is from the program that was sent."""
    found = as_row(step)
    row = {name: found[name] for name in (*ROUND_FIELDS, "failures")}
    row["new_tokens"] = row.pop("tokens")
    return {"type": "round", **row, "diff": changes(shown.start, step.program)}


def best(steps: Sequence[Step]) -> Step:
    """Return the round to hand in: the first of those that hold most tests."""

    def worth(step: Step) -> tuple[bool, int, int]:
        return step.outcome.passed, step.outcome.held if step.outcome.parses else -1, -step.round

    return max(steps, key=worth)


def last_event(steps: Sequence[Step], seed: int) -> dict[str, Any]:
    """Return what a client is told at the end."""
    chosen = best(steps)
    counts = [step.tokens for step in steps]
    return {
        "type": "end", "passed": chosen.outcome.passed, "round": chosen.round, "program": chosen.program, "seed": seed,
        "new_tokens": sum(count or 0 for count in counts),
    }  # fmt: skip


def repair_route(judging: Judging) -> Route:
    """Return the route /repair."""
    repairing = Repairing(judging)

    async def route(request: Request) -> Response:
        return await repairing(request)

    return Route("/repair", route, methods=["POST"])
