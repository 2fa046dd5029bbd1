"""What every source yields: documents, in an order that is always the same."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One source file."""

    package: str  # or repository
    version: str  # of the package
    license: str  # SPDX-like expression, or "unknown"
    path: str  # inside the package's root, with forward slashes
    content: bytes | None  # None where it could not be read
    problem: str | None = None  # why the source itself cannot vouch for it: a reason to count
    stars: int = 0  # of the repository, where the source knows them, as forks
    forks: int = 0
