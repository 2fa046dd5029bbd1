"""Licenses of installed packages: from free-form metadata to SPDX-like names."""

import re
from collections.abc import Collection
from email.message import Message

UNKNOWN = "unknown"
PERMISSIVE = frozenset({
    "0BSD", "AFL-3.0", "Apache-2.0", "Artistic-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MulanPSL-2.0", "NCSA", "PSF-2.0", "Python-2.0",
    "Unlicense", "UPL-1.0", "WTFPL", "X11", "ZPL-2.1", "Zlib",
})  # fmt: skip
OPERATORS = frozenset({"AND", "OR", "WITH", "(", ")"})
# Beginnings of what packages write, in lower case with "license", "the" and punctuation removed. The first that fits
# counts: "mit cmu" before "mit".
SPELLINGS = {
    "0BSD": "0bsd",
    "AFL-3.0": "academic free",
    "Apache-2.0": "apache",
    "BSD-2-Clause": "bsd 2 clause|2 clause bsd|simplified bsd",
    "BSD-3-Clause": "bsd 3 clause|3 clause bsd|new bsd|modified bsd",
    "BSD": "bsd",
    "BSL-1.0": "boost software",
    "CC0-1.0": "cc0",
    "HPND": "historical permission notice|hpnd",
    "ISC": "isc",
    "MIT-0": "mit no attribution",
    "MIT-CMU": "mit cmu",
    "MIT": "mit",
    "MPL-2.0": "mozilla public 2 0|mpl 2 0",
    "PSF-2.0": "psf|python software foundation",
    "Unlicense": "unlicense",
    "Zlib": "zlib",
    "ZPL-2.1": "zope public",
}
SPDX = re.compile(r"[A-Za-z0-9.+]+(-[A-Za-z0-9.+]+)+|MIT|ISC|BSD|Zlib|0BSD|HPND|NCSA|WTFPL|X11|Unlicense")
# What may stand beside a license's name without changing it; anything else may, as in "MIT with Commons Clause".
NOISE = frozenset({
    "0", "1", "2", "2004", "2007", "3", "4", "a", "approved", "clause", "dedication", "domain", "expat", "file",
    "foundation", "free", "from", "january", "like", "open", "original", "osi", "public", "see", "software", "source",
    "style", "text", "type", "universal", "v", "variant", "ver", "version",
})  # fmt: skip
TOKEN = re.compile(r"\(|\)|[^\s()]+")


def from_metadata(metadata: Message) -> str:
    """Return the license that a package's metadata states, as an SPDX expression where plain.

    Read in this order: License-Expression; a License field of one line; the license classifiers, all of them together;
    the first line of a longer License field. Text that names no known license stays as it is; none is ``"unknown"``.
    """
    if expression := (metadata.get("License-Expression") or "").strip():
        return expression
    stated = (metadata.get("License") or "").strip()
    lines = stated.splitlines()
    if len(lines) == 1 and (name := spdx(stated)):
        return name
    classifiers = metadata.get_all("Classifier") or []
    names = {c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")} - {"OSI Approved"}
    if names:
        return " AND ".join(sorted({spdx(name) or name for name in names}))
    return (spdx(lines[0]) or lines[0][:80]) if lines else UNKNOWN


def spdx(text: str) -> str | None:
    """Return the SPDX name or expression for a license written freely; None where not plain.

    Several licenses, "MIT or Apache 2.0" or "BSD/GPLv3", are an expression of all of them, or not plain.
    """
    text = text.strip()
    words = [word for word in TOKEN.findall(text) if word not in OPERATORS]
    if words and all(SPDX.fullmatch(word) for word in words):
        return text
    if name := _plain_name(text):
        return name
    parts = re.split(r"\s+(and|or)\s+|\s*([/&|;+])\s*", text, flags=re.IGNORECASE)
    names = [_plain_name(part) or (part if SPDX.fullmatch(part.strip()) else None) for part in parts[::3]]
    if len(names) < 2 or not all(names):
        return None
    joints = {(word or "").upper() for word in parts[1::3]}
    return (" OR " if joints == {"OR"} else " AND ").join(name for name in names if name)


def _plain_name(text: str) -> str | None:
    """Return the SPDX name of a text that names one license and says nothing else."""
    plain = re.sub(r"\b(the|licen[cs]e[sd]?|copyright)\b|[^a-z0-9]+", " ", text.lower())
    plain = " ".join(plain.split())
    for name, spellings in SPELLINGS.items():
        if match := re.match(rf"(?:{spellings})\b", plain):
            own = {*match[0].split(), *re.split(r"[^a-z0-9]+", name.lower())}
            return name if own | NOISE >= {*plain[match.end() :].split()} else None
    return None


def permissive(expression: str, allowed: Collection[str] = PERMISSIVE) -> bool:
    """Whether an SPDX-like expression lets the work be used under ``allowed`` terms alone.

    ``A OR B`` needs one permissive side, ``A AND B`` both; ``A WITH exception`` counts as A. Names are the same in
    upper and lower case. Anything not understood is not allowed.
    """
    tokens = [token if token in OPERATORS else token.lower() for token in TOKEN.findall(expression)]
    allowed = {name.lower() for name in allowed}
    verdict, rest = _parse_or(tokens, allowed)
    return verdict and not rest


# A parser by descent: OR binds weakest, then AND, then WITH. Each function takes as many tokens as
# belong to it and returns whether they are permissive, and the tokens that are left:
# MIT OR (GPL-3.0 AND MIT) is True, of which the OR side in brackets alone would be False.


def _parse_or(tokens: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _parse_and(tokens, allowed)
    while tokens[:1] == ["OR"]:
        other, tokens = _parse_and(tokens[1:], allowed)
        verdict = verdict or other
    return verdict, tokens


def _parse_and(tokens: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _parse_term(tokens, allowed)
    while tokens[:1] == ["AND"]:
        other, tokens = _parse_term(tokens[1:], allowed)
        verdict = verdict and other
    return verdict, tokens


def _parse_term(tokens: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    if tokens[:1] == ["("]:
        verdict, tokens = _parse_or(tokens[1:], allowed)
        return verdict and tokens[:1] == [")"], tokens[1:]
    verdict = bool(tokens) and tokens[0] in allowed
    tokens = tokens[1:]
    return verdict, tokens[2:] if tokens[:1] == ["WITH"] else tokens
