"""License files, metadata and headers of projects: what is stated, recognized or not."""

import importlib.metadata
import json
import os
from pathlib import Path

import pytest

from data_tools.sources import local
from data_tools.sources.document import Document
from data_tools.sources.license_texts import (
    LICENSE_FILE,
    NO_LICENSE_FILE,
    header_license,
    license_of_text,
    stated_license,
)
from data_tools.sources.licenses import from_metadata, permissive, spdx
from data_tools.sources.source_rules import SourceRules, source_rejection

CODE = b"def add(first, second):\n    return first + second\n"
MIT = (
    "MIT License\n\nCopyright (c) 2024 A\n\nPermission is hereby granted, free of charge, to any person obtaining\n"
    "a copy of this software and associated documentation files\n"
)
BSD = (
    "Copyright (c) 2020, B\nAll rights reserved.\n\nRedistribution and use in source and binary forms, with or\n"
    "without modification, are permitted provided that\n"
)
APACHE = "\n                                 Apache License\n                           Version 2.0, January 2004\n"
GPL3 = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIT, "MIT"),
        ("MIT License\n\nCopyright (c) 2024 A\n", "MIT"),
        ("# The MIT License (MIT)\n", "MIT"),
        ("Copyright (c) 2024 A\n\n" + MIT.partition("\n\n")[2], "MIT"),
        (BSD, "BSD"),
        ("BSD 3-Clause License\n\n" + BSD, "BSD-3-Clause"),
        (BSD + "may not be used to endorse or promote products derived from this software without permission", "BSD"),
        (APACHE, "Apache-2.0"),
        ("SPDX-License-Identifier: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("License: Apache 2.0\n", "Apache-2.0"),
        ("This is free and unencumbered software released into the public domain.\n", "Unlicense"),
        ("\ufeffMIT License\r\n", "MIT"),
        (GPL3, "GPL-3.0"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3\n", "AGPL-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\nVersion 2.1, February 1999\n", "LGPL-2.1"),
        ("Mozilla Public License Version 2.0\n", "MPL-2.0"),
        ("Mozilla Public License, v. 2.0", "MPL-2.0"),
        ("Eclipse Public License - v 2.0\n", "EPL-2.0"),
        ("MIT License with Commons Clause\n", "LicenseRef-Commons-Clause"),
        ("Commons Clause License Condition v1.0\n\n" + MIT, "LicenseRef-Commons-Clause AND MIT"),
        (MIT + "The Software shall be used for Good, not Evil.\n", "JSON AND MIT"),
        (BSD + "3. All advertising materials mentioning features\n", "BSD AND BSD-4-Clause"),
        (MIT + "for non-commercial purposes\n", "LicenseRef-noncommercial AND MIT"),
        ("Business Source License 1.1\n", "BUSL-1.1"),
        ("Attribution-NonCommercial 4.0 International\nCreative Commons Corporation\n", "LicenseRef-CC"),
        (
            "Copyright 2024 Example Corp. All rights reserved.\nProprietary and confidential.\n",
            "LicenseRef-proprietary",
        ),
        ("This software may not be copied or distributed without written consent.\n", "LicenseRef-proprietary"),
        ("For academic use only.\n", "LicenseRef-research-only"),
        ("You may do with this as the owner says.\n", None),
        ("", None),
    ],
)
def test_terms_of_a_text(text, expected):
    assert license_of_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT or Apache 2.0", "MIT OR Apache-2.0"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("Apache License, Version 2.0 and MIT License", "Apache-2.0 AND MIT"),
        ("MIT/Apache-2.0", "MIT AND Apache-2.0"),
        ("MIT and GPL-3.0", "MIT AND GPL-3.0"),
        ("MIT or GPLv3", None),
        ("MIT, GPL", None),
        ("MIT + Commons Clause", None),
        ("MIT with restrictions", None),
        ("BSD-like", "BSD-like"),
        ("BSD style", "BSD"),
        ("Apache-ish", "Apache-ish"),
        ("ISC License (ISCL)", None),
        ("Not MIT", None),
    ],
)
def test_several_licenses_in_one_text(text, expected):
    assert spdx(text) == expected


def test_names_count_in_any_case():
    assert permissive("mit") and permissive("apache-2.0 OR gpl-3.0") and not permissive("gpl-3.0")
    assert permissive("GPL-3.0", {"gpl-3.0"})


