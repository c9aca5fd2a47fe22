"""A pretend NPU: torch's PrivateUse1 device under the name `npu`, every tensor of it a shell around a CPU tensor.

It computes what the CPU computes, so results can be compared exactly, and is as strict as a device apart: operations
over tensors of both devices raise, tensors cross over by copies only, random numbers come from its own generators,
autocast has its own list, memory is counted, and so is every time the host has to wait for the device. `install()`
changes the whole process, so it belongs into one of its own.

Left out: storage sharing tricks (`resize_`, `set_`), `torch.Generator("npu")`, streams, collectives.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree as pytree

NAME, COUNT, TOTAL_MEMORY = "npu", 2, 1 << 34
_HALF = ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "conv2d", "scaled_dot_product_attention")
_FLOAT = (
    "layer_norm",
    "softmax.int",
    "log_softmax.int",
    "cross_entropy_loss",
    "nll_loss",
    "rsqrt",
    "pow.Tensor_Scalar",
)
_libraries: list[torch.library.Library] = []  # registrations live as long as these do


class Shell(torch.Tensor):
    """A tensor of the pretend device; `inside` is what it is made of."""

    inside: torch.Tensor
    hold: _Hold

    @staticmethod
    def __new__(cls, inside: torch.Tensor, index: int) -> Shell:
        shell = torch.Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=torch.device(NAME, index),
        )
        shell.inside = inside
        shell.hold = memory.hold(inside)
        return shell

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.inside!r} on {self.device}"

    def tolist(self) -> Any:
        """torch does not do this for subclasses."""
        waits["tolist"] += 1
        return self.inside.tolist()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(op, *args, **(kwargs or {}))


class _Hold:
    """Ends with its shell. The shell itself must bear no weak reference: tensors that do cannot be swapped."""


class Memory:
    """Bytes of the storages that shells hold."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._holders: Counter[int] = Counter()

    def hold(self, inside: torch.Tensor) -> _Hold:
        storage = inside.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        self._holders[key] += 1
        if self._holders[key] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)
        hold = _Hold()
        weakref.finalize(hold, self._release, key, size).atexit = False
        return hold

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.now -= size


memory = Memory()
waits: Counter[str] = Counter()  # operations that made the host wait for the device, by name
generators = [torch.Generator() for _ in range(COUNT)]


def execute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation on the insides, under the rules of a device apart."""
    name = op._schema.name.removeprefix("aten::")
    leaves = pytree.tree_leaves((args, kwargs))
    shells = [leaf for leaf in leaves if isinstance(leaf, Shell)]
    target = kwargs.get("device")
    target = None if target is None else torch.device(target)
    if shells:
        _refuse_mixtures(name, leaves, shells)
    if name in ("_local_scalar_dense", "item", "equal", "nonzero", "unique_dim", "_unique2", "masked_select"):
        waits[name] += 1  # the host reads a value, or a size that only the device knows
    if name in ("copy_", "_to_copy", "_copy_from") and shells and _lands_on_host(name, args, target):
        waits["copy to host"] += 1
    index = _index(target, shells)
    if kwargs.get("generator") is None and any(argument.name == "generator" for argument in op._schema.arguments):
        kwargs["generator"] = generators[index]
    owners = {id(shell.inside): shell for shell in shells}

    def unwrap(leaf: Any) -> Any:
        if isinstance(leaf, Shell):
            return leaf.inside
        return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == NAME else leaf

    inner_args, inner_kwargs = pytree.tree_map(unwrap, (args, kwargs))
    inner_kwargs.pop("pin_memory", None)
    result = op(*inner_args, **inner_kwargs)
    if _lands_on_host(name, args, target):
        return args[0] if name == "copy_" else result

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or isinstance(leaf, Shell):
            return leaf
        return owners.get(id(leaf)) if id(leaf) in owners else Shell(leaf, index)

    return pytree.tree_map(wrap, result)


def _refuse_mixtures(name: str, leaves: list[Any], shells: list[Shell]) -> None:
    hosts = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Shell) and leaf.ndim]
    places = {str(shell.device) for shell in shells} | ({"cpu"} if hosts else set())
    if len(places) > 1 and name not in ("copy_", "_copy_from", "_to_copy"):
        raise RuntimeError(f"aten::{name}: expected all tensors on one device, found {' and '.join(sorted(places))}")


def _lands_on_host(name: str, args: Any, target: torch.device | None) -> bool:
    if name == "copy_":
        return not isinstance(args[0], Shell)
    return target is not None and target.type != NAME


def _index(target: torch.device | None, shells: list[Shell]) -> int:
    if target is not None and target.type == NAME:
        return target.index if target.index is not None else backend.current
    return shells[0].device.index if shells else backend.current


class Backend:
    """`torch.npu`: what code reaches through the device's own module."""

    current = 0

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return COUNT

    def current_device(self) -> int:
        return self.current

    def set_device(self, device: Any) -> None:
        self.current = _number(device)

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, self.current = self.current, _number(device)
        yield
        self.current = before

    def manual_seed(self, seed: int) -> None:
        generators[self.current].manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        for generator in generators:
            generator.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return generators[_number(device)].get_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        generators[_number(device)].set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_bf16_supported(self) -> bool:
        return True

    def synchronize(self, device: Any = None) -> None:
        waits["synchronize"] += 1

    def empty_cache(self) -> None:
        pass

    def memory_allocated(self, device: Any = None) -> int:
        return memory.now

    def max_memory_allocated(self, device: Any = None) -> int:
        return memory.peak

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        memory.peak = memory.now

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        return SimpleNamespace(name="Pretend NPU", total_memory=TOTAL_MEMORY)

    def get_device_name(self, device: Any = None) -> str:
        return "Pretend NPU"


