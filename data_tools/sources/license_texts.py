"""What the files of a project say about its license: license files, metadata, headers of source files."""

import configparser
import json
import re
import tomllib
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from data_tools.sources.licenses import PERMISSIVE, SPELLINGS, from_metadata, spdx
from llama_scale.files import open_file

MAX_BYTES = 1 << 20  # of a license file or of metadata
HEADER_BYTES = 4096
MAX_TITLE = 60  # characters of a license that is not recognized
LICENSE_FILE = re.compile(
    r"(?:[a-z0-9]+[-_.])?(?:(?:un)?licen[cs]es?|copying|copyright|eula|terms)(?:[-_. ].*)?", re.IGNORECASE
)
NAMED_FOR_TERMS = re.compile(r"(?:[al]?gpl|[me]pl|sspl)[-_.v0-9]*(?:\.(?:txt|md|rst|html))?", re.IGNORECASE)  # files
README = re.compile(r"readme(?:\.(?:md|rst|txt))?", re.IGNORECASE)
README_SECTION = re.compile(
    r"^(?:\#+ *[^\n]*\blicen[cs](?:e|es|ing)\b[^\n]*|[^\n]*\blicen[cs](?:e|es|ing)\b[^\n]*\n[-=~]{4,} *)\n"
    r"(?P<text>.*?)(?=^\#|^[^\n]+\n[-=~]{4,} *$|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
NO_LICENSE_FILE = re.compile(r".*\.(?:py|pyi|pyc|ipynb|js|ts|c|h|cpp|java|go|rs|sh|png|jpg|svg)", re.IGNORECASE)
METADATA_FILES = (
    "pyproject.toml", "setup.cfg", "setup.py", "PKG-INFO", "METADATA", "package.json", "composer.json", "Cargo.toml",
    "CITATION.cff",
)  # fmt: skip
# What metadata say of work that nobody may use without asking: "UNLICENSED" is npm's word for it.
CLOSED = re.compile(
    r"unlicensed|.*\b(?:all rights reserved|commercial|closed|confidential|eula|private|proprietary)\b.*", re.IGNORECASE
)
# Sentences of licenses, in lower case with one space between words: what is recognized without a title.
SENTENCES = {
    "MIT": r"permission is hereby granted, free of charge, to any person obtaining a copy of this software",
    "Apache-2.0": r"licensed under the apache license,? version 2\.0|apache license,? version 2\.0, january 2004",
    "BSD": r"redistribution and use in source and binary forms, with or without modification, are permitted",
    "ISC": r"permission to use, copy, modify,? and(?:/or)? distribute this software for any purpose with",
    "BSL-1.0": r"boost software license - version 1\.0",
    "Unlicense": r"this is free and unencumbered software released into the public domain",
    "Zlib": r"altered source versions must be plainly marked as such",
    "CC0-1.0": r"cc0 1\.0 universal",
    "WTFPL": r"do what the fuck you want to public license",
    "PSF-2.0": r"python software foundation license version 2",
}
# Terms that go beyond those of ``licenses.PERMISSIVE``, wherever a text has them: {name: pattern}. The version, if the
# pattern has a group that finds it, is added to the name.
VERSION = r"(?:,?(?: -)? ?\(?(?:v(?:ersion|\.)?)? ?([0-9]+(?:\.[0-9]+)?))?"
TERMS = {
    "AGPL": rf"gnu affero general public licen[cs]e{VERSION}|\bagpl",
    "LGPL": rf"gnu (?:lesser|library) general public licen[cs]e{VERSION}|\blgpl",
    "GPL": rf"gnu general public licen[cs]e{VERSION}",
    "MPL": rf"mozilla public licen[cs]e{VERSION}",
    "EPL": rf"eclipse public licen[cs]e{VERSION}",
    "EUPL": rf"european union public licen[cs]e{VERSION}",
    "CDDL": rf"common development and distribution licen[cs]e{VERSION}",
    "CPL": rf"common public licen[cs]e{VERSION}",
    "OSL": rf"open software licen[cs]e{VERSION}",
    "CECILL": r"\bcecill",
    "MS-PL": r"microsoft public licen[cs]e",
    "Sleepycat": r"sleepycat licen[cs]e",
    "SSPL": rf"server side public licen[cs]e{VERSION}",
    "BUSL": rf"business source licen[cs]e{VERSION}",
    "Elastic": rf"elastic licen[cs]e{VERSION}",
    "LicenseRef-Commons-Clause": r"commons clause",
    "JSON": r"shall be used for good, not evil",
    "BSD-4-Clause": r"all advertising materials mentioning",
    "LicenseRef-CC": r"creative commons (?!zero)|\bcc[- ]by\b",
    "LicenseRef-RAIL": r"\b(?:open)?rail(?:-[a-z]+)?\b|responsible ai licen[cs]e",
    "LicenseRef-ethical": r"hippocratic licen[cs]e|anti[ -]996",
    "LicenseRef-noncommercial": r"\b(?:for|only|personal|purely),? non-? ?commercial|noncommercial licen[cs]e|polyform|"
    r"\bpersonal use only\b|\bnon-?commercial use only\b",
    "LicenseRef-research-only": r"(?:research|academic|evaluation|educational) (?:purposes? only|use only)",
    "LicenseRef-proprietary": r"\bproprietary\b(?! (?:rights )?notices)|\bstrictly confidential\b|"
    r"\bno licen[cs]e is granted\b|\bunauthori[sz]ed (?:copying|use|distribution|reproduction)\b|"
    r"\b(?:may|must|shall) not be (?:used(?! to endorse| in advertising)|copied|"
    r"reproduced|distributed|redistributed)\b[^.]{0,60}\bwithout\b",
}
# What names such terms without being under them.
HARMLESS = re.compile(
    r"previously distributed under the gnu general public license( \(gpl\))?|"
    r"(?:compatible with|neither .{0,40}nor) the gnu[a-z ]* general public license"
)
HEADER = re.compile(
    rb"SPDX-License-Identifier:[ \t]*([^\r\n]+)|^__licen[cs]e__[ \t]*=[ \t]*[\"']([^\"'\r\n]+)", re.MULTILINE
)
# Sentences of file headers; a title in a comment is not enough, it may be what the program is about.
HEADER_TERMS = (
    r"terms of the gnu|subject to the terms of the (?:mozilla|eclipse|european)|licensed under the (?:gnu|[al]?gpl)|"
    r"(?:under|licen[cs]e:?) (?:the )?(?:[al]?gpl)(?:v|\b)|proprietary and confidential|confidential and proprietary|"
    r"released under the gnu|distributed under the (?:gnu|[al]?gpl)|unauthori[sz]ed (?:copying|use|distribution)|"
    r"(?:under|by) the (?:business source|server side public|elastic) licen[cs]e|"
    r"licen[cs]ed under (?:the |a )?(?:creative commons|cc[- ]by)"
)
HEADER_WORDS = (  # one of which each of those sentences has
    b"gnu", b"gpl", b"subject to", b"confidential", b"unauthori", b"business source", b"server side", b"elastic",
    b"creative commons", b"cc-by", b"cc by",
)  # fmt: skip
# What the license section of a README says where it states nothing of its own.
ELSEWHERE = re.compile(r"\b(?:see|refer|read|file|included|found|copying)\b")


FREE = [spellings for name, spellings in SPELLINGS.items() if name in PERMISSIVE] + ["public domain", "python 2 0"]


def stated_license(folder: Path) -> str | None:
    """Return what the license files and the metadata of a folder state together; None if they state nothing.

    It is an SPDX-like expression in which all terms hold. A file whose terms are not recognized, is empty or cannot be
    read is ``LicenseRef-`` and its beginning or name: it states something, which is not nothing.
    """
    found, unknown = [], []
    files = _license_files(folder)
    others = [path.name for path in files]
    for path in files:
        text = _read(path)
        if names := license_of_text(text or "") or (spdx(path.stem) if path.parent.name == "LICENSES" else None):
            found.append(names)
        elif not path.name.lower().startswith("copyright") and not _points_to(text, path.name, others):
            unknown.append(reference(text if text and text.strip() else path.name))
    for text in _metadata_licenses(folder):
        if name := spdx(text) or license_of_text(text) or (CLOSED.fullmatch(text) and "LicenseRef-proprietary"):
            found.append(name)
        elif not found:
            unknown.append(reference(text))
    return joined([*found, *unknown, *_readme_terms(folder, stated=bool(found))])


def _readme_terms(folder: Path, stated: bool) -> list[str]:
    """Return the restricting terms in a README's license sections, or their words where nothing else is ``stated``."""
    try:
        paths = sorted(path for path in folder.iterdir() if README.fullmatch(path.name))
    except OSError:
        return []
    names = []
    for section in (match["text"] for path in paths for match in README_SECTION.finditer(_read(path) or "")):
        words = _plain_words(section)
        terms = _restricting_terms(words) or (["GPL"] if re.search(r"\bgpl(?:v|\b)", words) else [])
        names += terms
        if words and not (terms or stated or license_of_text(section) or ELSEWHERE.search(words) or _names_free(words)):
            names.append(reference(section))
    return names


def _names_free(words: str) -> bool:
    """Whether a text names a permissive license."""
    return any(re.search(rf"\b(?:{spellings})\b", re.sub(r"[^a-z0-9]+", " ", words)) for spellings in FREE)


def _plain_words(text: str) -> str:
    """Return a text in lower case with one space between words and without signs of comments."""
    return " ".join(re.sub(r"[#*\"“”]|//", " ", text.lower()).split())


def license_of_text(text: str) -> str | None:
    """Return the terms that a license's text has, all of them, as an SPDX-like expression; None where none is known.

    A title counts, and so do sentences of the well-known licenses, without one.
    """
    lines = [line.strip(" \t#=*/<>!-\"'.") for line in text.lstrip("\ufeff").splitlines()]
    lines = [
        line for line in lines if line and not re.match(r"copyright|\(c\)|©|all rights reserved", line, re.IGNORECASE)
    ]
    names = []
    if lines:
        title = re.sub(r"^(?:SPDX-License-Identifier|licen[cs]e)\s*:\s*", "", lines[0], flags=re.IGNORECASE)
        names += [name] if (name := spdx(title)) else []
    words = HARMLESS.sub(" ", _plain_words(text))
    if not names:
        names += [name for name, sentence in SENTENCES.items() if re.search(sentence, words)]
    return joined([*names, *_restricting_terms(words)])


def header_license(content: bytes) -> str | None:
    """Return what the head of a source file states of its own license, None where it states nothing."""
    head = content[:HEADER_BYTES]
    found = [[text.decode("utf-8", "replace") for text in pair] for pair in HEADER.findall(head)]
    stated = [tag or name for tag, name in found if tag or not ELSEWHERE.search(name.lower())]
    stated = [text.strip().removesuffix("*/").removesuffix("-->").strip() for text in stated]
    names = [spdx(text) or license_of_text(text) or reference(text) for text in stated]
    if names or not any(word in head.lower() for word in HEADER_WORDS):
        return joined(names)
    words = " ".join(re.sub(r"[#*\"']|//", " ", head.decode("utf-8", "replace").lower()).split())
    if re.search(HEADER_TERMS, words):
        names = _restricting_terms(words) or ["LicenseRef-restricted"]
    return joined(names)


def joined(names: list[str]) -> str | None:
    """Return expressions as one in which all hold; None for none."""
    names = sorted(set(names))
    if len(names) == 1:
        return names[0]
    return " AND ".join(f"({name})" if " OR " in name else name for name in names) or None


def reference(text: str) -> str:
    """Return the name of a license that is not recognized: its first line, as SPDX writes such names."""
    first = next(filter(None, map(str.strip, text.splitlines())), "")
    return "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.]+", "-", first)[:MAX_TITLE].strip("-") or "unknown")