@pytest.mark.parametrize(
    ("name", "states"),
    [
        *((name, True) for name in (
            "LICENSE", "LICENSE.txt", "LICENSE.md", "LICENSE.rst", "LICENCE", "License", "licence.txt", "LICENSES.txt",
            "COPYING", "COPYING.LESSER", "COPYING.txt", "COPYRIGHT", "LICENSE-MIT", "LICENSE_GPL", "LICENSE.APACHE2",
            "MIT-LICENSE.txt", "UNLICENSE", "project.license", "EULA.txt", "LICENSE.html", "GPL-LICENSE",
            "gpl-3.0.txt", "GPLv3", "AGPL.md", "lgpl-2.1.txt", "MPL-2.0.txt",
        )),
        *((name, False) for name in (
            "license.py", "README.md", "licensing.py", "copying.c", "copyright.py", "relicensed.txt", "NOTICE",
            "gpl.py", "gplot.txt", "mplex.md",
        )),
    ],
)  # fmt: skip
def test_names_of_license_files(tmp_path, name, states):
    (tmp_path / name).write_text(GPL3)
    assert stated_license(tmp_path) == ("GPL-3.0" if states else None)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"LICENSE": MIT}, "MIT"),
        ({"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE}, "Apache-2.0 AND MIT"),
        ({"LICENSE": "Under either of LICENSE.MIT or LICENSE.APACHE.\n", "LICENSE.MIT": MIT, "LICENSE.APACHE": APACHE},
         "Apache-2.0 AND MIT"),
        ({"COPYING": GPL3, "COPYING.LESSER": "GNU LESSER GENERAL PUBLIC LICENSE\nVersion 3\n"}, "GPL-3.0 AND LGPL-3.0"),
        ({"LICENSE": MIT, "COPYING": GPL3}, "GPL-3.0 AND MIT"),
        ({"LICENSE": MIT, "COPYRIGHT": "Copyright 2024 the authors\n"}, "MIT"),
        ({"LICENSE": ""}, "LicenseRef-LICENSE"),
        ({"LICENSE": "\n\n  \n"}, "LicenseRef-LICENSE"),
        ({"LICENSE": "Ask me (OR MIT) first."}, "LicenseRef-Ask-me-OR-MIT-first."),
        ({"LICENSES/MIT.txt": MIT, "LICENSES/GPL-3.0-or-later.txt": "x"}, "GPL-3.0-or-later AND MIT"),
        ({"pyproject.toml": '[project]\nlicense = "GPL-3.0-only"\n'}, "GPL-3.0-only"),
        ({"pyproject.toml": '[project]\nlicense = {text = "MIT License"}\n'}, "MIT"),
        ({"pyproject.toml": '[project]\nlicense = {file = "LICENSE"}\n', "LICENSE": MIT}, "MIT"),
        ({"pyproject.toml": '[project]\nclassifiers = ["License :: OSI Approved :: GNU General Public License v3"]\n'},
         "GPL-3.0"),
        ({"pyproject.toml": '[tool.poetry]\nlicense = "Proprietary"\n'}, "LicenseRef-proprietary"),
        ({"pyproject.toml": '[project]\nlicense = "see our site"\n'}, "LicenseRef-see-our-site"),
        ({"pyproject.toml": '[project]\nlicense = "see our site"\n', "LICENSE": MIT}, "MIT"),
        ({"pyproject.toml": "not toml ["}, None),
        ({"pyproject.toml": "project = 5\n"}, None),
        ({"setup.cfg": "[metadata]\nlicense = AGPLv3\n"}, "AGPL"),
        ({"setup.cfg": "no section"}, None),
        ({"setup.py": "setup(name='x', license='LGPL')\n"}, "LGPL"),
        ({"PKG-INFO": "Name: x\nLicense: MIT\n"}, "MIT"),
        ({"package.json": '{"license": "SSPL-1.0"}'}, "SSPL-1.0"),
        ({"package.json": "[]"}, None),
        ({"LICENSE": MIT, "package.json": '{"license": "GPL-2.0"}'}, "GPL-2.0 AND MIT"),
        ({"LICENSE": MIT, "package.json": '{"license": "UNLICENSED"}'}, "LicenseRef-proprietary AND MIT"),
        ({"package.json": '{"licenses": [{"type": "GPL-2.0"}, {"type": "MIT"}]}'}, "GPL-2.0 AND MIT"),
        ({"composer.json": '{"license": ["GPL-2.0-only"]}'}, "GPL-2.0-only"),
        ({"Cargo.toml": '[package]\nlicense = "MIT OR Apache-2.0"\n'}, "MIT OR Apache-2.0"),
        ({"CITATION.cff": 'cff-version: 1.2.0\nlicense: "AGPL-3.0-only"\n'}, "AGPL-3.0-only"),
        ({"pyproject.toml": '[project]\nlicense = {file = "legal/terms-of-use"}\n', "legal/terms-of-use": GPL3},
         "GPL-3.0"),
        ({"pyproject.toml": '[project]\nlicense = {file = "legal/absent"}\n'}, "LicenseRef-legal-absent"),
        ({"setup.py": "setup(license='Commercial')\n"}, "LicenseRef-proprietary"),
        ({"README.md": "# A tool\n\n## License\n\nGPLv3, see COPYING.\n\n# Use\n"}, "GPL"),
        ({"README.rst": "A tool\n======\n\nLicense\n-------\nGNU General Public License v2\n"}, "GPL-2.0"),
        ({"README.md": "## License\n\nPersonal use only.\n", "LICENSE": MIT}, "LicenseRef-noncommercial AND MIT"),
        ({"README.md": "## License\nAs agreed with the owner.\n"}, "LicenseRef-As-agreed-with-the-owner."),
        ({"README.md": "## License\nAs agreed with the owner.\n", "LICENSE": MIT}, "MIT"),
        ({"README.md": "## License\nThis project is MIT licensed.\n"}, None),
        ({"README.md": "## License\nSee the file of that name.\n"}, None),
        ({"README.md": "# Finds code under the GPL\n\nIt lists licenses.\n"}, None),
    ],
)  # fmt: skip
def test_a_folder_states(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert stated_license(tmp_path) == expected
    for license in ("MIT", "ISC"):
        if expected is not None and expected.startswith("LicenseRef"):
            assert not permissive(f"{expected} AND {license}")


def test_a_license_file_that_cannot_be_read_states_something(tmp_path):
    (tmp_path / "LICENSE").symlink_to("nowhere")
    assert stated_license(tmp_path) == "LicenseRef-LICENSE"
    (tmp_path / "LICENSE").unlink()
    (tmp_path / "LICENSE").write_bytes(MIT.encode("utf-16"))
    assert stated_license(tmp_path) == "MIT"
    (tmp_path / "LICENSE").write_bytes(b"\x80\x81\x82 terms")
    assert stated_license(tmp_path).startswith("LicenseRef-")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"# SPDX-License-Identifier: GPL-3.0-or-later\n", "GPL-3.0-or-later"),
        (b"#!/usr/bin/python\n# SPDX-License-Identifier: MIT\n", "MIT"),
        (b"/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */\n", "GPL-2.0 WITH Linux-syscall-note"),
        (b"# SPDX-License-Identifier: MIT OR GPL-2.0-only\r\n", "MIT OR GPL-2.0-only"),
        (b"# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: GPL-2.0-only\n", "GPL-2.0-only AND MIT"),
        (b"# SPDX-License-Identifier: LicenseRef-Own\n", "LicenseRef-Own"),
        (b"# SPDX-License-Identifier: ours alone\n", "LicenseRef-ours-alone"),
        (b"# This program is free software: you can redistribute it and/or modify it under\n# the terms of the GNU "
         b"General Public License as published by\n# the Free Software Foundation, either version 3\n", "GPL"),
        (b"# This Source Code Form is subject to the terms of the Mozilla Public\n# License, v. 2.0.\n", "MPL-2.0"),
        (b"# Proprietary and confidential.\n", "LicenseRef-proprietary"),
        (b'"""Released under the GNU LGPL v2.1."""\n', "LGPL"),
        (b'"""Adds."""\n__license__ = "GPLv3"\n', "LicenseRef-GPLv3"),
        (b"__licence__ = 'MIT'\n", "MIT"),
        (b"__license__ = 'see LICENSE'\n", None),
        (b"# Unauthorized copying of this file, via any medium, is strictly prohibited.\n", "LicenseRef-proprietary"),
        (b"# Use of this software is governed by the Business Source License\n", "BUSL"),
        (b"# This work is licensed under the Creative Commons Attribution-NonCommercial 4.0\n", "LicenseRef-CC"),
        (b'"""Processes that are started by the elastic launcher."""\n', None),
        (b"# From an article that is released under the Creative Commons Attribution License\n", None),
        (b"# Licensed under the Apache License, Version 2.0\n", None),
        (b"# All rights reserved.\n", None),
        (b'"""Finds files under the GNU General Public License."""\n', None),
        (CODE, None),
    ],
)  # fmt: skip
def test_heads_of_source_files(head, expected):
    assert header_license(head + CODE) == expected


