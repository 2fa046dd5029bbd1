"""The pipelines: programs drawn, run on visible tests, criticized and drawn again, all chains side by side.

An arm is one way to spend programs on a task, a chain one arm's programs on one task. What every arm may spend is the
same: ``rounds`` + 1 programs, and it stops at the first that satisfies it. Nothing here can reach a hidden test.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from evals.repair.backends.protocol import Ask, Backend, Message, Reply
from evals.repair.critics import CRITICS, Case, Critic, Feedback, Review, clean, shortened
from evals.repair.outcome import Outcome, VisibleJudge, breaks, renamed_program
from evals.repair.prompts import Attempt, messages, program_in
from evals.repair.split import Shown
from evals.verdicts import digest_text
from llama_scale.errors import InputError, at_least_0, at_least_1, check_fields, nearest
from llama_scale.generation.config import SamplingConfig

# The critic that an arm has where none is named; resample has none.
CRITIC_OF = {"resample": "", "syntax": "compiler", "tests": "assertion", "logic": "assertion", "generic": "generic"}
MOST_EXTRA = 10  # times as many programs as other arms have that resample may draw to spend their tokens


class Arm(NamedTuple):
    """A way to spend programs: its ``kind``, and the ``critic`` of those that do not compile or fail a test."""

    kind: str
    critic: str

    @property
    def label(self) -> str:
        """How a person names it."""
        return self.kind if self.critic == CRITIC_OF[self.kind] else f"{self.kind}:{self.critic}"


def parse_arm(text: str) -> Arm:
    """Return the arm of ``KIND`` or ``KIND:CRITIC``; raise InputError on an unknown one."""
    kind, _, critic = text.strip().partition(":")
    if kind not in CRITIC_OF:
        raise InputError(f"arms: unknown {kind!r}{nearest(kind, CRITIC_OF)}; known: {', '.join(CRITIC_OF)}")
    if critic and (critic not in CRITICS or kind in ("resample", "generic")):
        known = "none" if kind in ("resample", "generic") else ", ".join(CRITICS)
        raise InputError(f"arms: {kind} cannot have the critic {critic!r}; known: {known}")
    return Arm(kind, critic or CRITIC_OF[kind])


@dataclass(frozen=True)
class Plan:
    """What is run.

    Args:
        arms: Separated by commas: resample (independent samples), syntax (two stages: repairs until it compiles), tests
            (Algorithm 1: until the visible tests hold), logic (Algorithm 2: function name, syntax, tests), generic
            ("wrong, try again"); KIND:CRITIC names the critic: compiler, interpreter, assertion, lint, model.
        rounds: Repairs of a program at most; every arm may draw so many programs and one more.
        samples: Chains of each arm on a task.
        history: Earlier programs with their feedback that a prompt shows.
        keep: Do not take a repair that breaks a visible test which held.
        repeats: What becomes of a chain that draws a program again: end, redraw (once, with other random numbers) or
            keep (go on).
        budget: tokens lets resample draw on until it has spent as many tokens as the costliest other arm; programs not.
        feedback: Most characters of feedback.
    """

    arms: str = "resample,syntax,tests,logic,generic"
    rounds: int = 3
    samples: int = 1
    history: int = 1
    keep: bool = True
    repeats: Literal["end", "redraw", "keep"] = "end"
    budget: Literal["tokens", "programs"] = "tokens"
    feedback: int = 1000

    def __post_init__(self) -> None:
        check_fields(self, "at least 0", at_least_0, "rounds")
        check_fields(self, "at least 1", at_least_1, "samples history feedback")
        labels = [arm.label for arm in self.parsed]
        if not labels or len(set(labels)) < len(labels):
            raise InputError(f"arms: expected different arms, found {self.arms!r}")

    @property
    def parsed(self) -> list[Arm]:
        """The arms."""
        return [parse_arm(text) for text in self.arms.split(",")]


@dataclass(frozen=True)
class Step:
    """One program of a chain: a row of the journal.

    ``prompt`` and ``critic_prompt`` are the hashes of what was sent, ``outcome`` what became of the program on the
    visible tests. ``repeat_of`` is the round of the chain that had this very program. ``renamed`` is "old -> new" where
    the program had to be given the entry's name. ``taken`` says that the chain went on from it, and that the critic
    spoke on it. Tokens are None where they are not known; those of redraws count. ``served`` and ``critic_served`` are
    what a server said answered.
    """

    arm: str
    task_id: str
    number: int
    sample: int
    round: int
    prompt: str
    program: str
    outcome: Outcome
    repeat_of: int | None = None
    redraws: int = 0
    renamed: str = ""
    taken: bool = True
    critic: str = ""
    raw_feedback: str = ""
    feedback: str = ""
    refused: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    critic_prompt_tokens: int | None = 0
    critic_tokens: int | None = 0
    critic_prompt: str = ""
    finish_reason: str | None = None
    prompt_truncated: bool = False
    served: str = ""
    critic_served: str = ""

    @property
    def spent(self) -> int | None:
        """All tokens, prompts included; None where any are not known."""
        counts = (self.prompt_tokens, self.tokens, self.critic_prompt_tokens, self.critic_tokens)
        return None if None in counts else sum(count or 0 for count in counts)


@dataclass
class Chain:
    """The programs of one arm on one task."""

    arm: Arm
    shown: Shown
    sample: int
    steps: list[Step] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    anchor: int = 0  # the step that the chain goes on from
    done: bool = False

    def add(self, step: Step) -> None:
        """Append a step, and note whether it satisfies the arm."""
        self.steps.append(step)
        self.done = step.outcome.parses if self.arm.kind == "syntax" else step.outcome.passed

    def spent(self) -> int | None:
        """Return all tokens so far."""
        counts = [step.spent for step in self.steps]
        return None if None in counts else sum(count or 0 for count in counts)


@dataclass
class Pipelines:
    """Runs a plan.

    ``prompts`` gets the messages of every prompt by their hash, ``clock`` the seconds of each round. ``tell`` is called
    with a line after each round, and ``seen`` with each step of it once a critic has spoken. ``quiet`` shows no
    progress.
    """

    plan: Plan
    judge: VisibleJudge
    backend: Backend
    critics: Mapping[str, Critic]
    sampling: SamplingConfig
    tell: Callable[[str], None] = lambda line: None
    seen: Callable[[Step], None] = lambda step: None
    quiet: bool = False
    prompts: dict[str, tuple[Message, ...]] = field(default_factory=dict)
    clock: list[dict[str, Any]] = field(default_factory=list)

    def run(self, shown: Sequence[Shown]) -> Iterator[Step]:
        """Yield the steps of all chains, ordered by arm, task, sample and round."""
        arms, plan = self.plan.parsed, self.plan
        if self.sampling.temperature == 0 and any(arm.kind == "resample" for arm in arms) and plan.rounds:
            raise InputError("sampling.temperature: 0 draws equal samples; raise it, or leave resample out of arms")
        chains = [Chain(arm, task, sample) for arm in arms for task in shown for sample in range(plan.samples)]
        for number in range(plan.rounds + 1):
            if not (active := [chain for chain in chains if not chain.done]):
                break
            self._round(active, number)
            done = sum(chain.done for chain in chains)
            self.tell(f"round {number} of {plan.rounds}: {done} of {len(chains)} chains are done")
        if plan.budget == "tokens" and len(arms) > 1:
            self._spend_as_others(chains)
        for chain in chains:
            yield from chain.steps

    def _spend_as_others(self, chains: Sequence[Chain]) -> None:
        """Let resample draw on where no program of it held the tests, until it has spent the tokens of the costliest
        other arm.
        """
        totals: dict[str, int] = {}
        for chain in chains:
            if (spent := chain.spent()) is None:
                return
            totals[chain.arm.label] = totals.get(chain.arm.label, 0) + spent
        resampled = [chain for chain in chains if chain.arm.kind == "resample"]
        limit = max((totals[chain.arm.label] for chain in chains if chain.arm.kind != "resample"), default=0)
        most = MOST_EXTRA * (self.plan.rounds + 1)
        for number in range(self.plan.rounds + 1, most + 1):
            active = [chain for chain in resampled if not chain.done]
            if not active or sum(chain.spent() or 0 for chain in resampled) >= limit:
                return
            self._round(active, number)
            self.tell(f"equal tokens: {len(active)} tasks were sampled again")

    def _round(self, chains: Sequence[Chain], number: int) -> None:
        """Draw, judge and criticize one more program of each chain."""
        times = [time.perf_counter()]
        started = [chain for chain in chains if number == 0 and chain.shown.start]
        drawn = self._draw([chain for chain in chains if number or not chain.shown.start], number)
        drafts = [Draft(chain, chain.shown.start, "", ()) for chain in started] + drawn
        if self.plan.repeats == "redraw":
            drafts = self._redraw(drafts, number)
        times.append(time.perf_counter())
        self._judge(drafts)
        times.append(time.perf_counter())
        for draft in drafts:
            chain, step = draft.chain, self._step(draft, number)
            chain.add(step)
            repeated = step.repeat_of is not None and chain.arm.kind != "resample"
            chain.done |= repeated and self.plan.repeats != "keep"
        last = number >= self.plan.rounds
        self._criticize([d.chain for d in drafts if not d.chain.done and d.chain.arm.critic and not last])
        times.append(time.perf_counter())
        spent = [round(end - start, 3) for start, end in pairwise(times)]
        names = ("drawing", "visible_tests", "critics")
        self.clock.append({"round": number, "programs": len(drafts)} | dict(zip(names, spent, strict=True)))
        for draft in drafts:
            self.seen(draft.chain.steps[-1])

    def _draw(self, chains: Sequence[Chain], number: int, redraw: int = 0) -> list["Draft"]:
        """Ask for the next program of each chain."""
        asks = []
        for chain in chains:
            sent = messages(chain.shown, chain.attempts[-self.plan.history :], self.backend.chat)
            asks.append(Ask(sent, self._key(chain, number, redraw)))
            self.prompts[prompt_digest(sent)] = sent
        sampling = self.sampling
        if not self.backend.chat and chains and not sampling.stop:
            sampling = replace(sampling, stop=chains[0].shown.stops)
        answers = self.backend.ask(asks, sampling) if asks else ()
        bar = tqdm(answers, f"round {number}: programs", len(asks), disable=self.quiet or None, leave=False)
        replies = {place: found[0] for place, found in bar}
        return [
            Draft(chain, program_in(replies[n].text, chain.shown, self.backend.chat), prompt_digest(asks[n].messages),
                  (replies[n],))
            for n, chain in enumerate(chains)
        ]  # fmt: skip

    def _key(self, chain: Chain, number: int, redraw: int) -> tuple[int, ...]:
        """Return what fixes a draw: the chains of all arms begin with one and the same, resample keeps its prompt."""
        task, first = chain.shown.number, 1 if chain.shown.start else 0
        if chain.arm.kind == "resample":
            return task, 0, chain.sample + self.plan.samples * (number - first), redraw
        return task, number, chain.sample, redraw

    def _redraw(self, drafts: Sequence["Draft"], number: int) -> list["Draft"]:
        """Draw once more where a chain's program is one that it had."""
        again = [d for d in drafts if d.replies and d.chain.arm.kind != "resample" and earlier(d) is not None]
        fresh = dict(zip(map(id, again), self._draw([d.chain for d in again], number, 1), strict=True))
        return [
            replace(new, replies=(*draft.replies, *new.replies)) if (new := fresh.get(id(draft))) else draft
            for draft in drafts
        ]

    def _judge(self, drafts: Sequence["Draft"]) -> None:
        """Run the programs; in the arm logic one that lacks its function's name is given it and run again."""
        programs = [(draft.chain.shown.number, draft.program) for draft in drafts]
        for draft, outcome in zip(drafts, self.judge.judge(programs), strict=True):
            draft.outcome = outcome
        nameless = [
            d for d in drafts if d.chain.arm.kind == "logic" and d.known.parses and d.known.reason == "raised NameError"
        ]
        names = self.judge.rename([(d.program, d.chain.shown.entry) for d in nameless]) if nameless else []
        found = [(draft, name) for draft, name in zip(nameless, names, strict=True) if name]
        for draft, name in found:
            entry = draft.chain.shown.entry
            draft.program, draft.renamed = renamed_program(draft.program, name, entry), f"{name} -> {entry}"
        programs = [(draft.chain.shown.number, draft.program) for draft, _ in found]
        for (draft, _), outcome in zip(found, self.judge.judge(programs) if found else (), strict=True):
            draft.outcome = outcome

    def _step(self, draft: "Draft", number: int) -> Step:
        chain, outcome, replies = draft.chain, draft.known, draft.replies
        broke = bool(chain.steps) and breaks(outcome, chain.steps[chain.anchor].outcome)
        taken = chain.arm.kind == "resample" or not (broke and self.plan.keep)
        chain.anchor = len(chain.steps) if taken else chain.anchor
        return Step(
            arm=chain.arm.label,
            task_id=chain.shown.task_id,
            number=chain.shown.number,
            sample=chain.sample,
            round=number,
            prompt=draft.prompt,
            program=draft.program,
            outcome=outcome,
            repeat_of=earlier(draft),
            redraws=max(0, len(replies) - 1),
            renamed=draft.renamed,
            taken=taken,
            prompt_tokens=total(reply.prompt_tokens for reply in replies),
            tokens=total(reply.tokens for reply in replies),
            finish_reason=replies[-1].finish_reason if replies else None,
            prompt_truncated=any(reply.prompt_truncated for reply in replies),
            served=replies[-1].served if replies else "",
        )

    def _criticize(self, chains: Sequence[Chain]) -> None:
        """Let critics speak on the program that each chain goes on from; one not taken leaves all as it was."""
        chains = [chain for chain in chains if chain.steps[-1].taken]
        groups: dict[str, list[Chain]] = {}
        for chain in chains:
            parses = chain.steps[-1].outcome.parses
            groups.setdefault(chain.arm.critic if parses or chain.arm.kind != "logic" else "compiler", []).append(chain)
        for name, group in groups.items():
            cases = [
                Case(c.shown, c.steps[-1].program, c.steps[-1].outcome, self.judge.timeout,
                     (c.shown.number, c.steps[-1].round, c.sample, 0), c.steps[-1].repeat_of)
                for c in group
            ]  # fmt: skip
            for chain, review in zip(group, self.critics[name].review(cases), strict=True):
                words = shortened(review.text, self.plan.feedback)
                if review.asked:
                    prompt = "\n".join(message.content for message in review.asked)
                    words = clean(review.text, prompt, self.plan.feedback)
                chain.steps[-1] = criticized(chain.steps[-1], name, review, words)
                if review.asked:
                    self.prompts[chain.steps[-1].critic_prompt] = review.asked
                chain.attempts.append(Attempt(chain.steps[-1].program, words.text))


