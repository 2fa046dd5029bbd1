import queue
import random
import threading
import time
from dataclasses import replace

import pytest
import torch

from llama_scale.errors import InputError
from llama_scale.generation.generate import generate, stream
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.serving.batch import Piece, Prompt, ServedModel
from llama_scale.serving.engine import BusyError
from llama_scale.serving.row_cache import row_slots, slot_bytes
from tests.llama_scale.serving.conftest import small_model

STARTS = ["", "def f(x):\n", "import os\n\n\ndef main(argv):\n", "x = [i for", "class A:\n    def f(self", "é = '"]


class Answers:
    """What an engine tells of the prompts of one call, whole when it has ended."""

    def __init__(self, engine, model, prompts):
        self.events = queue.SimpleQueue()
        self.tickets = engine.submit(model, prompts, lambda number, event: self.events.put((number, event)))

    def __iter__(self):
        running = len(self.tickets)
        while running:
            number, event = self.events.get(timeout=120)
            running -= event is None
            if isinstance(event, Exception):
                raise event
            if event is not None:
                yield number, event

    def samples(self):
        """Return the text and the finish reason by prompt and sample."""
        found = {}
        for number, piece in self:
            text, _ = found.get((number, piece.sample), ("", None))
            found[number, piece.sample] = (text + piece.text, piece.finish_reason)
        return found


def ask(tokenizer, text, sampling, **settings):
    return Prompt((tokenizer.eos, *tokenizer.encode(text)), sampling, **settings)


def random_request(seed):
    rng = random.Random(seed)
    text = rng.choice(STARTS) + " a" * rng.choice([0, 3, 40, 90])
    stop = tuple(rng.sample(["\n", "def", "  ", "e(", "self."], rng.randrange(3)))
    return text, SamplingConfig(
        temperature=rng.choice([0, 0.3, 0.8, 1.5]), top_p=rng.choice([0.5, 0.95, 1.0]),
        top_k=rng.choice([None, None, 1, 7, 5000]), max_new_tokens=rng.randint(1, 24), seed=rng.randrange(10**9),
        stop=stop,
    )  # fmt: skip


@pytest.fixture(scope="module")
def requests():
    return [random_request(seed) for seed in range(200)]


@pytest.fixture(scope="module")
def alone(served, requests):
    """What launch/sample.py prints for each."""
    return ["".join(stream(served.llama, served.tokenizer, *request)) for request in requests]


@pytest.mark.parametrize("load", [1, 4, 16])
def test_texts_are_those_of_sample_at_any_load(load, served, requests, alone, make_engine):
    """With random arrivals, and others that are cancelled at random between them."""
    engine, rng = make_engine(chunk=32), random.Random(load)
    turns, found, errors = threading.Semaphore(load), [None] * len(requests), []

    def one(number):
        try:
            text, sampling = requests[number]
            answers = Answers(engine, served, [ask(served.tokenizer, text, sampling)])
            found[number] = answers.samples()[0, 0][0]
        except BaseException as error:
            errors.append(error)
        finally:
            turns.release()

    def cancelled(number):
        text, sampling = requests[number]
        answers = Answers(engine, served, [ask(served.tokenizer, text, replace(sampling, max_new_tokens=60), n=2)])
        for count, _ in enumerate(answers):
            if count == number % 7:
                answers.tickets[0].cancel()
        turns.release()

    threads = []
    for number in rng.sample(range(len(requests)), len(requests)):
        for kind in (one, cancelled) if rng.random() < 0.2 and load > 1 else (one,):
            turns.acquire()
            threads.append(threading.Thread(target=kind, args=(number,)))
            threads[-1].start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == alone
    assert len(set(alone)) > 150
    assert engine.used == 0 and engine.batches == {}


