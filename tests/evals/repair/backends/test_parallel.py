"""Several processes answer as one does, and what goes wrong in them is one line."""

import os
import signal
from functools import partial

import pytest

from evals.repair.backends.parallel import ParallelBackend
from evals.repair.backends.protocol import Ask, Message
from evals.repair.backends.scripted import Scripted
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

SAMPLING = SamplingConfig()


def asks(count):
    return [Ask((Message("user", f"task {number}"),), (number, 0, 0, 0), n=2) for number in range(count)]


def answer(ask, number):
    """A text of its ask alone, and whose process it is of."""
    if ask.key[0] == 13:
        raise InputError("13 is not answered")
    if ask.key[0] == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{ask.key[0]}.{number}"


def load(device, name="m"):
    if name == "broken":
        raise InputError(f"{device}: it cannot be opened")
    return Scripted(answer, name)


@pytest.fixture
def backend():
    made = ParallelBackend(load, 2, "cpu")
    yield made
    made.close()


def test_two_processes_answer_as_one_does(backend):
    one = Scripted(answer, "m")
    assert (backend.identity, backend.chat, backend.context) == (one.identity, one.chat, one.context)
    for count in (5, 1, 0):
        wanted = asks(count)
        assert dict(backend.ask(wanted, SAMPLING)) == dict(one.ask(wanted, SAMPLING))
    reading = backend.ask(asks(6), SAMPLING)
    next(reading)
    reading.close()
    assert dict(backend.ask(asks(3), SAMPLING)) == dict(one.ask(asks(3), SAMPLING)), "what was left is passed over"
    with pytest.raises(InputError, match="13 is not answered"):
        dict(backend.ask(asks(14), SAMPLING))


def test_a_process_that_dies_or_cannot_open_the_model_is_one_line(backend):
    with pytest.raises(InputError, match="cpu: it cannot be opened"):
        ParallelBackend(partial(load, name="broken"), 2, "cpu")
    with pytest.raises(InputError, match=r"processes: number 0 on cpu ended with exit code -9"):
        list(backend.ask([Ask((Message("user", "x"),), (14, 0, 0, 0))], SAMPLING))
