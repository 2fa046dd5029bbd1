"""One policy for every source: longer pauses, a limit in a row, and a line that says what to do."""

import pytest

from data_tools.sources import retry
from llama_scale.errors import InputError


def test_pauses_grow_and_something_that_came_through_starts_anew(monkeypatch):
    pauses = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    retries = retry.NetworkRetries()
    for _ in range(2):
        for _ in range(retry.MAX_FAILURES - 1):
            retries.failed("store: x", "reset")
        retries.succeeded()
    assert pauses == [2, 4, 8, 16, 32] * 2
    with pytest.raises(InputError, match=r"^store: x: the network failed 6 times \(reset\); run the same command"):
        for _ in range(retry.MAX_FAILURES):
            retries.failed("store: x", "reset")
    assert max(pauses) <= retry.MAX_PAUSE
