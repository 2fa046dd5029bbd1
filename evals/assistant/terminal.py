"""The assistant in a terminal: a completion in a file, a file repaired until its tests hold, a chat."""

import io
import queue
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evals.assistant.repairing import CRITICS, best, changes, read_task, repair
from evals.assistant.tests_file import read_tests
from evals.repair.backends.protocol import Backend, BackendConfig
from evals.repair.backends.served import ServedBackend, iter_events
from evals.repair.loop import Step
from evals.verdicts import Execution, ExecutionConfig
from llama_scale.errors import InputError, at_least_1, check_fields, positive
from llama_scale.files import atomic_write, read_bytes
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import encode_prompt, prompt_room
from llama_scale.serving.batch import Piece, Prompt
from llama_scale.serving.config import EngineConfig
from llama_scale.serving.engine import Engine
from llama_scale.serving.infill import gap_ids
from llama_scale.serving.protocol import ProtocolError
from llama_scale.serving.shelf import Loaded, Shelf

MOST_BYTES = 1 << 20  # of a file
SHOWN = "\n\t"
UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # control, direction, halves, private, unassigned, separators


@dataclass(frozen=True, kw_only=True)
class CompleteConfig(SamplingConfig):
    """A completion of a file, printed as it comes.

    Args:
        place: FILE, to go on at its end, or FILE:LINE, at the end of that line. What follows the line is filled up to
            where the model was trained to fill gaps.
        model: A run or checkpoint folder.
        max_new_tokens: Most tokens of the completion.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; auto is bf16 where this machine multiplies that faster.
        threads: CPU threads; null leaves the library's choice.
    """

    place: str
    model: str
    max_new_tokens: int = 128
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class RepairFileConfig(SamplingConfig):
    """A repair of a program in a file, shown as a diff. It ends with 0 where the tests hold, else with 1.

    Args:
        file: The program.
        tests: A file of assertions, or of functions test_* with them.
        model: A run or checkpoint folder, a transformers folder, or the URL of an OpenAI-compatible server.
        rounds: Programs that are drawn at most.
        critic: What a model is told of a failure: assertion (both values), interpreter (the error) or generic.
        write: Write the repaired program to the file; without it nothing is written.
        temperature: Divides the logits; 0 takes the likeliest token.
        max_new_tokens: Most tokens of a program.
        timeout: CPU seconds of one program.
        allow_unsandboxed: Run programs even where this machine permits no sandbox.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; null is fp32 on a CPU and bf16 on a GPU, auto is bf16 where this
            machine multiplies that faster.
        threads: CPU threads; null leaves the library's choice.
    """

    file: str
    tests: str
    model: str
    rounds: int = 3
    critic: Literal["assertion", "interpreter", "generic"] = CRITICS[0]
    write: bool = False
    temperature: float = 0.8
    max_new_tokens: int = 384
    timeout: float = 3.0
    allow_unsandboxed: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "at least 1", at_least_1, "rounds")
        check_fields(self, "more than 0", positive, "timeout")


@dataclass(frozen=True, kw_only=True)
class ChatConfig(SamplingConfig):
    """A chat with a model that has a chat template. Ctrl-C stops an answer, Ctrl-D ends the chat.

    Args:
        model: A run or checkpoint folder.
        system: What the model is told before all else.
        template: File of a chat template (jinja) for a model that has none.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; auto is bf16 where this machine multiplies that faster.
        threads: CPU threads; null leaves the library's choice.
    """

    model: str
    system: str = ""
    template: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    threads: int | None = None


def plain(text: str) -> str:
    """Return a model's text as a terminal may show it: control, direction and unassigned characters as escapes."""
    return "".join(
        c if c in SHOWN or unicodedata.category(c) not in UNSHOWN else c.encode("unicode_escape").decode()
        for c in text
    )  # fmt: skip


