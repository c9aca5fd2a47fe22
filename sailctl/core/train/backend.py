"""Who runs the mathematics of a step: `Plain` is one process. The loop only knows the protocol."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.loss import pack_loss
from sailctl.core.train.optim import Optimizers

if TYPE_CHECKING:
    from sailctl.core.data.packing import Pack
    from sailctl.core.device import Device
    from sailctl.core.model.vlm import VisionLanguageModel


class Backend(Protocol):
    """Forward and backward of a pack, the norm of the gradients, the update, and the state to be saved."""

    def backward(self, pack: Pack, loss_weight: float) -> float:
        """Add the gradients of the pack's loss divided by the step's global weight; return the pack's summed loss."""
        ...

    def clip(self) -> float:
        """Clip the gathered gradients and return their norm before clipping."""
        ...

    def step(self, lr: float) -> None:
        """Update the parameters and drop the gradients."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Optimiser state as named tensors."""
        ...

    def load_state(self, tensors: dict[str, Tensor], where: str) -> None:
        """Restore what `state` returned."""
        ...


class Plain:
    """One process on one device: float32 master weights, autocast where the device's precision asks for it."""

    def __init__(self, model: VisionLanguageModel, train: TrainConfig, device: Device) -> None:
        """Freeze what the recipe does not train and build the optimisers over the rest."""
        model.freeze(list(train.trainable))
        model.set_gradient_checkpointing(train.gradient_checkpointing)
        self.model = model
        self.optimizers = Optimizers(model, train)
        self._device = device
        self._dtype = device.dtype(train.precision)
        self._grad_clip = train.grad_clip

    def backward(self, pack: Pack, loss_weight: float) -> float:
        """See `Backend.backward`."""
        with self._autocast():
            loss = pack_loss(self.model, pack.to(self._device.torch))
        if loss.requires_grad:  # a pack without images teaches a projector nothing
            (loss / loss_weight).backward()
        return loss.item()

    def clip(self) -> float:
        """See `Backend.clip`."""
        return torch.nn.utils.clip_grad_norm_(self.optimizers.parameters, self._grad_clip).item()

    def step(self, lr: float) -> None:
        """See `Backend.step`."""
        self.optimizers.step(lr)

    def state(self) -> dict[str, Tensor]:
        """See `Backend.state`."""
        return self.optimizers.state()

    def load_state(self, tensors: dict[str, Tensor], where: str) -> None:
        """See `Backend.load_state`."""
        self.optimizers.load_state(tensors, where)

    def _autocast(self) -> AbstractContextManager[object]:
        return self._device.autocast(self._dtype)