def test_samples_are_those_of_generate_and_share_one_prefill(served, make_engine):
    engine, sampling = make_engine(), SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=12, seed=3)
    prompts = [ask(served.tokenizer, text, sampling, n=8, task=task) for task, text in enumerate(STARTS)]
    found = Answers(engine, served, prompts).samples()
    rows = generate(served.llama, served.tokenizer, STARTS, sampling, n_samples=8)
    assert found == {(row.task, row.sample): (row.text, row.finish_reason) for row in rows}
    assert engine.prefills == len(STARTS)
    assert engine.prefill_tokens == sum(len(prompt.ids) for prompt in prompts)
    assert engine.steps == 11  # of 48 rows; the first token comes with the prompt
    assert engine.tokens == sum(len(row.tokens) for row in generate(
        served.llama, served.tokenizer, STARTS, sampling, n_samples=8))  # fmt: skip


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_chunks_of_a_prompt_change_nothing(tokenizer, make_engine, chunk, document_mask):
    """Greedy tokens, and the scores of a prompt that another document stands in, by a pass without cache."""
    model = ServedModel("m", small_model(tokenizer, document_mask=document_mask), tokenizer)
    first, second = (tokenizer.encode(text) for text in ("def f(x):\n    return x\n", "class A:\n    b = 1\n"))
    ids = (tokenizer.eos, *first, tokenizer.eos, *second)
    prompt = Prompt(ids, SamplingConfig(temperature=0, max_new_tokens=8), logprobs=3, score=True)
    events = [event for _, event in Answers(make_engine(chunk=chunk), model, [prompt])]
    scores = events[0]
    with torch.inference_mode():
        expected = model.llama(torch.tensor([ids])).log_softmax(-1)[0]  # (T, V)
    assert [score.token for score in scores] == list(ids)
    assert scores[0].logprob is None
    for position, score in enumerate(scores[1:]):
        assert score.logprob == pytest.approx(float(expected[position, score.token]), abs=1e-4)
        values = expected[position].topk(3).values.tolist()
        assert [value for _, value in score.top] == pytest.approx(values, abs=1e-4)
    drawn = [score for piece in events[1:] for score in piece.tokens]
    whole = list(ids)
    for score in drawn:
        with torch.inference_mode():
            logits = model.llama(torch.tensor([whole]))[0, -1]
        assert score.token == int(logits.argmax())
        assert score.logprob == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-4)
        whole.append(score.token)
    assert len(drawn) == 8


def test_tokens_told_make_up_the_text(served, make_engine):
    """Each with the text that it belongs to, and none that a stop string cut."""
    engine = make_engine()
    for seed in range(30):
        text, sampling = random_request(seed)
        sampling = replace(sampling, temperature=0.9)
        shown, told = "", []
        for _, piece in Answers(engine, served, [ask(served.tokenizer, text, sampling, logprobs=0)]):
            shown += piece.text
            told += [served.tokenizer.decode_bytes([score.token]) for score in piece.tokens]
        raw = b"".join(told)
        assert raw.decode(errors="replace").startswith(shown) or "\ufffd" in shown
        assert not told or len(raw) - len(shown.encode()) < len(told[-1]) or "\ufffd" in shown


def test_a_prompt_is_read_between_steps(served, make_engine):
    """While a long prompt is read in chunks, rows under way go on by a token for each."""
    engine = make_engine(chunk=8)
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=200, seed=1)
    first = Answers(engine, served, [ask(served.tokenizer, "x", sampling)])
    next(iter(first))
    ids = (served.tokenizer.eos, *([65] * 160))
    before = engine.steps
    second = Answers(engine, served, [Prompt(ids, replace(sampling, max_new_tokens=1))])
    second.samples()
    assert 20 <= engine.steps - before <= 25  # 161 tokens are 21 chunks, each beside a step
    first.tickets[0].cancel()
    list(first)


