"""Devices by name, and attention per document against a dense block mask."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional as F

from sailctl.core.device import Device, device_of, pick
from sailctl.core.errors import UsageError

CPU = pick("cpu")


@pytest.mark.parametrize("name", ["tpu", "cpu:0", "cuda:x", "", "npu:-1"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown; use auto"):
        pick(name)


@pytest.mark.parametrize("kind", ["cuda", "npu"])
def test_absent_device_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sailctl.core.device._available", lambda kind: kind == "cpu")
    assert pick("auto") == CPU
    with pytest.raises(UsageError, match=f"no {kind} device on this machine; use --device cpu"):
        pick(kind)


def test_cpu_facts() -> None:
    assert CPU.kind == "cpu" and CPU.torch == torch.device("cpu") and CPU.collective_backend == "gloo"
    assert CPU.dtype() == CPU.dtype("fp32") == torch.float32 and CPU.dtype("bf16") == torch.bfloat16
    assert 0 < CPU.memory_allocated() <= CPU.max_memory_allocated() * 2 and CPU.total_memory() > 2**28
    assert CPU.peak_flops(torch.bfloat16) is None and CPU.name()
    CPU.synchronize()
    with CPU.autocast(torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with CPU.autocast(torch.float32):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_peak_flops_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "name", lambda self: "NVIDIA H100 80GB HBM3")
    gpu = Device("cuda", torch.device("cuda"))
    assert gpu.peak_flops(torch.bfloat16) == 989e12 and gpu.peak_flops(torch.float32) is None


def test_gemm_ceiling_disturbs_nothing() -> None:
    CPU.seed(5)
    before = CPU.rng_state()
    python_before = random.getstate()
    ceiling = CPU.gemm_flops(torch.float32)
    assert 1e8 < ceiling < 1e15 and CPU.gemm_flops(torch.float32) == ceiling  # measured once
    assert torch.equal(CPU.rng_state()["cpu"], before["cpu"]) and random.getstate() == python_before


def test_any_seed_is_one_for_torch() -> None:
    CPU.seed(10**30)
    first = torch.rand(4)
    CPU.seed(10**30)
    assert torch.equal(torch.rand(4), first)


def test_random_state_returns() -> None:
    CPU.seed(3)
    state = CPU.rng_state()
    first, python_first = torch.rand(4), random.random()
    with CPU.forked_rng(9):
        torch.rand(7)
    second = torch.rand(4)
    CPU.seed(3)
    assert torch.equal(torch.rand(4), first) and random.random() == python_first
    assert torch.equal(torch.rand(4), second)
    CPU.set_rng_state(state)
    assert torch.equal(torch.rand(4), first)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_varlen_equals_dense_block_mask(kv_heads: int, causal: bool) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 9]
    q, k, v = torch.randn(15, 4, 8), torch.randn(15, kv_heads, 8), torch.randn(15, kv_heads, 8)
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    mask = document[:, None] == document[None, :]
    if causal:
        mask &= torch.ones(15, 15, dtype=torch.bool).tril()
    repeat = 4 // kv_heads
    dense = F.scaled_dot_product_attention(
        q.transpose(0, 1),
        k.repeat_interleave(repeat, 1).transpose(0, 1),
        v.repeat_interleave(repeat, 1).transpose(0, 1),
        attn_mask=mask,
        scale=0.3,
    ).transpose(0, 1)
    cu_seqlens = torch.tensor([0, 5, 6, 15], dtype=torch.int32)
    packed = device_of(q).varlen_attention(q, k, v, cu_seqlens, 9, causal, 0.3)
    assert (packed - dense).abs().max() <= 1e-6  # worst measured 3.6e-7


@pytest.mark.gpu
def test_varlen_on_gpu_equals_cpu() -> None:
    gpu = pick("cuda")
    torch.manual_seed(0)
    q, k, v = (torch.randn(96, heads, 64) for heads in (8, 2, 2))
    cu_seqlens = torch.tensor([0, 33, 34, 96], dtype=torch.int32)
    reference = CPU.varlen_attention(q, k, v, cu_seqlens, 62, True, 0.125)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        moved = [tensor.to(gpu.torch, dtype) for tensor in (q, k, v)]
        found = gpu.varlen_attention(*moved, cu_seqlens.to(gpu.torch), 62, True, 0.125)
        assert (found.float().cpu() - reference).abs().max() <= tolerance