backend = Backend()


def _number(device: Any) -> int:
    if device is None:
        return backend.current
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return backend.current if index is None else index


def _copy_from(source: torch.Tensor, destination: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    inside = [tensor.inside if isinstance(tensor, Shell) else tensor for tensor in (source, destination)]
    if isinstance(source, Shell) and not isinstance(destination, Shell):
        waits["copy to host"] += 1
    inside[1].copy_(inside[0])
    return destination


def _allocator(op: Any) -> Callable[..., Shell]:
    """Allocations from C++ need a kernel of their own; the fallback does not reach them."""

    def allocate(*args: Any, device: Any = None, pin_memory: Any = None, **kwargs: Any) -> Shell:
        return Shell(op(*args, device=torch.device("cpu"), **kwargs), _number(device))

    return allocate


def _cast(op: Any, half: bool) -> Callable[..., Any]:
    """An operation under autocast: floating arguments in the list's type first."""

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME) if half else torch.float32

        def cast(leaf: Any) -> Any:
            fits = isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64
            return leaf.to(dtype) if fits and leaf.dtype != dtype else leaf

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            args, kwargs = pytree.tree_map(cast, (args, kwargs))
            return op(*args, **kwargs)

    return run


@functools.cache
def install() -> None:
    """Make `npu` a device of this process, before the product is imported; RuntimeError where torch cannot have one."""
    from torch.utils import backend_registration

    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        raise RuntimeError(f"torch {torch.__version__} has no Python backends")
    setup(NAME, backend_module=backend)
    torch.inference_mode = _inference_mode  # type: ignore[assignment,misc]
    # a parameter of a shell is another type of object; swapped in place, tied weights stay tied
    torch.__future__.set_swap_module_params_on_conversion(True)
    everything, autocast, aten = (torch.library.Library(name, "IMPL") for name in ("_", "_", "aten"))
    _libraries.extend((everything, autocast, aten))
    everything.fallback(lambda op, *args, **kwargs: execute(op, *args, **kwargs), "PrivateUse1")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    aten.impl("_copy_from", _copy_from, "PrivateUse1")
    for name in ("empty.memory_format", "empty_strided"):
        aten.impl(name, _allocator(_operator(name)), "PrivateUse1")
    for name in (*_HALF, *_FLOAT):
        aten.impl(name, _cast(_operator(name), name in _HALF), "AutocastPrivateUse1")


def _inference_mode(mode: bool = True) -> Any:
    """Shells of views cannot be inference tensors; without gradients they can be."""
    return torch.no_grad() if mode else contextlib.nullcontext()


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")
