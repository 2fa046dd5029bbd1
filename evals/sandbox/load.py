"""Whether programs wait for a core: the kernel's pressure stall information, psi(5)."""

import os
import re
import time
from contextlib import suppress

BUSY = 0.5  # of the time: with a task waiting for a core for longer than this a machine is overloaded
STARVED = 0.005  # of a core: a program that gets less than this is asleep
FAIR = 0.25  # of what each waiting task would get: one that gets less does not want more

EXTENSIONS = 31  # times that the clock of a program at work may be set again
SLICES, STEPS = 60, 30_000  # pieces of work that the pace is measured by, about a millisecond each
SLOWEST = 1.5  # times as many CPU seconds as on a quiet machine: what is slower still is not believed to be load


def slice_seconds() -> float:
    """Return the CPU seconds of a fixed piece of work that the kernel seldom interrupts."""
    start, found = time.thread_time(), 0
    for number in range(1, STEPS):
        if STEPS % number == 0:
            found += number
    return time.thread_time() - start


class Pace:
    """How much more CPU time the same work takes than it can: caches, memory and cores are shared with others.

    The least time of any piece is taken for what it takes undisturbed.
    """

    def __init__(self) -> None:
        self.least = float("inf")

    def slowdown(self) -> float:
        """Return how many times longer work takes now, from 1 to SLOWEST."""
        seconds = [slice_seconds() for _ in range(SLICES)]
        self.least = min(self.least, *seconds)
        return min(SLOWEST, max(1.0, sum(seconds) / SLICES / self.least))


class Load:
    """Files that say how long some task had to wait for a core, on this machine and in this control group.

    They are opened at once, as the walls that are raised later would hide them.
    """

    def __init__(self) -> None:
        self.files: list[int] = []
        self.tasks: int | None = None
        with suppress(OSError):
            self.tasks = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        group = ""
        with suppress(OSError), open("/proc/self/cgroup") as file:
            group = "".join(re.findall(r"^0::/(.*)$", file.read(), re.MULTILINE))
        for path in ("/proc/pressure/cpu", os.path.join("/sys/fs/cgroup", group, "cpu.pressure")):
            with suppress(OSError):
                self.files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def waited(self) -> list[float]:
        """Return the seconds so far, one for each file."""
        seconds = []
        for file in self.files:
            # "some avg10=0.00 avg60=0.00 avg300=0.00 total=12345", in microseconds
            found = re.search(rb"some .*total=(\d+)", os.pread(file, 512, 0))
            seconds.append(int(found[1]) / 1e6 if found else 0.0)
        return seconds

    def working(self, share: float) -> bool:
        """Whether a program that got this ``share`` of a core wanted more: most sleep, or work in drips."""
        if self.tasks is None:
            return share > STARVED
        # "0.20 0.18 0.12 3/80 11206": three tasks run or wait for a core, this one among them
        running = int(os.pread(self.tasks, 128, 0).split()[3].split(b"/")[0])
        return share > max(STARVED, FAIR * min(1.0, (os.cpu_count() or 1) / max(1, running)))

    def overloaded(self, before: list[float], seconds: float) -> bool:
        """Whether the machine was overloaded in the last ``seconds``; True where it does not say."""
        return not self.files or any(b - a > BUSY * seconds for a, b in zip(before, self.waited(), strict=True))
