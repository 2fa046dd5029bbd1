"""Accelerators by name, and this machine."""

from types import SimpleNamespace

import pytest

from llama_scale.cost.hardware import DEFAULT_MFU, GIB, HARDWARE, USABLE, bf16_peak, describe_machine
from llama_scale.errors import InputError


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("GRID A100-10C", None),
        ("NVIDIA H100 CNX", None),
        ("NVIDIA A100-SXM-64GB", None),
        ("NVIDIA GH200 144G HBM3e", 989e12),
        ("NVIDIA H200 141GB HBM3e", 989e12),
        ("Some Future GPU", None),
    ],
)
def test_peaks_are_dense(name, peak):
    assert bf16_peak(name) == peak


def test_unknown_hardware_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'h200'"):
        describe_machine("h20", DEFAULT_MFU, "auto", None)


def test_peaks_and_usable_memory_are_stated():
    assert HARDWARE["h200"].peak == HARDWARE["h100"].peak == 989e12
    assert 0.9 <= USABLE["cuda"] < 1


def test_a_share_is_of_a_gpus_memory(monkeypatch):
    whole = describe_machine("h200", DEFAULT_MFU, "auto", None).memory
    assert describe_machine("h200", DEFAULT_MFU, "auto", None, memory_share=0.25).memory == whole / 4
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=100 * GIB, available=40 * GIB))
    assert describe_machine(None, DEFAULT_MFU, "cpu", None, memory_share=0.25).memory == USABLE["cpu"] * 40 * GIB


def test_memory_of_a_cpu_is_what_is_free(monkeypatch):
    memory = SimpleNamespace(total=100 * GIB, available=40 * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert describe_machine(None, DEFAULT_MFU, "cpu", None).memory == USABLE["cpu"] * 40 * GIB