@dataclass
class Draft:
    """A program on its way to becoming a step."""

    chain: Chain
    program: str
    prompt: str
    replies: tuple[Reply, ...]
    renamed: str = ""
    outcome: Outcome | None = None

    @property
    def known(self) -> Outcome:
        """The outcome, once it was judged."""
        assert self.outcome is not None
        return self.outcome


def earlier(draft: Draft) -> int | None:
    """Return the round of the chain that had this very program, None if there is none."""
    return first_equal([step.program for step in draft.chain.steps], draft.program)


def first_equal(programs: Sequence[str], program: str) -> int | None:
    """Return the place of the first of ``programs`` with this very text, white space at its ends aside."""
    return next((place for place, other in enumerate(programs) if other.strip() == program.strip()), None)


def criticized(step: Step, name: str, review: Review, words: Feedback) -> Step:
    """Return a step with what a critic said of it."""
    return replace(
        step,
        critic=name,
        raw_feedback=review.text,
        feedback=words.text,
        refused=words.refused,
        critic_prompt_tokens=review.prompt_tokens,
        critic_tokens=review.tokens,
        critic_prompt=prompt_digest(review.asked) if review.asked else "",
        critic_served=review.served,
    )


def total(counts: Iterator[int | None]) -> int | None:
    """Return the sum of counts, None where one is not known."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def prompt_digest(sent: Sequence[Message]) -> str:
    """Return the hash of the messages of a prompt."""
    return digest_text([asdict(message) for message in sent])


def as_row(step: Step) -> dict[str, Any]:
    """Return a step as a row of the journal, in which the fields of its outcome stand beside the others."""
    row: dict[str, Any] = {}
    for name, value in asdict(step).items():
        row |= value if name == "outcome" else {name: value}
    return row
