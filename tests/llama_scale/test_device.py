"""What this machine can compute on."""

import os
from types import SimpleNamespace

import pytest

from llama_scale import device

NOEXEC = next((p for p in ("/proc", "/sys", "/dev/shm", "/run") if os.statvfs(p).f_flag & os.ST_NOEXEC), None)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A PATH of a C and a C++ compiler alone."""
    for name in ("g++", "gcc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_compiling_needs_a_compiler(compiler):
    assert device.why_no_compiling("cpu") is None and device.why_no_compiling("cuda") is None
    (compiler / "g++").unlink()
    assert device.why_no_compiling("cpu") == "no C++ compiler" and device.why_no_compiling("cuda") is None
    (compiler / "gcc").unlink()
    assert device.why_no_compiling("cuda") == "no C compiler"


@pytest.mark.skipif(NOEXEC is None, reason="no mount without execution here")
def test_compiling_needs_a_folder_whose_libraries_can_be_loaded(compiler, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{NOEXEC}/absent/cache")
    assert device.why_no_compiling("cpu").startswith(f"{NOEXEC} lies on a mount without execution (TMPDIR or")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert device.why_no_compiling("cpu").startswith(f"{NOEXEC} cannot be written (TMPDIR or")


def test_a_temporary_folder_without_execution_is_one_too(compiler, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(compiler))
    assert device.why_no_compiling("cpu") is None
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert device.why_no_compiling("cpu").startswith(f"{compiler} lies on a mount")
