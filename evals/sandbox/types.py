"""What goes into the sandbox and what comes out: programs, scripts, verdicts."""

from dataclasses import dataclass, field

JUDGE_VERSION = 5  # another one where a program may get another verdict: kept ones of before are not used
# Reasons of verdicts that say nothing about a program.
NOT_MEASURED = "not measured"
NO_TESTS = "no tests"
SANDBOX_LOST = "sandbox lost"


@dataclass(frozen=True)
class Program:
    """An untrusted program whose functions are called by trusted tests.

    ``tests`` run in the judge, after ``setup``, with each of ``names`` calling the program's function of that name.
    ``objects`` lets tests hold objects of the program's classes by reference: for tasks whose tests build them.
    ``preamble`` is ASCII that runs in the program's name space before it.
    ``explain`` asks for the failures of the verdict, which whoever sees it is told of the tests by. With ``methods`` a
    function may also be a method of the program's class Solution.
    """

    source: str
    tests: str
    names: tuple[str, ...]
    setup: str = ""
    objects: bool = False
    preamble: str = ""
    explain: bool = False
    methods: bool = False


@dataclass(frozen=True)
class Script:
    """An untrusted program that reads standard input.

    Its output is compared with what is ``expected`` by a ``judge`` (output.py); without that it passes if it comes to
    its end. ``preamble`` is ASCII that runs in its name space before it, if it is in Python. One in java or javascript
    is NOT_MEASURED where the machine does not have the tool, or not the level isolated. ``explain`` asks for the
    failure of the verdict: what a program in Python says of its error.
    """

    source: str
    stdin: str = ""
    language: str = "python"
    expected: str | None = None
    judge: str = "strict"
    preamble: str = ""
    explain: bool = False


@dataclass(frozen=True)
class Failure:
    """What became of an assertion that did not hold, or, without a ``test``, of the program before any.

    ``got`` and ``expected`` are plain data as Python writes it, of at most 200 characters; "" where they are not known.
    What follows them is the program's claim, which may be false: the words of its error, and the line of the program
    (from 1; 0 is not known) that it was raised in, with the column of a syntax error. ``number`` is the assertion's in
    the order of the text, from 0.
    """

    test: str
    reason: str
    got: str = ""
    expected: str = ""
    claimed: str = ""
    line: int = 0
    column: int = 0
    number: int = -1


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed, and if not why, in a few words.

    ``loads``: it ran to the end of its own text, before any test. ``output`` is what it wrote, the beginning of that
    where it was compared already. ``assertions_passed`` of ``assertions`` held: those of a program's tests, or the
    cases of a problem. ``seconds`` of CPU time differ from run to run. ``failures``, the first few, are told where a
    program asks for them.
    """

    passed: bool
    reason: str
    parses: bool = True
    loads: bool = True
    assertions_passed: int = 0
    assertions: int = 0
    output: str = field(default="", compare=False)
    seconds: float = field(default=0.0, compare=False)
    failures: tuple[Failure, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        failures = [Failure(**found) if isinstance(found, dict) else found for found in self.failures]
        object.__setattr__(self, "failures", tuple(failures))
