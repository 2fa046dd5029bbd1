"""Peak memory of a build, step by step, of a corpus and of one ten times as large."""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from benchmarks.environment import child_environment, module_command
from benchmarks.hardware import peak_process_memory
from data_tools import build_folder, prepare
from data_tools.config import PrepareConfig
from data_tools.sources import installed

WORD = re.compile(r"[A-Za-z_]\w{2,}")
LARGEST = 8_000  # bytes of a file taken


def memory_growth(packages: list[str] | None, n_files: int) -> dict[str, dict[str, float]]:
    """Return {"<n> files": {step: peak so far in MB}} of builds of n and of 10 n files.

    Each runs in a process of its own, with one worker.

    Args:
        packages: Installed packages whose files are taken; None is all.
        n_files: n.
    """
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in (n_files, 10 * n_files):
            write_files(Path(folder) / f"{n}.jsonl", packages, n)
            command = module_command("benchmarks.data_memory", f"{folder}/{n}.jsonl", f"{folder}/{n}")
            done = subprocess.run(command, env=child_environment(), stdout=subprocess.PIPE, text=True, check=True)
            peaks[f"{n:,} files"] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def write_files(path: Path, packages: list[str] | None, n: int) -> None:
    """Write ``n`` installed files as JSON lines: each repeated, a third of its names changed.

    The changed names differ from copy to copy, so that copies are no near duplicates. Forty files
    in a row make a package.
    """
    with open(path, "w", encoding="utf-8") as file:
        for i, text in enumerate(islice(changed_copies(packages), n)):
            row = {"content": text, "package": f"p{i // 40}", "path": f"{i}.py", "license": "MIT"}
            file.write(json.dumps(row) + "\n")


def changed_copies(packages: list[str] | None) -> Iterator[str]:
    """Yield the text of installed files over and over, a third of the names changed each time.

    The first byte of a hash of copy and name decides (below 86 of 256), so that a name changes
    everywhere in a file or nowhere.
    """
    texts = []
    for document in installed.installed_documents(packages):
        if 500 < len(document.content or b"") <= LARGEST:
            texts.append(document.content.decode("utf-8", "replace"))
    for number, text in enumerate(cycle(texts)):
        mark = hashlib.sha256(str(number).encode()).hexdigest()[:6]

        def rename(match: re.Match, mark: str = mark) -> str:
            word = match[0]
            changed = hashlib.md5(f"{mark}{word}".encode()).digest()[0] < 86
            return f"{word}_{mark}" if changed else word

        yield WORD.sub(rename, text)


def build(path: str, out: str) -> None:
    """Build shards from JSON lines in this process and print the peak memory after each step."""
    config = PrepareConfig(
        name="x", out=out, source="jsonl", path=path, vocab_size=2_048, tokenizer_bytes=2_000_000,
        workers=1,
    )  # fmt: skip
    peaks = {}
    with build_folder.open_work_folder(config) as work:
        for step, _ in prepare.steps(config, work, map):
            peaks[step] = peak_process_memory() / 2**20
    print(json.dumps(peaks))


if __name__ == "__main__":
    build(*sys.argv[1:])