def test_cancelled_rows_leave_within_two_steps(served, make_engine):
    engine = make_engine()
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=200)
    long = [ask(served.tokenizer, "x = ", replace(sampling, seed=seed), n=2) for seed in (1, 2)]
    stays = Answers(engine, served, [ask(served.tokenizer, "y", replace(sampling, max_new_tokens=150, seed=5))])
    leaves = Answers(engine, served, long)
    next(iter(leaves))
    steps, counts = engine.steps, [ticket.tokens for ticket in leaves.tickets]
    for ticket in leaves.tickets:
        ticket.cancel()
    list(leaves)
    grown = [ticket.tokens - count for ticket, count in zip(leaves.tickets, counts, strict=True)]
    assert max(grown) <= 2 * 2 * max(1, engine.steps - steps) and max(grown) <= 8
    assert len(stays.samples()[0, 0][0]) > 0
    assert engine.cancelled == 2 and engine.used == 0


def test_what_waits_goes_when_it_is_cancelled(served, make_engine):
    engine = make_engine(max_rows=1)
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=100)
    first = Answers(engine, served, [ask(served.tokenizer, "x", sampling)])
    second = Answers(engine, served, [ask(served.tokenizer, "y", sampling)])
    second.tickets[0].cancel()
    assert list(second) == []
    assert first.samples()[0, 0][1] is not None


def test_prompts_wait_for_memory_and_too_many_are_refused(served, make_engine):
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=60)
    config = served.llama.config
    prompt = ask(served.tokenizer, "x", sampling)
    room = 2 * (row_slots(len(prompt.ids) + 60, config) + len(prompt.ids)) * slot_bytes(config, torch.float32)
    engine = make_engine(memory=room, max_waiting=3)
    most, answers = 0, []
    for seed in range(5):  # two run and three wait
        answers.append(Answers(engine, served, [replace(prompt, sampling=replace(sampling, seed=seed))]))
        while len(answers) <= 2 and engine.waiting:
            time.sleep(0.001)
    with pytest.raises(BusyError) as busy:
        for _ in range(4):
            Answers(engine, served, [prompt])
    assert 1 <= busy.value.retry_after <= 60
    for answer in answers:
        most = max(most, engine.used)
        answer.samples()
    assert 0 < most <= room
    with pytest.raises(InputError, match="n: 100 samples may need"):
        make_engine(memory=room, max_rows=200).submit(served, [replace(prompt, n=100)], print)
    with pytest.raises(InputError, match="n: expected at most 64, found 65"):
        make_engine().submit(served, [replace(prompt, n=65)], print)


def test_a_long_prompt_is_refused_and_never_cut(served, make_engine):
    context = served.llama.config.context_length
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=60)
    fits = Prompt((served.tokenizer.eos, *([65] * (context - 2))), sampling)
    events = [event for _, event in Answers(make_engine(), served, [fits])]
    assert [event.finish_reason for event in events if isinstance(event, Piece)][-1] in ("length", "stop")
    with pytest.raises(InputError, match=f"prompt: {context} tokens do not fit"):
        make_engine().submit(served, [replace(fits, ids=(*fits.ids, 65))], print)


def test_a_damaged_model_ends_its_own_prompts_alone(served, tokenizer, make_engine):
    broken = ServedModel("broken", small_model(tokenizer), tokenizer)
    broken.llama.norm.weight.data.fill_(float("nan"))
    engine, sampling = make_engine(), SamplingConfig(temperature=1.0, max_new_tokens=30, seed=2)
    good = Answers(engine, served, [ask(tokenizer, "x", sampling)])
    with pytest.raises(InputError, match="broken: the model's output is not finite"):
        list(Answers(engine, broken, [ask(tokenizer, "x", sampling)]))
    assert good.samples()[0, 0][0] == "".join(stream(served.llama, tokenizer, "x", sampling))


def test_close_cancels_what_is_under_way(served, make_engine):
    engine = make_engine()
    answers = Answers(engine, served, [ask(served.tokenizer, "x", SamplingConfig(max_new_tokens=240), n=16)])
    engine.close()
    list(answers)
    assert not engine.thread.is_alive()
    with pytest.raises(BusyError):
        engine.submit(served, [ask(served.tokenizer, "x", SamplingConfig())], print)