def test_a_file_whose_head_says_otherwise_is_left_out():
    def document(license, content):
        return Document("p", "", license, "a.py", content)

    gpl = b"# SPDX-License-Identifier: GPL-3.0-or-later\n" + CODE
    assert source_rejection(document("MIT", gpl)) == "license"
    assert source_rejection(document("MIT", b"# SPDX-License-Identifier: MIT OR GPL-3.0\n" + CODE)) is None
    rules = SourceRules(frozenset({"MIT", "GPL-3.0-or-later"}))
    assert source_rejection(document("MIT", gpl), rules) is None


def test_terms_hold_for_what_lies_below(tmp_path):
    """Of the whole folder, of a project, of a folder in it; the license that is given is for the rest."""
    root = tmp_path / "projects"
    files = {"one/a.py": "", "one/LICENSE": MIT, "one/third/b.py": "", "one/third/COPYING": GPL3, "two/a.py": "",
             "two/in/b.py": "", "two/in/LICENSE.rst": BSD, "three/a.py": "", "three/a.py.license":
             "SPDX-License-Identifier: AGPL-3.0-only\n", "three/b.py": "", "gpl3/a.py": "", "gpl3/COPYING": GPL3,
             "gpl3/in/README": "License\n-------\nOurs alone.\n", "gpl3/in/b.py": ""}  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text or CODE.decode())

    def licenses():
        documents = local.folder_documents(str(root), "Python", "ISC", 9999)
        return {f"{d.package}/{d.path}": d.license for d in documents}

    assert licenses() == {
        "one/a.py": "MIT", "one/third/b.py": "GPL-3.0 AND MIT", "two/a.py": "ISC", "two/in/b.py": "BSD",
        "three/a.py": "AGPL-3.0-only", "three/b.py": "ISC", "gpl3/a.py": "GPL-3.0",
        "gpl3/in/b.py": "GPL-3.0 AND LicenseRef-Ours-alone.",
    }  # fmt: skip
    (root / "LICENSE").write_text("Everything here is ours.\n")
    assert all("LicenseRef-Everything-here-is-ours." in license for license in licenses().values())


