"""What every source yields: documents, in an order that is always the same."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One source file.

    Attributes:
        package: Package or repository that it belongs to.
        version: Version of that package.
        license: SPDX-like expression, or "unknown".
        path: Its path inside the package's root, with forward slashes.
        content: Its bytes; None where it could not be read.
        problem: Why the source itself cannot vouch for it (a reason to count), or None.
        stars: Stars of the repository, where the source knows them.
        forks: Its forks.
    """

    package: str
    version: str
    license: str
    path: str
    content: bytes | None
    problem: str | None = None
    stars: int = 0
    forks: int = 0
