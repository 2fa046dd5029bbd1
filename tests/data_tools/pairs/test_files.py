"""Java from a JDK's src.zip and JavaScript from node_modules: what is found, under which name and license."""

import json
import os
import zipfile

import pytest

from data_tools.pairs.files import CLASSPATH, jdk_documents, npm_documents
from llama_scale.errors import InputError

HEAD = '/* version 2 only ... subject to the "Classpath" exception */\n'


@pytest.fixture
def jdk(tmp_path):
    home = tmp_path / "jdk"
    (home / "lib").mkdir(parents=True)
    (home / "release").write_text('IMPLEMENTOR="X"\nJAVA_VERSION="17.0.1"\n')
    with zipfile.ZipFile(home / "lib" / "src.zip", "w") as archive:
        archive.writestr("java.base/java/util/List.java", HEAD + "interface List {}")
        archive.writestr("java.base/java/io/File.java", HEAD + "class File {}")
        archive.writestr("java.xml/org/X.java", "class X {}")
        archive.writestr("java.base/readme.txt", "no code")
    return home


def test_a_jdk(jdk):
    found = {(d.package, d.path): d for d in jdk_documents(str(jdk))}
    assert sorted(found) == [
        ("java.base/java.io", "File.java"), ("java.base/java.util", "List.java"), ("java.xml/org", "X.java"),
    ]  # fmt: skip
    one = found["java.base/java.util", "List.java"]
    assert (one.version, one.license, one.content) == ("17.0.1", CLASSPATH, HEAD.encode() + b"interface List {}")
    assert found["java.xml/org", "X.java"].license == "unknown"
    names = [d.path for d in jdk_documents(str(jdk / "lib" / "src.zip"), ["java.base"], ["java.base/java.io"])]
    assert names == ["List.java"]
    assert len(list(jdk_documents(str(jdk), max_bytes=100))) == 1


@pytest.fixture
def modules(tmp_path):
    root = tmp_path / "node_modules"

    def package(folder, name, version, **files):
        (folder / "lib").mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"name": name, "version": version, "license": "MIT"}))
        for file, text in files.items():
            (folder / "lib" / f"{file}.js").write_text(text)

    package(root / "one", "one", "1.0", a="a", b="b")
    (root / "one" / "lib" / "a.min.js").write_text("a")
    package(root / "@scope" / "two", "@scope/two", "2.0", c="c")
    package(root / "one" / "node_modules" / "two", "@scope/two", "2.0", c="again")
    package(root / "one" / "examples" / "demo", "demo", "0.0", d="d")
    return root


def test_npm_packages(modules):
    found = [(d.package, d.version, d.license, d.path) for d in npm_documents(str(modules))]
    assert found == [
        ("@scope/two", "2.0", "MIT", "lib/c.js"),
        ("one", "1.0", "MIT", "examples/demo/lib/d.js"),
        ("one", "1.0", "MIT", "lib/a.js"),
        ("one", "1.0", "MIT", "lib/b.js"),
    ]
    assert [d.path for d in npm_documents(str(modules), packages=["@scope/two"])] == ["lib/c.js"]
    assert {d.package for d in npm_documents(str(modules), exclude=["one"])} == {"@scope/two"}


def test_a_damaged_archive_is_named(jdk):
    """A byte of the packed text, and the mark of a file that has a password."""
    file = jdk / "lib" / "src.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("java.base/java/util/List.java", "interface List {}\n" * 50)
    whole = file.read_bytes()
    for place, value in ((40 + 20, 0xFF), (6, 1)):
        damaged = bytearray(whole)
        damaged[place] ^= value
        file.write_bytes(damaged.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"))
        with pytest.raises(InputError, match=r"src.zip: no readable archive of sources"):
            list(jdk_documents(str(jdk)))


def test_files_about_packages_that_are_none_are_passed_over(jdk, modules):
    (jdk / "release").write_bytes('JAVA_VERSION="17\xe9"\n'.encode("latin-1"))
    assert {d.version for d in jdk_documents(str(jdk))} == {"17\ufffd"}
    os.unlink(modules / "one" / "package.json")
    for make in (
        lambda path: os.mkfifo(path), lambda path: path.write_text("[" * 100_000), lambda path: path.write_text("[1]"),
        lambda path: path.symlink_to(path), lambda path: path.mkdir(),
    ):  # fmt: skip
        make(modules / "one" / "package.json")
        assert {d.package for d in npm_documents(str(modules))} == {"@scope/two"}
        path = modules / "one" / "package.json"
        path.rmdir() if path.is_dir() else path.unlink()


def test_what_is_missing_is_named(tmp_path, jdk, modules):
    with pytest.raises(InputError, match=r"path: .* has no src.zip; install them"):
        list(jdk_documents(str(tmp_path)))
    (tmp_path / "src.zip").write_text("none")
    with pytest.raises(InputError, match=r"src.zip: no readable archive of sources"):
        list(jdk_documents(str(tmp_path)))
    with pytest.raises(InputError, match=r"packages: 'java.bas' is not in .*src.zip"):
        list(jdk_documents(str(jdk), ["java.bas"]))
    with pytest.raises(InputError, match=r"path: .*: no folder of npm packages; run npm install"):
        list(npm_documents(str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"packages: 'on' is not in .*node_modules \(did you mean 'one'\?\)"):
        list(npm_documents(str(modules), ["on"]))