def _points_to(text: str | None, name: str, others: list[str]) -> bool:
    """Whether a text that states nothing itself names another of the license files."""
    return any(other != name and other in (text or "") for other in others)


def _restricting_terms(words: str) -> list[str]:
    names = []
    for name, pattern in TERMS.items():
        if match := re.search(pattern, words):
            version = next(filter(None, match.groups()), None)
            number = version if version is None or "." in version else f"{version}.0"
            names.append(f"{name}-{number}" if number else name)
    return names


def _license_files(folder: Path) -> list[Path]:
    """Return the files of a folder, and of LICENSES in it, that state a license by their name."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    named = [p for p in paths if LICENSE_FILE.fullmatch(p.name) and not NO_LICENSE_FILE.fullmatch(p.name)]
    inside = [file for path in named if path.is_dir() for file in _files_of(path)]
    named += [path for path in paths if NAMED_FOR_TERMS.fullmatch(path.name)]
    return [path for path in named if not path.is_dir()] + inside


def _files_of(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_file() and not NO_LICENSE_FILE.fullmatch(p.name))
    except OSError:
        return [folder]


def _read(path: Path) -> str | None:
    try:
        with open_file(path) as file:
            data = file.read(MAX_BYTES)
    except OSError:
        return None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "replace")


def _metadata_licenses(folder: Path) -> Iterator[str]:
    """Yield what the metadata files of a folder state; a file that cannot be read or understood states nothing."""
    for name in METADATA_FILES:
        path = folder / name
        text = _read(path) if path.is_file() else None
        if text is None:
            continue
        try:
            yield from filter(None, map(str.strip, _fields(path, text)))
        except (ValueError, TypeError, AttributeError, RecursionError, configparser.Error):
            continue


def _fields(path: Path, text: str) -> Iterator[str]:
    name = path.name
    if name == "pyproject.toml":
        document = tomllib.loads(text)
        poetry = document.get("tool", {}).get("poetry", {})
        for fields in (document.get("project", {}), poetry):
            yield from _license_field(fields.get("license"), path.parent)
            yield from _classifiers(fields.get("classifiers"))
    elif name == "Cargo.toml":
        package = tomllib.loads(text).get("package", {})
        yield from _license_field(package.get("license"))
        yield from _license_field({"file": package.get("license-file")}, path.parent)
    elif name == "CITATION.cff":
        yield from re.findall(r"^license:[ \t]*[\"']?([^\"'\n]+)", text, re.MULTILINE)
    elif name == "setup.cfg":
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read_string(text)
        yield parser.get("metadata", "license", fallback="")
        yield from _classifiers(parser.get("metadata", "classifiers", fallback="").splitlines())
    elif name == "setup.py":
        yield from re.findall(r"\blicense\s*=\s*[\"']([^\"'\n]+)[\"']", text)
        yield from _classifiers(re.findall(r"[\"'](License ::[^\"'\n]+)[\"']", text))
    elif name in ("package.json", "composer.json"):
        fields = json.loads(text)
        for value in (fields.get("license"), fields.get("licenses")):
            for item in value if isinstance(value, list) else [value]:
                yield from _license_field(item)
    else:
        stated = from_metadata(HeaderParser().parsestr(text))
        yield "" if stated == "unknown" else stated


def _license_field(value: Any, folder: Path | None = None) -> list[str]:
    """Return a license field, which is a name, or a table with a text, a type or the name of a file in ``folder``."""
    if folder and isinstance(value, dict) and isinstance(file := value.get("file"), str):
        return [_read(folder / file) or file]
    value = value.get("text", value.get("type", "")) if isinstance(value, dict) else value
    return [value] if isinstance(value, str) else []


def _classifiers(values: Any) -> list[str]:
    known = [value.strip() for value in values or [] if isinstance(value, str)]
    names = [value.rpartition(" :: ")[2] for value in known if value.startswith("License ::")]
    return [name for name in names if name != "OSI Approved"]