@contextmanager
def open_model(
    config: CompleteConfig | RepairFileConfig | ChatConfig, template: str | None = None
) -> Iterator[tuple[Engine, Loaded]]:
    """Yield an engine and the model of a run or checkpoint folder that ``config`` names."""
    from llama_scale.device import device_memory, pick_device, set_threads

    set_threads(config.threads)
    chosen, model = pick_device(config.device), config.model
    memory = device_memory(chosen)
    if not ((path := Path(model)) / "checkpoints").is_dir() and not (path / "manifest.json").is_file():
        raise InputError(f"model: {model}: no run or checkpoint folder; llama-scale sample takes the same")
    shelf = Shelf(path, chosen, config.precision, memory // 2, template)
    engine = Engine(EngineConfig(), memory // 4)
    try:
        with shelf.use(None) as loaded:
            yield engine, loaded
    finally:
        engine.close()


def stream(engine: Engine, loaded: Loaded, ids: Sequence[int], sampling: SamplingConfig) -> Iterator[str]:
    """Yield the text of a completion as it comes; closing it lets the rest go."""
    events: queue.SimpleQueue = queue.SimpleQueue()
    prompt = Prompt(tuple(ids), sampling)
    tickets = engine.submit(loaded.served, [prompt], lambda number, event: events.put((number, event)))
    try:
        for _, event in iter_events(events, 1):
            if isinstance(event, Piece):
                yield event.text
    finally:
        tickets[0].cancel()


def show(texts: Iterator[str]) -> str:
    """Print texts as they come, and return them joined."""
    whole = ""
    for text in texts:
        print(plain(text), end="", flush=True)
        whole += text
    return whole


def read_source(path: str, field: str) -> str:
    """Return the text of a file; raise InputError naming ``field`` where it cannot be had."""
    try:
        return read_bytes(path, MOST_BYTES).decode()
    except UnicodeDecodeError:
        raise InputError(f"{field}: {path}: not UTF-8 text; save it as UTF-8") from None
    except InputError as error:
        raise InputError(f"{field}: {error}") from None


def split_place(place: str) -> tuple[str, str]:
    """Return the text before and after the place FILE or FILE:LINE; raise InputError where there is none."""
    name, _, line = place.rpartition(":")
    if not name or Path(place).exists():
        return read_source(place, "place"), ""
    if not (line.isascii() and line.isdecimal() and int(line)):
        raise InputError(f"place: expected FILE or FILE:LINE with a line from 1, found {place!r}")
    text = read_source(name, "place")
    lines = io.StringIO(text, newline="").readlines()  # a form feed, which splitlines counts, ends no line of a file
    if int(line) > len(lines):
        raise InputError(f"place: {name} has {len(lines)} lines, found line {int(line)}")
    before = "".join(lines[: int(line)]).rstrip("\r\n")
    return before, text[len(before) :]


def complete(config: CompleteConfig) -> None:
    """Print a completion of a file."""
    before, after = split_place(config.place)
    with open_model(config) as (engine, loaded):
        tokenizer, model = loaded.served.tokenizer, loaded.served.llama.config
        if after.strip() and loaded.fim:
            room = prompt_room(model.context_length, config.max_new_tokens)
            ids, cut = gap_ids(tokenizer, before, after, room, loaded.fim_order)
        else:
            ids, cut = encode_prompt(tokenizer, before, model, config.max_new_tokens)
        if cut:
            print(f"place: the model sees {len(ids)} tokens of the file only", file=sys.stderr)
        with closing(stream(engine, loaded, ids, config)) as texts:
            show(texts)
        print()


@contextmanager
def open_writer(config: RepairFileConfig) -> Iterator[Backend]:
    """Yield what writes the programs of a repair."""
    from evals.models.load import is_external
    from evals.repair.backends.load import open_backend

    if "://" in config.model or is_external(config.model):
        how = {"device": config.device, "precision": config.precision, "threads": config.threads}
        settings = BackendConfig(model=config.model, **how)
        yield open_backend(settings, None, "model")
        return
    with open_model(config) as (engine, loaded):
        yield ServedBackend(engine, loaded)


def repair_file(config: RepairFileConfig) -> bool:
    """Repair a program, print the rounds on standard error and the diff on standard output; return whether it holds."""
    source, tests = read_source(config.file, "file"), read_source(config.tests, "tests")
    try:
        task = read_task(source.replace("\r\n", "\n"), read_tests(tests, Path(config.file).stem))
    except ProtocolError as error:
        raise InputError(f"{config.file if error.param == 'program' else config.tests}: {error}") from None
    except InputError as error:
        raise InputError(f"{config.tests}: {error}") from None
    execution = ExecutionConfig(workers=1, allow_unsandboxed=config.allow_unsandboxed)
    with Execution(execution) as runs, open_writer(config) as backend:
        steps = repair(task, backend, runs, config.critic, config.rounds, config, config.timeout, tell_round)
    chosen, name = best(steps), Path(config.file).name
    if steps[0].outcome.passed:
        print(f"{config.file} holds all its tests, there is nothing to repair", file=sys.stderr)
        return True
    if not chosen.outcome.passed:
        held = f"holds {chosen.outcome.held} of {len(task[0].tests)} tests"
        print(f"not repaired: the best of {len(steps) - 1} programs {held}", file=sys.stderr)
        return False
    print(plain("".join(changes(task[0].start, chosen.program, name))), end="", flush=True)
    if config.write:
        mode = Path(config.file).stat().st_mode
        program = chosen.program.replace("\n", "\r\n") if "\r\n" in source else chosen.program
        with atomic_write(Path(config.file).resolve(), "wb") as file:
            file.write(program.encode())
        Path(config.file).chmod(mode)
        print(f"written to {config.file}", file=sys.stderr)
    return True


def tell_round(step: Step) -> None:
    """Print what became of a round."""
    state = "holds" if step.outcome.passed else step.outcome.reason
    again = f", as in round {step.repeat_of}" if step.repeat_of is not None else ""
    tests = f"{step.outcome.held} of {step.outcome.tests} tests, " if step.outcome.tests else ""
    line = f"round {step.round}: {tests}{state}{again}"
    print(plain(line), file=sys.stderr)
    for words in step.feedback.splitlines() if not step.outcome.passed else ():
        print(plain(f"    {words}"), file=sys.stderr)


def chat(config: ChatConfig) -> None:
    """Talk with a model until the input ends."""
    with open_model(config, config.template) as (engine, loaded):
        if loaded.template is None:
            problem = f"{config.model} is a base model without a chat template"
            raise InputError(f"model: {problem}; complete a file with it, or name a template (template FILE)")
        with suppress(ImportError):
            import readline  # noqa: F401, input() then has a history

        turns = [{"role": "system", "content": config.system}] if config.system else []
        while (asked := ask_person()) is not None:
            if not asked.strip():
                continue
            turns.append({"role": "user", "content": asked})
            answer = answer_turn(engine, loaded, turns, config)
            turns = [*turns, {"role": "assistant", "content": answer}] if answer else turns[:-1]


def ask_person() -> str | None:
    """Return a line of the person's, None at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        print()
        return None
    except UnicodeDecodeError:
        raise InputError("standard input: not UTF-8 text") from None


def answer_turn(engine: Engine, loaded: Loaded, turns: list[dict[str, str]], config: ChatConfig) -> str:
    """Print an answer and return it; the oldest turns go where the context has no room for all."""
    assert loaded.template is not None
    tokenizer, context = loaded.served.tokenizer, loaded.served.llama.config.context_length
    most = max(context - config.max_new_tokens, context // 2)
    first = 1 if turns[0]["role"] == "system" else 0
    while True:
        ids = loaded.template.ids(turns, tokenizer.encode)
        ids = ids if ids[:1] == [tokenizer.eos] else [tokenizer.eos, *ids]
        if len(ids) <= most or len(turns) <= first + 1:
            break
        del turns[first : first + 2]
        print("(the oldest turn was left out: the context is full)", file=sys.stderr)
    if len(ids) >= context:
        print(f"(too long: {len(ids)} tokens, the context has {context})", file=sys.stderr)
        return ""
    parts: list[str] = []
    try:
        with closing(stream(engine, loaded, ids, config)) as texts:
            for text in texts:
                parts.append(text)
                print(plain(text), end="", flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    print()
    return "".join(parts)
