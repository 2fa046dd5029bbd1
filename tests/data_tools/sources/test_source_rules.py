"""What a source and its license rule out before a file is looked at."""

from dataclasses import replace

import pytest

from data_tools.sources.document import Document
from data_tools.sources.source_rules import SourceRules, source_rejection


@pytest.mark.parametrize(
    ("license", "path", "content", "expected"),
    [
        ("MIT", "a/b.py", b"x", None),
        ("MPL-2.0", "a/b.py", b"x", "license"),
        ("unknown", "a/b.py", b"x", "license"),
        ("MIT", "a/_vendor/b.py", b"x", "vendored"),
        ("MIT", "third_party/b.py", b"x", "vendored"),
        ("MIT", "a/vendor.py", b"x", None),
        ("MIT", "a/vendored_templates/b.py", b"x", None),
        ("MIT", "a/b.py", None, "unreadable"),
    ],
)
def test_source_rejection(license, path, content, expected):
    assert source_rejection(Document("a", "1", license, path, content)) == expected


def test_size_licenses_and_what_a_source_reports():
    document = Document("a", "1", "LicenseRef-mine", "a.py", b"x" * 100)
    assert source_rejection(document) == "license"
    rules = SourceRules(frozenset({"LicenseRef-mine"}), max_file_bytes=99)
    assert source_rejection(document, rules) == "too_large"
    assert source_rejection(replace(document, problem="hash_mismatch"), rules) == "hash_mismatch"
