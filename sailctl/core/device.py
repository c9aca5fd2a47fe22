"""cpu, cuda and npu behind one interface: dtype, autocast, seeds, memory, collectives, varlen attention, peak FLOP/s.

The only file of the project that names an accelerator's own module. Kernels are chosen by what is there: flash-attn,
torch's varlen attention, the NPU's fused attention, and SDPA one document at a time everywhere else.

Shapes: T packed tokens, H query heads, K key/value heads, D head width; THD = (T, H, D).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
import os
import platform
import random
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch import dtype as DType
from torch.nn import functional as F

from sailctl.core.datasheet import data_sheet
from sailctl.core.errors import UsageError

Precision = Literal["auto", "fp32", "bf16"]

_COLLECTIVES = {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}
_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}


def _load_npu() -> ModuleType | None:
    """`torch.npu`, once its extension is imported; None where there is none or it cannot be used."""
    if not hasattr(torch, "npu"):
        if importlib.util.find_spec("torch_npu") is None:
            return None
        # without the vendor's driver libraries the import itself fails, with whatever the loader raises
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            importlib.import_module("torch_npu")
    return getattr(torch, "npu", None)


def _backend(kind: str) -> Any:
    """The torch module of an accelerator: `torch.cuda` or `torch.npu`."""
    return _load_npu() if kind == "npu" else torch.cuda


def _available(kind: str) -> bool:
    if kind == "cpu":
        return True
    module = _backend(kind)
    return module is not None and bool(module.is_available())


def pick(name: str = "auto", local_rank: int | None = None) -> Device:
    """Choose a device by name: `auto` (npu, cuda, cpu by availability), `cpu`, `cuda`, `cuda:1`, `npu`, `npu:3`.

    One of several processes on this machine gives its `local_rank` and gets an accelerator of its own. Raises
    UsageError for an unknown name and for a device this machine does not have.
    """
    if name == "auto":
        kind = next(kind for kind in ("npu", "cuda", "cpu") if _available(kind))
        if local_rank is None or kind == "cpu":
            return Device(kind, torch.device(kind))
        name = kind
    if local_rank is not None and name in ("cuda", "npu") and _available(name):
        # a launcher that binds each process to its own device shows it that one alone
        name = f"{name}:{local_rank if _backend(name).device_count() > 1 else 0}"
    kind, _, index = name.partition(":")
    if kind not in _COLLECTIVES or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N, npu or npu:N")
    if not _available(kind):
        raise UsageError(f"--device {name}: no {kind} device on this machine; use --device cpu")
    if index and int(index) >= _backend(kind).device_count():
        raise UsageError(
            f"--device {name}: this machine has {_backend(kind).device_count()} {kind} device(s), counted from 0"
        )
    return Device(kind, torch.device(name))


def device_of(tensor: torch.Tensor) -> Device:
    """The Device a tensor lives on."""
    return Device(tensor.device.type, tensor.device)


@dataclass(frozen=True)
class Device:
    """One device. `kind` is cpu, cuda or npu; `torch` is what tensors are moved to."""

    kind: str
    torch: torch.device

    def dtype(self, precision: Precision = "auto") -> DType:
        """The compute dtype: auto is bf16 on accelerators and fp32 on CPU (few CPUs have bf16 units)."""
        if precision == "auto":
            return torch.float32 if self.kind == "cpu" else torch.bfloat16
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]

    def autocast(self, dtype: DType) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision in `dtype`; nothing at all for fp32."""
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device_type=self.kind, dtype=dtype)

    def use(self) -> None:
        """Make this the process' current device, which collectives and kernels go to."""
        if self.kind != "cpu":
            _backend(self.kind).set_device(self.torch)

    def seed(self, seed: int) -> None:
        """Seed Python's, torch's CPU and this device's generators; 63 bits of the seed count, all that torch takes."""
        seed %= 1 << 63
        random.seed(seed)
        torch.manual_seed(seed)
        if self.kind != "cpu":
            _backend(self.kind).manual_seed_all(seed)

    def rng_state(self) -> dict[str, Tensor]:
        """The states of torch's CPU generator and of this device's, as uint8 tensors."""
        state = {"cpu": torch.get_rng_state()}
        if self.kind != "cpu":
            state[self.kind] = _backend(self.kind).get_rng_state(self.torch)
        return state

    def set_rng_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rng_state` returned; a generator that the state does not know is left alone."""
        torch.set_rng_state(state["cpu"].cpu())
        if self.kind in state and self.kind != "cpu":
            _backend(self.kind).set_rng_state(state[self.kind].cpu(), self.torch)

    @contextlib.contextmanager
    def forked_rng(self, seed: int) -> Iterator[None]:
        """Draw from `seed` inside, and leave the generators outside as they were."""
        state, python_state = self.rng_state(), random.getstate()
        self.seed(seed)
        try:
            yield
        finally:
            self.set_rng_state(state)
            random.setstate(python_state)

    def synchronize(self) -> None:
        """Wait for the device to finish what was queued."""
        if self.kind != "cpu":
            _backend(self.kind).synchronize(self.torch)

    def memory_allocated(self) -> int:
        """Bytes held by tensors on this device; on CPU the resident size of the process."""
        if self.kind != "cpu":
            return int(_backend(self.kind).memory_allocated(self.torch))
        try:
            with open("/proc/self/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # no procfs (macOS): the high-water mark is the best there is
            return self.max_memory_allocated()

    def max_memory_allocated(self) -> int:
        """The most bytes held so far; on CPU the process' peak resident size."""
        if self.kind != "cpu":
            return int(_backend(self.kind).max_memory_allocated(self.torch))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes

    def total_memory(self) -> int:
        """Bytes of memory this device has."""
        if self.kind != "cpu":
            return int(_backend(self.kind).get_device_properties(self.torch).total_memory)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def name(self) -> str:
        """The device's product name, such as "NVIDIA H100 80GB HBM3"."""
        if self.kind != "cpu":
            return str(_backend(self.kind).get_device_name(self.torch))
        return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"

    def visible(self) -> tuple[str, int]:
        """The environment variable naming the devices of this kind a process may see, and how many this one sees."""
        return ("", 1) if self.kind == "cpu" else (_VISIBLE[self.kind], _backend(self.kind).device_count())

    @property
    def collective_backend(self) -> str:
        """The name torch.distributed knows this device's collectives by: nccl, hccl or gloo."""
        return _COLLECTIVES[self.kind]

    def peak_flops(self, dtype: DType) -> float | None:
        """Dense peak FLOP/s of the device in bf16 or fp16; None where no data sheet is known."""
        if self.kind == "cpu" or dtype not in (torch.bfloat16, torch.float16):
            return None
        sheet = data_sheet(self.name())
        return None if sheet is None else sheet.peak_bf16

    def gemm_flops(self, dtype: DType, *, again: bool = False) -> float:
        """FLOP/s of a large square product in `dtype`, measured once a process: what a step could reach at best here.

        Takes a fraction of a second; draws nothing from the random generators and leaves no trace in peak memory.
        `again` measures anew, for where the machine was busy the first time.
        """
        if again:
            _gemm_flops.cache_clear()
        return _gemm_flops(self, dtype, torch.get_num_threads() if self.kind == "cpu" else 0)

    def varlen_attention(
        self,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        causal: bool,
        scale: float,
        bounds: list[int] | None = None,
    ) -> Tensor:
        """Attention inside each document of a pack, never across: (T, H, D) out.

        `cu_seqlens` (documents + 1, int32) holds the documents' bounds, `bounds` (see `host_bounds`) the same as
        numbers where they are at hand; H is a multiple of K (grouped queries). No T x T mask exists on any path.
        """
        half = q_THD.dtype in (torch.bfloat16, torch.float16)
        if self.kind == "cuda" and half and _flash_attn() is not None:
            return _flash_attn()(
                q_THD, k_TKD, v_TKD, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, softmax_scale=scale, causal=causal
            )
        if self.kind == "cuda" and half and _torch_varlen() is not None:
            return _torch_varlen_attention(q_THD, k_TKD, v_TKD, cu_seqlens, max_seqlen, causal, scale)
        if self.kind == "npu" and half and importlib.util.find_spec("torch_npu") is not None:
            return _npu_attention(q_THD, k_TKD, v_TKD, bounds or cu_seqlens.tolist(), causal, scale)
        return _sdpa_per_document(q_THD, k_TKD, v_TKD, bounds or cu_seqlens.tolist(), causal, scale)

    def host_bounds(self, cu_seqlens: Tensor) -> list[int] | None:
        """Documents' bounds as numbers, read once a pack; None on cuda, whose kernels read them on the device."""
        return None if self.kind == "cuda" else cu_seqlens.tolist()


@functools.cache
def _gemm_flops(device: Device, dtype: DType, threads: int) -> float:
    side, repeats = (768, 1) if device.kind == "cpu" else (8192, 4)
    small = torch.randn(side // 8, side // 8, generator=torch.Generator().manual_seed(0))  # zeros would run too fast
    matrix = small.repeat(8, 8).to(device.torch, dtype)
    best = float("inf")
    for _ in range(5):  # the first warms up
        device.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            matrix @ matrix
        device.synchronize()
        best = min(best, (time.perf_counter() - start) / repeats)
    del matrix
    if device.kind != "cpu":
        _backend(device.kind).reset_peak_memory_stats(device.torch)
    return 2 * side**3 / best


def _sdpa_per_document(
    q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, bounds: list[int], causal: bool, scale: float
) -> torch.Tensor:
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    grouped = q_THD.shape[1] != k_TKD.shape[1]
    documents = []
    for q, k, v in zip(q_THD.split(lengths), k_TKD.split(lengths), v_TKD.split(lengths), strict=True):
        out_1HLD = F.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),
            k.transpose(0, 1).unsqueeze(0),
            v.transpose(0, 1).unsqueeze(0),
            is_causal=causal,
            scale=scale,
            enable_gqa=grouped,
        )
        documents.append(out_1HLD.squeeze(0).transpose(0, 1))
    return torch.cat(documents)


@functools.cache
def _flash_attn() -> Any:
    """`flash_attn_varlen_func`, or None where flash-attn is not installed or does not fit this torch."""
    try:
        return importlib.import_module("flash_attn").flash_attn_varlen_func
    except (ImportError, OSError, AttributeError):
        return None


@functools.cache
def _torch_varlen() -> Any:
    """torch's own varlen attention (torch >= 2.10), or None."""
    try:
        return importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None


def _torch_varlen_attention(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, cu_seqlens: Tensor, max_seqlen: int, causal: bool, scale: float
) -> Tensor:
    groups = q_THD.shape[1] // k_TKD.shape[1]
    if groups > 1:  # repeated rather than `enable_gqa`, which not every torch with this kernel has
        k_TKD, v_TKD = k_TKD.repeat_interleave(groups, dim=1), v_TKD.repeat_interleave(groups, dim=1)
    window = (-1, 0) if causal else (-1, -1)
    return _torch_varlen()(
        q_THD, k_TKD, v_TKD, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=scale, window_size=window
    )


def _npu_attention(
    q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, bounds: list[int], causal: bool, scale: float
) -> torch.Tensor:
    ends = bounds[1:]
    # causal by the kernel's compressed form: sparse mode 3 takes one fixed 2048 x 2048 triangle, whatever T is
    triangle = torch.ones(2048, 2048, dtype=torch.bool, device=q_THD.device).triu(1) if causal else None
    return importlib.import_module("torch_npu").npu_fusion_attention(
        q_THD,
        k_TKD,
        v_TKD,
        q_THD.shape[1],
        input_layout="TND",
        scale=scale,
        atten_mask=triangle,
        sparse_mode=3 if causal else 0,
        actual_seq_qlen=ends,
        actual_seq_kvlen=ends,
    )[0]
