"""Installed packages are found with their files and licenses."""

import sysconfig
from pathlib import Path

import pytest

from data_tools.sources.installed import STDLIB, canonical, installed_documents, installed_packages
from llama_scale.errors import InputError
from tests.data_tools.helpers import install_packages

PACKAGES = {
    "Alpha_One": ("MIT", {"alpha/__init__.py": "", "alpha/core.py": "a = 1\n" * 500}),
    "beta": ("MPL-2.0", {"beta.py": "b = 2\n" * 300, "beta/data.txt": "no code"}),
    "llama_scale": ("Apache-2.0", {"ours.py": "ours = True\n"}),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    install_packages(site, PACKAGES)
    (site / "broken-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(site)
    return site


def test_packages_of_this_interpreter(site):
    packages = {package.name: package for package in installed_packages()}
    assert list(packages) == sorted(packages)
    assert "llama-scale" not in packages
    alpha = packages["alpha-one"]
    assert (alpha.version, alpha.license, alpha.root) == ("1.0", "MIT", site)
    assert alpha.files == ["alpha/__init__.py", "alpha/core.py"]
    assert packages["beta"].files == ["beta.py"]
    numpy = packages["numpy"]
    assert numpy.license.startswith("BSD-3-Clause")
    assert "numpy/__init__.py" in numpy.files
    stdlib = packages[STDLIB]
    assert (stdlib.license, stdlib.root) == ("PSF-2.0", Path(sysconfig.get_path("stdlib")))
    assert {"json/decoder.py", "ast.py"} <= set(stdlib.files)
    assert not any("site-packages" in path for path in stdlib.files)


def test_the_version_that_python_imports_is_meant(site, tmp_path, monkeypatch):
    newer = tmp_path / "newer"
    install_packages(newer, {"beta": ("MIT", {"beta.py": "b = 3\n"})})
    monkeypatch.syspath_prepend(newer)
    (document,) = installed_documents(["beta"])
    assert (document.content, document.license) == (b"b = 3\n", "MIT")


def test_documents(site):
    documents = list(installed_documents(["alpha.one", "beta"]))
    assert [(d.package, d.path, d.license) for d in documents] == [
        ("alpha-one", "alpha/__init__.py", "MIT"),
        ("alpha-one", "alpha/core.py", "MIT"),
        ("beta", "beta.py", "MPL-2.0"),
    ]
    assert documents[1].content == (site / "alpha/core.py").read_bytes()
    assert [d.package for d in installed_documents(["alpha-one", "beta"], exclude=["Alpha-One"])] == ["beta"]


def test_a_file_that_cannot_be_read(site):
    (site / "beta.py").unlink()
    (site / "beta.py").mkdir()  # Python 3.12 leaves out a file that is missing
    (document,) = installed_documents(["beta"])
    assert document.content is None


def test_an_unknown_package_is_named(site):
    with pytest.raises(InputError, match=r"'alpa-one' is not installed \(did you mean 'alpha-one'"):
        list(installed_documents(["alpa-one"]))


def test_max_bytes_takes_a_fair_sample():
    packages = ["numpy", STDLIB]
    every = {(d.package, d.path): len(d.content) for d in installed_documents(packages)}
    limit = sum(every.values()) // 10
    some = {(d.package, d.path): len(d.content) for d in installed_documents(packages, max_bytes=limit)}
    assert some.items() <= every.items()
    assert 0.9 * limit < sum(some.values()) <= limit
    again = {(d.package, d.path) for d in installed_documents(packages[::-1], max_bytes=limit)}
    assert again == set(some)
    other = {(d.package, d.path) for d in installed_documents(packages, max_bytes=limit, seed=1)}
    assert other != set(some)
    mine = sum(size for (package, _), size in some.items() if package == STDLIB)
    all_mine = sum(size for (package, _), size in every.items() if package == STDLIB)
    assert mine / sum(some.values()) == pytest.approx(all_mine / sum(every.values()), abs=0.1)


def test_max_bytes_larger_than_all_and_smaller_than_one(site):
    assert len(list(installed_documents(["alpha-one", "beta"], max_bytes=10**9))) == 3
    assert list(installed_documents(["beta"], max_bytes=1)) == []


def test_canonical_names():
    assert canonical("Foo__Bar.baz-Qux") == "foo-bar-baz-qux"
