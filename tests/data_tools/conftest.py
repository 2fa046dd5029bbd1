"""Builds of small real packages, and a store of blobs, that several tests share."""

import gzip
from dataclasses import replace

import pytest

from data_tools import prepare
from tests.data_tools.helpers import CONTENTS, FOLDERS, LIBRARY, SIZE, V2, install_packages, tiny_config


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Eighteen packages of real code: each a folder of the standard library under a new name."""
    site = tmp_path_factory.mktemp("python") / "site-packages"
    packages = {}
    for name in FOLDERS:
        files = sorted((LIBRARY / name).rglob("*.py"))
        files = [f for f in files if "__pycache__" not in f.parts]
        packages[f"fake-{name}"] = (
            "MPL-2.0 AND MIT" if name == "html" else "MIT",
            {f"fake_{name}/{f.relative_to(LIBRARY / name)}": f.read_text() for f in files},
        )
    decoder = (LIBRARY / "json" / "decoder.py").read_text()
    packages["fake-copy"] = (
        "MIT",
        {
            "fake_copy/deep/decoder.py": decoder,
            "fake_copy/_vendor/other.py": "import this\n" * 9,
            "fake_copy/escape.py": "block = '\u2581'  # a \u2581 b\n" * 20,
            "fake_copy/bom.py": "\ufeffvalue = 1\r\n\tother = 2\r\n" * 5,
            "fake_copy/generated.py": "# This file is generated\nx = 1\n",
            "fake_copy/odd.py": "name = '😀 e\u0301 שלום </s> <0x41>'\n",
        },
    )
    install_packages(site, packages)
    return site


@pytest.fixture
def config(site, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(site)
    return tiny_config(tmp_path)


@pytest.fixture(scope="session")
def built(site, tmp_path_factory):
    """The settings and the manifest of one build, for the tests that only look."""
    config = tiny_config(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        return config, prepare.prepare(config)


@pytest.fixture(scope="session")
def packed(site, tmp_path_factory):
    settings = replace(
        tiny_config(tmp_path_factory.mktemp("packed")),
        packing="best_fit",
        pack_length=SIZE,
        fim_rate=0.5,
        shard_tokens=30_000,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        return settings, prepare.prepare(settings)


@pytest.fixture
def objects(tmp_path):
    folder = tmp_path / "content"
    folder.mkdir()
    for name, content in CONTENTS.items():
        packed = gzip.compress(content)
        packed = packed[:-9] if name == "truncated" else content if name == "no_gzip" else packed
        (folder / f"{V2[name]['blob_id']}.gz").write_bytes(packed)
    return folder