@pytest.mark.parametrize("field", ["license", "licence", "licenses", "detected_licenses", "repo_license", "spdx_id"])
def test_a_row_states_its_license_under_any_of_the_names(tmp_path, field):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"content": "x = 1\n", field: value} for value in ("GPL-3.0", ["MIT", "GPL-3.0"], "Some terms", None, "", [])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [document.license for document in local.jsonl_documents(str(path), "MIT")]
    assert found == ["GPL-3.0", "GPL-3.0 AND MIT", "Some terms", "MIT", "MIT", "MIT"]
    assert [permissive(license) for license in found] == [False] * 3 + [True] * 3


def test_license_files_of_installed_packages_say_what_their_metadata_say():
    """An independent source: of the files that hold one license's text alone, none differs."""
    compared = 0
    for package in importlib.metadata.distributions():
        stated = from_metadata(package.metadata)
        if spdx(stated) is None or " " in stated:
            continue
        for file in package.files or []:
            path = Path(os.fspath(package.locate_file(file)))
            named = LICENSE_FILE.fullmatch(file.name) and not NO_LICENSE_FILE.fullmatch(file.name)
            if ".dist-info" not in str(file) or not named or not path.is_file():
                continue
            text = path.read_text(errors="replace")
            if (
                len(text) < 12_000
                and "LICENSE." not in text
                and "either" not in text[:60]
                and "_vendor" not in str(path)
            ):
                found = license_of_text(text)
                assert found and permissive(found) == permissive(stated), (path, stated, found)
                compared += 1
    assert compared > 20
