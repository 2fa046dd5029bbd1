"""A map over processes ends well or says why."""

import os

import pytest

from data_tools.process_map import process_map
from llama_scale.errors import InputError


def test_a_killed_worker_is_reported():
    with pytest.raises(InputError, match=r"^workers: one of 2 worker processes was killed"), process_map(2) as map_:
        list(map_(os.kill, [0], [0]))
        list(map_(os._exit, [1]))
