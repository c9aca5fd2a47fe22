"""Who runs the mathematics of a step: `Plain` is one process, or several under DDP. The loop only knows the protocol.

`zero.py` has the other one, DeepSpeed.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.loss import pack_loss
from sailctl.core.train.optim import Optimizers
from sailctl.core.train.world import World

if TYPE_CHECKING:
    from sailctl.core.data.packing import Pack
    from sailctl.core.device import Device
    from sailctl.core.model.vlm import VisionLanguageModel


class Backend(Protocol):
    """Forward and backward of a pack, the update, and what is to be saved. Every rank makes the same calls."""

    def backward(self, pack: Pack, loss_weight: float, *, last: bool = True) -> Tensor:
        """Add the gradients of the pack's loss divided by the step's global weight; return the pack's summed loss.

        A float32 scalar on the device, so that nobody waits for it yet. `last` says that no pack of this rank follows
        in this step.
        """
        ...

    def step(self, lr: float) -> float:
        """Clip the gradients of all ranks, update the parameters, drop the gradients.

        Returns the gradients' norm before clipping; where it is not finite, nothing is to be done any more.
        """
        ...

    def weights(self) -> dict[str, Tensor] | None:
        """Float32 weights by name on rank 0; None where the model itself holds them."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Optimiser state as named tensors, the same whatever the backend; complete on rank 0 alone."""
        ...

    def load_state(self, tensors: dict[str, Tensor], where: str) -> None:
        """Restore what `state` returned, of any backend and any number of ranks."""
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


class PackLoss(nn.Module):
    """The loss of a pack as a module's forward pass, for those who wrap modules."""

    def __init__(self, model: VisionLanguageModel, chunks: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.chunks = chunks

    def forward(self, pack: Pack) -> Tensor:
        """See `pack_loss`."""
        return pack_loss(self.model, pack) if self.chunks is None else pack_loss(self.model, pack, self.chunks)


def prepare(model: VisionLanguageModel, train: TrainConfig, device: Device) -> None:
    """Freeze what the recipe does not train, and what no loss reaches: the layers behind `select_layer`.

    What stays is reached by every pack (see `VisionLanguageModel.embed`), so every rank has every gradient.
    """
    model.freeze(list(train.trainable))
    model.set_gradient_checkpointing(train.gradient_checkpointing)
    with device.autocast(device.dtype(train.precision)):
        reached = _reached(_logits_of_a_token(model, device))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in reached)
    if train.compile:
        model.compile_layers()


class Plain:
    """One process a device: float32 master weights, autocast where the device's precision asks for it."""

    def __init__(
        self, model: VisionLanguageModel, train: TrainConfig, device: Device, world: World | None = None
    ) -> None:
        """Build the optimisers over what the recipe trains; UsageError when that is nothing."""
        prepare(model, train, device)
        self.model = model
        self.optimizers = Optimizers(model, train)
        self._device = device
        self._world = world or World(device)
        self._dtype = device.dtype(train.precision)
        self._grad_clip = train.grad_clip
        self._loss: Any = PackLoss(model)
        if self._world.size > 1:
            # a class token's gradient is laid out otherwise than the bucket; and the buffers are constants
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._loss = nn.parallel.DistributedDataParallel(
                self._loss,
                device_ids=None if device.kind == "cpu" else [device.torch],
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def backward(self, pack: Pack, loss_weight: float, *, last: bool = True) -> Tensor:
        """See `Backend.backward`."""
        with self._world.noticing(), nullcontext() if last or self._world.size == 1 else self._loss.no_sync():
            self.model.check_image_tokens(pack.input_ids_T, len(pack.tiles_IPHW))
            with self._autocast():
                loss = self._loss(pack.to(self._device.torch))
            # DDP takes the mean over ranks, and the step wants the sum
            (loss * (self._world.size / loss_weight)).backward()
        return loss.detach()

    def step(self, lr: float) -> float:
        """See `Backend.step`."""
        norm = torch.nn.utils.clip_grad_norm_(self.optimizers.parameters, self._grad_clip)
        self.optimizers.step(lr)
        return norm.item()

    def weights(self) -> None:
        """See `Backend.weights`."""
        return None

    def state(self) -> dict[str, Tensor]:
        """See `Backend.state`."""
        return self.optimizers.state()

    def load_state(self, tensors: dict[str, Tensor], where: str) -> None:
        """See `Backend.load_state`."""
        self.optimizers.load_state(tensors, where)

    def close(self) -> None:
        """See `Backend.close`."""
        self._loss = None

    def _autocast(self) -> AbstractContextManager[object]:
        return self._device.autocast(self._dtype)


def _logits_of_a_token(model: VisionLanguageModel, device: Device) -> Tensor:
    """The smallest forward pass: one token of text."""
    token = torch.zeros(1, dtype=torch.long, device=device.torch)
    bounds = torch.tensor([0, 1], dtype=torch.int32, device=device.torch)
    return model.lm_head(model.hidden(token, token, bounds, 1, None))


def _reached(result: Tensor) -> set[int]:
    """The ids of the parameters a result depends on, read off its graph."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [parent for parent, _ in node.next_functions]
    return found
