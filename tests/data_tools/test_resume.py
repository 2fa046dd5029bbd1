"""What a kill leaves is continued: inside every step, only the unfinished part is done again."""

from contextlib import contextmanager

from data_tools import prepare
from data_tools.corpus import corpus
from tests.data_tools.helpers import file_contents


def test_every_step_goes_on_where_it_was_killed(built, config, monkeypatch):
    """Kill a build after every few batches: all batches together are done once."""
    calls, limit = [], [10**9]

    def counted(function, *arguments):
        def call(*args):
            if len(calls) == limit[0]:
                raise KeyboardInterrupt
            calls.append(function)
            return function(*args)

        return map(call, *arguments)

    @contextmanager
    def counted_map(workers):
        yield counted

    monkeypatch.setattr(prepare, "process_map", counted_map)
    monkeypatch.setattr(corpus, "BATCH_BYTES", 1 << 17)
    prepare.prepare(config)
    assert file_contents(config.folder) == file_contents(built[0].folder), "batches do not matter"
    n_calls = len(calls)
    assert n_calls > 60
    for path in config.folder.iterdir():
        path.unlink()
    config.folder.rmdir()
    calls.clear()
    manifest, kills = None, 0
    for stop in range(4, 10 * n_calls, 7):
        limit[0] = stop
        try:
            manifest = prepare.prepare(config)
            break
        except KeyboardInterrupt:
            kills += 1
    assert manifest
    assert kills > 8
    assert len(calls) == n_calls
    assert file_contents(config.folder) == file_contents(built[0].folder)
