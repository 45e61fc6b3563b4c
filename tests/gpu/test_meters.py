"""What the meters of a GPU say, against what torch knows."""

from __future__ import annotations

import time

import pytest
import torch

from model.device.meters import device_name, gpu_utilisation, memory_metrics, nvml_memory, reset_peaks
from tests.gpu import DEVICE

MIB = 2**20


def test_peaks_of_the_allocator() -> None:
    reset_peaks()
    before = memory_metrics(DEVICE)
    held = torch.ones(256 * MIB, dtype=torch.uint8, device=DEVICE)
    del held
    after = memory_metrics(DEVICE)
    assert after["peak_allocated_gib"] == pytest.approx(before["peak_allocated_gib"] + 0.25, abs=0.01)
    assert after["peak_reserved_gib"] >= after["peak_allocated_gib"]
    assert after["peak_gib"] == after["peak_reserved_gib"]
    assert 0 < after["peak_rss_gib"] < 64


def test_nvml_counts_what_torch_reserves_and_the_context() -> None:
    held = torch.ones(512 * MIB, dtype=torch.uint8, device=DEVICE)
    torch.cuda.synchronize()
    found = nvml_memory(DEVICE)
    if not found:
        pytest.skip("NVML lists no process here, as in some virtual machines and containers")
    reserved_gib = torch.cuda.memory_reserved() / 2**30
    assert held.numel() / 2**30 <= reserved_gib <= found["nvml_used_gib"] <= reserved_gib + 2.0


def test_utilisation_shows_that_the_gpu_is_busy() -> None:
    factor = torch.randn(4096, 4096, device=DEVICE)
    busiest, end = -1.0, time.monotonic() + 8.0
    while busiest <= 0.0 and time.monotonic() < end:
        for _ in range(20):
            factor = factor @ factor / 4096
        torch.cuda.synchronize()
        found = gpu_utilisation(DEVICE)
        if not found:
            pytest.skip("NVML does not say how busy this GPU is")
        assert 0.0 <= found["gpu_util_pct"] <= 100.0
        busiest = max(busiest, found["gpu_util_pct"])
    assert busiest > 0.0


def test_the_device_has_its_name() -> None:
    assert device_name(DEVICE) == torch.cuda.get_device_name(0)
    assert device_name(torch.device("cpu")) == "cpu"
