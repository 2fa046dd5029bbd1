"""What a person types: each module is a command, and main.py is the console script of them all.

Each command imports this first: from then on Ctrl-C while it loads its libraries is one line and exit code 130.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130


def stop(number: int, frame: FrameType | None) -> None:
    """End the process at once while it imports, or outside of ``run_cli``; otherwise raise KeyboardInterrupt.

    An exception that is raised within an import can end in a traceback, in another exception or in nothing. Nothing is
    half-written where a process ends so.
    """
    loading, running = False, False
    while frame is not None:
        loading |= frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        running |= frame.f_code.co_name == "run_cli"
        frame = frame.f_back
    if running and not loading:
        raise KeyboardInterrupt
    with suppress(Exception):
        sys.stdout.flush()
    os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode())
    os._exit(INTERRUPTED)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, stop)
