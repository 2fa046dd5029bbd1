"""Licenses from package metadata."""

from email.message import Message

import pytest

from data_tools.sources.licenses import from_metadata, permissive, spdx

LONG = "Copyright (c) 2020 A. Person\nAll rights reserved.\n\nRedistribution and use"


def metadata(expression=None, license=None, classifiers=()):
    message = Message()
    for name, value in (("License-Expression", expression), ("License", license)):
        if value is not None:
            message[name] = value
    for classifier in classifiers:
        message["Classifier"] = classifier
    return message


BSD = "License :: OSI Approved :: BSD License"
MPL = "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"
GPL = "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"expression": "Apache-2.0 AND MIT", "license": "BSD"}, "Apache-2.0 AND MIT"),
        ({"license": "Apache License, Version 2.0", "classifiers": [BSD]}, "Apache-2.0"),
        ({"license": LONG, "classifiers": ["Topic :: Software", BSD]}, "BSD"),
        ({"license": "MIT License\n\nCopyright (c)"}, "MIT"),
        ({"license": LONG}, "Copyright (c) 2020 A. Person"),
        ({"classifiers": ["License :: OSI Approved", BSD]}, "BSD"),
        ({"classifiers": [BSD, MPL]}, "BSD AND MPL-2.0"),
        ({"classifiers": [GPL]}, "GNU General Public License v3 (GPLv3)"),
        ({"classifiers": ["Topic :: Software"]}, "unknown"),
        ({"license": ""}, "unknown"),
    ],
)
def test_from_metadata(fields, expected):
    assert from_metadata(metadata(**fields)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The MIT License (MIT)", "MIT"),
        ("MIT-CMU", "MIT-CMU"),
        ("Apache 2.0 License", "Apache-2.0"),
        ("apache-2.0", "apache-2.0"),
        ("3-Clause BSD License", "BSD-3-Clause"),
        ("BSD-2-Clause", "BSD-2-Clause"),
        ("new BSD", "BSD-3-Clause"),
        ("BSD License", "BSD"),
        ("Python Software Foundation License", "PSF-2.0"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
        ("MPL-2.0 AND MIT", "MPL-2.0 AND MIT"),
        ("GPL-3.0-or-later", "GPL-3.0-or-later"),
        ("GPLv3", None),
        ("Mitigated", None),
        ("see LICENSE.txt", None),
    ],
)
def test_spdx(text, expected):
    assert spdx(text) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("MPL-2.0", False),
        ("unknown", False),
        ("", False),
        ("MPL-2.0 AND MIT", False),
        ("MIT AND MPL-2.0", False),
        ("GPL-3.0 OR MIT", True),
        ("GPL-3.0 OR MIT AND MPL-2.0", False),
        ("(GPL-3.0 OR MIT) AND BSD-3-Clause", True),
        ("(GPL-3.0 AND MIT) OR (BSD AND (ISC OR LGPL-3.0))", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-2.0 WITH Classpath-exception-2.0", False),
        ("MIT BSD", False),
        ("(MIT", False),
        ("MIT)", False),
        ("MIT AND", False),
        ("Permission is hereby granted", False),
    ],
)
def test_permissive(expression, expected):
    assert permissive(expression) is expected
