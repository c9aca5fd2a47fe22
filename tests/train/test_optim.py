"""Who gets weight decay, who gets Muon, whose learning rate is scaled, and state by name."""

import pytest
import torch
from torch import nn

from sailctl.core.errors import CheckpointError, UsageError
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.optim import Optimizers, parameter_groups


class Toy(nn.Module):
    """The three modules with one parameter of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Module()
        self.vision.patch = nn.Conv2d(3, 4, 2)
        self.vision.position_embeddings = nn.Parameter(torch.randn(1, 5, 4))
        self.vision.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.projector = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
        self.llm = nn.Module()
        self.llm.embed_tokens = nn.Embedding(7, 4)
        self.llm.layer = nn.Linear(4, 4, bias=False)
        self.llm.lm_head = nn.Linear(4, 7, bias=False)

    def loss(self) -> torch.Tensor:
        return sum(
            (parameter * torch.arange(parameter.numel()).view_as(parameter)).sin().sum()
            for parameter in self.parameters()
        )


def table(model: nn.Module, train: TrainConfig) -> dict[str, tuple[str, bool]]:
    return {name: (group.kind, group.decay) for group in parameter_groups(model, train) for name in group.parameters}


def test_decay_and_muon_reach_exactly_these() -> None:
    torch.manual_seed(0)
    assert table(Toy(), TrainConfig(optimizer="muon")) == {
        "vision.position_embeddings": ("adamw", False),
        "vision.cls_token": ("adamw", False),
        "vision.patch.weight": ("adamw", True),
        "vision.patch.bias": ("adamw", False),
        "projector.0.weight": ("adamw", False),
        "projector.0.bias": ("adamw", False),
        "projector.1.weight": ("muon", True),
        "projector.1.bias": ("adamw", False),
        "llm.embed_tokens.weight": ("adamw", False),
        "llm.layer.weight": ("muon", True),
        "llm.lm_head.weight": ("adamw", True),
    }
    assert {kind for kind, _ in table(Toy(), TrainConfig()).values()} == {"adamw"}


def test_frozen_parameters_are_in_no_group() -> None:
    model = Toy()
    model.vision.requires_grad_(False)
    model.llm.requires_grad_(False)
    assert {name.split(".")[0] for name in table(model, TrainConfig())} == {"projector"}
    model.projector.requires_grad_(False)
    with pytest.raises(UsageError, match="leaves no parameter to train"):
        Optimizers(model, TrainConfig(trainable=[]))


def test_a_module_trains_at_its_own_rate() -> None:
    torch.manual_seed(0)
    model = Toy()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers = Optimizers(model, TrainConfig(lr_scale={"vision": 0.1, "llm": 0.0}))
    model.loss().backward()
    optimizers.step(1e-2)
    # AdamW's first step is lr times the gradient's sign.
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in model.named_parameters()}
    assert moved["projector.1.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["vision.patch.weight"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["llm.layer.weight"] == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_by_name_continues_bit_for_bit(optimizer: str) -> None:
    train = TrainConfig(optimizer=optimizer, weight_decay=0.1)

    def steps(model: Toy, optimizers: Optimizers, count: int) -> None:
        for _ in range(count):
            model.loss().backward()
            optimizers.step(1e-2)

    torch.manual_seed(0)
    straight, broken = Toy(), Toy()
    broken.load_state_dict(straight.state_dict())
    first, second = Optimizers(straight, train), Optimizers(broken, train)
    steps(straight, first, 4)
    steps(broken, second, 2)
    again = Toy()
    again.load_state_dict(broken.state_dict())
    third = Optimizers(again, train)
    third.load_state(second.state(), "here")
    steps(again, third, 2)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))


def test_state_that_does_not_fit_is_refused() -> None:
    model = Toy()
    optimizers = Optimizers(model, TrainConfig())
    model.loss().backward()
    optimizers.step(1e-2)
    state = optimizers.state()
    model.vision.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"step-1: .* 11 parameters does not fit the 7 trainable ones; 4 are not"):
        Optimizers(model, TrainConfig()).load_state(state, "step-1")
    wrong = {**optimizers.state(), "exp_avg:llm.layer.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"exp_avg:llm.layer.weight has shape \(2, 2\), the parameter \(4, 4\)"):
        optimizers.load_state(wrong, "step-1")


def test_muon_without_torch_support_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UsageError, match=r"needs torch 2\.9 or newer"):
        Optimizers(Toy(), TrainConfig(optimizer="muon"))
