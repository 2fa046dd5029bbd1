"""The one way in which sources meet a network that fails: wait longer each time, then give up."""

import time

from llama_scale.errors import InputError

MAX_FAILURES = 6  # in a row
MAX_PAUSE = 60.0  # seconds


class NetworkRetries:
    """Counts failures in a row and waits 2, 4, 8 ... seconds after each.

    Five failures take about a minute: a restarted router is waited for, a dead one is not.
    """

    def __init__(self):
        self.failures = 0

    def succeeded(self) -> None:
        """Start the count again: something came through."""
        self.failures = 0

    def failed(self, what: str, reason: str) -> None:
        """Wait before the next try for ``what``, which failed for this reason.

        Raises:
            InputError: It was the failure number MAX_FAILURES in a row.
        """
        self.failures += 1
        if self.failures == MAX_FAILURES:
            failures = f"the network failed {MAX_FAILURES} times ({reason})"
            raise InputError(f"{what}: {failures}; run the same command again later") from None
        time.sleep(min(MAX_PAUSE, 2.0**self.failures))
