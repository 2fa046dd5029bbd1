"""How a step is laid out: what fits, what is fast, what is contradictory."""

import os
import re
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import pytest

from llama_scale.config import OptimConfig, TrainConfig, load_size
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.cost.hardware import GIB, Machine, describe_machine
from llama_scale.cost.layout import Layout, layout_memory, pick_compile, why_no_compiling
from llama_scale.errors import InputError
from tests.llama_scale.cost.helpers import run_cost

NOEXEC = next((p for p in ("/proc", "/sys", "/dev/shm", "/run") if os.statvfs(p).f_flag & os.ST_NOEXEC), None)


@pytest.mark.parametrize("fields", [{}, {"micro_batch": 8}, {"strategy": "ddp"}])
@pytest.mark.parametrize("hardware", ["h100", "a100-40gb", "l40s"])
def test_the_nearest_change_fits(hardware, fields):
    cost = run_cost("M5", hardware, **fields)
    assert not cost.fits
    flags = dict(zip(*[iter(cost.change.replace("--", "").split())] * 2, strict=True))
    numbers = {k: int(v) if v.isdigit() else v for k, v in flags.items()}
    assert run_cost("M5", hardware, **fields | numbers).fits


def test_auto_splits_the_weights_where_that_makes_room():
    assert run_cost("M5", "h200", devices=8).layout.shards == 8
    assert run_cost("M2", "h200", devices=8).layout.shards == 1


def test_recomputing_makes_room_for_a_larger_micro_batch():
    plain, recompute = (run_cost("M4", "h200"), run_cost("M4", "h200", checkpoint_activations="block"))
    assert recompute.layout.micro_batch > 2 * plain.layout.micro_batch


def gpu(rate: float = 400e12) -> Machine:
    return Machine("one", "cuda", 100 * GIB, rate=rate, rate_source="")


@pytest.mark.parametrize(
    ("seconds", "setting", "compiler", "compiled"),  # blocks, loss
    [
        (24, "auto", True, (False, True)),
        (26, "auto", True, (True, True)),
        (26, "auto", False, (False, False)),
        (1e6, "loss", True, (False, True)),
        (1e6, False, True, (False, False)),
        (1, True, True, (True, True)),
    ],
)
def test_what_is_compiled_on_a_gpu(seconds, setting, compiler, compiled):
    config = TrainConfig(load_size("S4"), compile=setting)
    tokens = round(seconds * 400e12 / flops_per_token(config.model, causal=False))
    assert pick_compile(config, tokens, 8, gpu(), compiler) == compiled


def test_a_short_run_on_a_cpu_compiles_nothing():
    machine = replace(gpu(rate=30e9), device="cpu")
    config = TrainConfig(load_size("S4"))
    tokens = round(30e9 / flops_per_token(config.model, causal=False))
    assert pick_compile(config, 599 * tokens, 2, machine) == (False, False)
    assert pick_compile(config, 602 * tokens, 2, machine) == (True, True)


def test_launches_count_for_what_is_compiled():
    # 8,192 tokens of S4 are 2 ms of FLOPs at 40 %, and 22 ms of launches: 25 s are 1,136 steps.
    config = TrainConfig(load_size("S4"))
    by_parts = describe_machine("h200", None, "auto", None)
    by_share = describe_machine("h200", 0.4, "auto", None)
    assert pick_compile(config, 8192 * 1200, 4, by_parts) == (True, True)
    assert pick_compile(config, 8192 * 1000, 4, by_parts) == (False, True)
    assert pick_compile(config, 8192 * 1200, 4, by_share) == (False, True)


def test_what_torch_compile_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else name)
    assert why_no_compiling("cpu") and why_no_compiling("cuda")
    for name in ("gcc", "g++"):
        (tmp_path / name).touch(mode=0o755)
    assert why_no_compiling("cpu") is None and why_no_compiling("cuda") == "no Triton"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert why_no_compiling("cuda") is None


def test_gradients_of_several_whole_copies_stay_in_the_message_buffers():
    config = run_cost("M4", "h200").config
    alone, ddp, fsdp = (
        layout_memory(config, Layout(devices, shards, 8, 1, "none"), True, True, "cuda")
        for devices, shards in ((1, 1), (2, 1), (2, 2))
    )
    assert alone.gradients == fsdp.gradients == 0  # they take the place of freed activations
    assert ddp.gradients == 4 * count_parameters(config.model).total


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"devices": 3}, ["devices", "3", "optim.batch_tokens"]),
        ({"micro_batch": 7}, ["micro_batch", "7", "does not divide"]),
        ({"devices": 0}, ["devices", "at least 1", "0"]),
    ],
)
def test_contradictions_are_named(fields, words):
    with pytest.raises(InputError) as error:
        run_cost("M5", "h200", **fields)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("devices", [3, 6, 12])
def test_the_advised_batch_suits_the_devices(devices):
    with pytest.raises(InputError) as error:
        run_cost("M5", "h200", devices=devices)
    advised = int(re.search(r"optim.batch_tokens to (\d+)", str(error.value))[1])
    cost = run_cost("M5", "h200", devices=devices, optim=OptimConfig(batch_tokens=advised))
    assert cost.recipe.batch_tokens == advised == pytest.approx(1_310_720, rel=0.01)
    assert advised % (devices * 2048) == 0


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A PATH of a C and a C++ compiler alone."""
    for name in ("g++", "gcc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return tmp_path


def test_compiling_needs_a_compiler(compiler):
    assert why_no_compiling("cpu") is None and why_no_compiling("cuda") is None
    (compiler / "g++").unlink()
    assert why_no_compiling("cpu") == "no C++ compiler such as g++" and why_no_compiling("cuda") is None
    (compiler / "gcc").unlink()
    assert why_no_compiling("cuda") == "no C compiler such as gcc"


@pytest.mark.skipif(NOEXEC is None, reason="no mount without execution here")
def test_compiling_needs_a_folder_whose_libraries_can_be_loaded(compiler, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{NOEXEC}/absent/cache")
    assert why_no_compiling("cpu").startswith(f"{NOEXEC} lies on a mount without execution (TMPDIR or")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert why_no_compiling("cpu").startswith(f"{NOEXEC} cannot be written (TMPDIR or")


def test_a_temporary_folder_without_execution_is_one_too(compiler, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(compiler))
    assert why_no_compiling("cpu") is None
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert why_no_compiling("cpu").startswith(f"{compiler} lies on a mount")
