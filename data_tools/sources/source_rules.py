"""Which documents may be used at all, decided before their content is looked at."""

from dataclasses import dataclass

from data_tools.sources.document import Document
from data_tools.sources.license_texts import header_license
from data_tools.sources.licenses import PERMISSIVE, permissive

VENDORED = frozenset({"_vendor", "vendor", "_vendored", "vendored", "third_party"})


@dataclass(frozen=True)
class SourceRules:
    """What a document must be to be collected, and what is done to it then."""

    licenses: frozenset[str] | None = None  # SPDX names that may be used; None is ``licenses.PERMISSIVE``
    max_file_bytes: int = 10 << 20  # larger files are left out unread by the later steps
    redact: bool = False  # replace secrets and personal data


def source_rejection(document: Document, rules: SourceRules | None = None) -> str | None:
    """Return why a document may not be used whatever its content, or None.

    Reasons: what the source says is wrong with it; ``license`` (not permissive, or its own head says otherwise: an SPDX
    line, or terms of the GPL, MPL and the like), ``vendored`` (a copy of another
    project inside this one, under a license that the package's metadata does not state), ``unreadable``, ``too_large``.
    """
    rules = rules or SourceRules()
    if document.problem:
        return document.problem
    allowed = PERMISSIVE if rules.licenses is None else rules.licenses
    if not permissive(document.license, allowed):
        return "license"
    if document.content and (stated := header_license(document.content)) and not permissive(stated, allowed):
        return "license"
    if not VENDORED.isdisjoint(document.path.split("/")[:-1]):
        return "vendored"
    if document.content is None:
        return "unreadable"
    if len(document.content) > rules.max_file_bytes:
        return "too_large"
    return None
