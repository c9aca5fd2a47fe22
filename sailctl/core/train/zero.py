"""DeepSpeed as the backend: ZeRO 0 to 3, float32 or bf16, optimiser (and, under ZeRO 3, parameters) offloaded or not.

What is saved is what the plain backend saves: whole float32 weights and optimiser tensors by parameter name. DeepSpeed
keeps them flattened and cut up between ranks; here they are put together for the checkpoint, and cut up again from it,
without rounding. So nothing of DeepSpeed's own format ever reaches a disk.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sailctl.core.errors import MissingExtra
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.backend import PackLoss, prepare
from sailctl.core.train.loss import CHUNK
from sailctl.core.train.optim import Optimizers
from sailctl.core.train.world import World

if TYPE_CHECKING:
    from sailctl.core.data.packing import Pack
    from sailctl.core.device import Device
    from sailctl.core.model.vlm import VisionLanguageModel

_MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeed:
    """The model under DeepSpeed; see `Backend` for what its methods mean.

    With bf16 the arithmetic is DeepSpeed's own: bf16 parameters, gradients summed and weights kept in float32. Under
    stage 0 nothing is spread and the arithmetic is the plain backend's.
    """

    def __init__(
        self, model: VisionLanguageModel, train: TrainConfig, device: Device, world: World, *, pack_tokens: int
    ) -> None:
        """Hand model and optimiser to DeepSpeed. MissingExtra where it is not installed."""
        from sailctl.core.model.weights import own_tensors

        deepspeed = _import(device)
        world.needs_group()
        prepare(model, train, device)
        self.model, self.optimizers = model, Optimizers(model, train)
        self._device, self._world, self._stage, self._grad_clip = device, world, train.zero_stage, train.grad_clip
        bf16 = device.dtype(train.precision) == torch.bfloat16
        self._autocast_dtype = torch.bfloat16 if bf16 and not self._stage else torch.float32
        self._parameters = {name: p for group in self.optimizers.groups for name, p in group.parameters.items()}
        # DeepSpeed rounds the weights to bf16 before it copies its float32 ones from them; these set that right, and
        # what is not trained is saved as it came.
        tensors = own_tensors(model)
        kept = {
            name: value.detach().to("cpu", copy=True)
            for name, value in tensors.items()
            if name not in self._parameters or bf16
        }
        chunks = -(-pack_tokens // CHUNK) if self._stage == 3 else None
        with _quiet():
            deepspeed.init_distributed(dist_backend=device.collective_backend, auto_mpi_discovery=False, verbose=False)
            self._engine = deepspeed.initialize(
                model=PackLoss(model, chunks),
                optimizer=self.optimizers.adamw,
                config=_config(train, bf16=bf16 and bool(self._stage), whole=10 * model.config.llm.hidden_size),
            )[0]
        if self._stage and bf16:
            for name, parameter in self._parameters.items():
                self._set(parameter, kept[name], None)
        self._order = list(tensors)
        self._frozen = {name: value for name, value in kept.items() if name not in self._parameters}
        if not world.is_first:
            self._frozen.clear()

    def backward(self, pack: Pack, loss_weight: float, *, last: bool = True) -> Tensor:
        """See `Backend.backward`."""
        with self._world.noticing():
            self.model.check_image_tokens(pack.input_ids_T, len(pack.tiles_IPHW))
            self._engine.set_gradient_accumulation_boundary(last)
            with self._device.autocast(self._autocast_dtype):
                loss = self._engine(pack.to(self._device.torch))
            # DeepSpeed takes the mean over ranks, and the step wants the sum
            self._engine.backward(loss * (self._world.size / loss_weight))
        return loss.detach()

    def step(self, lr: float) -> float:
        """See `Backend.step`."""
        self.optimizers.set_lr(lr)
        with self._world.noticing():
            if not self._stage:
                norm: Any = torch.nn.utils.clip_grad_norm_(self.optimizers.parameters, self._grad_clip)
                self._engine.step()
            else:
                self._engine.step()
                norm = self._engine.get_global_grad_norm()
        norm = float(norm)
        return norm if norm >= 0 else float("nan")  # DeepSpeed's -1 is a norm that is no number

    def weights(self) -> dict[str, Tensor] | None:
        """See `Backend.weights`."""
        own = {name: self._get(parameter, None) for name, parameter in self._parameters.items()}
        if not self._world.is_first:
            return None
        return {name: own[name] if name in own else self._frozen[name] for name in self._order}

    def state(self) -> dict[str, Tensor]:
        """See `Backend.state`."""
        if not self._stage:
            return self.optimizers.state()
        steps = next((state["step"] for state in map(self._state_of, self._flat()) if "step" in state), None)
        if steps is None:
            return {}
        self._link()
        tensors = {}
        for name, parameter in self._parameters.items():
            for what in _MOMENTS:
                tensors[f"{what}:{name}"] = self._get(parameter, what)
            tensors[f"step:{name}"] = steps.detach().to("cpu", copy=True).reshape(())
        return tensors

    def load_state(self, tensors: dict[str, Tensor], where: str) -> None:
        """See `Backend.load_state`.

        One step count serves all parameters: every step reaches all of them.
        """
        if not self._stage:
            self.optimizers.load_state(tensors, where)
            return
        by_parameter = self.optimizers.sort_state(tensors, where)
        if not by_parameter:
            return
        steps = max(state["step"] for state in by_parameter.values())
        fused = self.optimizers.adamw.defaults["fused"]
        for flat in self._flat():
            self._state_of(flat).update(
                step=steps.to(torch.float32, copy=True).reshape(()).to(flat.device if fused else "cpu"),
                **{what: torch.zeros_like(flat) for what in _MOMENTS},
            )
        self._link()
        for name, parameter in self._parameters.items():
            for what in _MOMENTS:
                if name in by_parameter:
                    self._set(parameter, by_parameter[name][what], what)

    def close(self) -> None:
        """See `Backend.close`."""
        with _quiet():
            self._engine.destroy()

    # --- whole tensors in and out of DeepSpeed's pieces ------------------------------------------------------------

    def _flat(self) -> list[Tensor]:
        """This rank's flattened float32 pieces, which are what the torch optimiser steps."""
        optimizer = self._engine.optimizer
        if self._stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        return [flat for group in self.optimizers.adamw.param_groups for flat in group["params"]]

    def _link(self) -> None:
        """Let DeepSpeed look for its parameters' moments again.

        It does so once, when the first of the groups has made its first step and the others have no moments yet.
        """
        if self._stage < 3:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _state_of(self, flat: Tensor) -> dict[str, Any]:
        return self.optimizers.adamw.state[flat]

    def _get(self, parameter: torch.nn.Parameter, what: str | None) -> Tensor:
        """A whole weight (None) or moment on the CPU, put together by all ranks; kept on rank 0 alone."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if not self._stage:
            whole = parameter
        elif what is None:
            whole = safe_get_full_fp32_param(parameter)
        else:
            whole = safe_get_full_optimizer_state(parameter, what)
        return whole.detach().to("cpu", copy=True) if self._world.is_first else torch.empty(0)

    def _set(self, parameter: Any, value: Tensor, what: str | None) -> None:
        """Put this rank's piece of a whole tensor in its place."""
        from deepspeed import utils

        if self._stage < 3:
            if what is None:
                utils.safe_set_full_fp32_param(parameter, value)
            else:
                utils.safe_set_full_optimizer_state(parameter, value, what)
            return
        # not its "full" setters, which fail where the ranks do not divide the number of elements
        length, rank = parameter.ds_tensor.ds_numel, self._world.rank
        piece = torch.zeros(length, dtype=value.dtype)
        own = value.flatten()[length * rank : length * (rank + 1)]
        piece[: own.numel()] = own
        if what is None:
            utils.safe_set_local_fp32_param(parameter, piece)
        else:
            utils.safe_set_local_optimizer_state(parameter, piece, what)


def _config(train: TrainConfig, *, bf16: bool, whole: int) -> dict[str, Any]:
    """Parameters of at most `whole` elements are not spread by stage 3 (norms and biases: transformers' own choice)."""
    zero: dict[str, Any] = {"stage": train.zero_stage, "stage3_param_persistence_threshold": whole}
    if train.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
        if train.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # a pack; how many make a step is said before each
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.grad_clip if train.zero_stage else 0.0,
        "bf16": {"enabled": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def _import(device: Device) -> ModuleType:
    os.environ.setdefault("DS_ACCELERATOR", device.kind)
    with _quiet(), contextlib.redirect_stdout(sys.stderr):  # its log stays where standard output is now
        try:
            import deepspeed
            from deepspeed.ops import __compatible_ops__
        except ImportError as error:
            raise MissingExtra("deepspeed", "deepspeed") from error
    if device.kind == "cpu":
        # Shared-memory collectives, for inference only: building them takes a compiler, and leaves files in /dev/shm.
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Show DeepSpeed's warnings alone, on standard error, and none of what it prints: standard output has results."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # what it calls has newer names in newer versions of torch
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
