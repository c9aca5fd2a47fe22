"""InternViT's lean layers against the stock ones they are made of: the same results and gradients, less kept."""

from __future__ import annotations

import pytest
import torch
from helpers_model import kept_and_gradients, stock_twin, tiny_model
from torch import Tensor, nn

from sailctl.core.device import pick
from sailctl.core.model import fused
from sailctl.core.model.vision import layers_of


def lean_layer(seed: int) -> nn.Module:
    """A layer of a tower with weights, biases and layer scales of everyday sizes."""
    layer = layers_of(tiny_model(vision="internvit").vision)[0].train()
    torch.manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def width(layer: nn.Module) -> int:
    return layer.get_parameter("lambda_1").numel()


def learn(module: nn.Module, rows: Tensor, pull: Tensor) -> tuple[list[int], dict[str, Tensor]]:
    """`kept_and_gradients` by name, without the bias of the keys: softmax does not see it, its gradient is noise."""
    sizes, found = kept_and_gradients(module, rows, pull)
    names = ["output", "rows", *(name for name, p in module.named_parameters() if p.requires_grad)]
    by_name = dict(zip(names, (tensor.detach().clone() for tensor in found), strict=True))
    by_name.pop("attention.k_proj.bias", None)
    return sizes, by_name


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, as a share of the largest entry of what it differs from."""
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == tensor.dtype for name, tensor in expected.items())
    return max(float((found[name] - tensor).abs().max() / tensor.abs().max()) for name, tensor in expected.items())


@pytest.mark.parametrize("rows_at_once", [3, 512])
def test_a_lean_layer_is_the_stock_one_and_keeps_less(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ROWS_OF_A_THREAD", rows_at_once)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    lean = lean_layer(0)
    rows, pull = torch.randn(2, 4, 17, width(lean))
    sizes, found = learn(lean, rows, pull)
    stock_sizes, expected = learn(stock_twin(lean), rows, pull)
    # worst of 20 seeds: 1.3e-6
    assert worst(found, expected) <= 1e-5
    inner = rows[..., 0].numel() * lean.get_parameter("mlp.fc1.bias").numel()
    assert (sizes.count(inner), stock_sizes.count(inner)) == (1, 2)
    assert sizes.count(rows.numel()) == stock_sizes.count(rows.numel()) - 2  # what the layer scales would multiply


def test_a_lean_layer_under_autocast_is_as_near_to_float32_as_the_stock_one() -> None:
    lean = lean_layer(1)
    rows, pull = torch.randn(2, 4, 17, width(lean))
    _, exact = learn(lean, rows, pull)
    lean.zero_grad()
    with pick("cpu").autocast(torch.bfloat16):
        _, found = learn(lean, rows, pull)
        _, expected = learn(stock_twin(lean), rows, pull)
    assert found["output"].dtype == torch.float32  # the residual stream
    # worst of 20 seeds: 3.5e-2 lean, 3.6e-2 stock
    assert worst(found, exact) <= 0.1 and worst(expected, exact) <= 0.1


@pytest.mark.parametrize("learns", ["mlp.fc1", "mlp.fc2.bias", "lambda_2", "nothing"])
def test_a_partly_frozen_layer_has_the_gradients_of_what_learns_alone(learns: str) -> None:
    lean = lean_layer(2)
    for name, parameter in lean.named_parameters():
        parameter.requires_grad_(name.startswith(learns))
    rows, pull = torch.randn(2, 4, 17, width(lean))
    _, found = learn(lean, rows, pull)
    _, expected = learn(stock_twin(lean), rows, pull)
    assert worst(found, expected) <= 1e-5
    assert all((p.grad is not None) == p.requires_grad for p in lean.parameters())


def test_layers_in_bfloat16_stay_in_it() -> None:
    lean = lean_layer(3).to(torch.bfloat16)
    rows, pull = torch.randn(2, 4, 17, width(lean)).to(torch.bfloat16)
    _, found = learn(lean, rows, pull)
    _, expected = learn(stock_twin(lean), rows, pull)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert worst(found, expected) <= 0.1  # worst of 20 seeds: 2.1e-2
