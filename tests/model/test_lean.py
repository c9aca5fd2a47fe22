"""Lean layers against the stock ones they are made of: the same results and gradients, less kept."""

from __future__ import annotations

import pytest
import torch
from helpers_model import kept_and_gradients, stock_twin, tiny_config, tiny_model
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from sailctl.core.device import pick
from sailctl.core.model.fused import Rotary
from sailctl.core.model.vlm import VisionLanguageModel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_lean_norm_is_the_stock_one_and_keeps_its_input_alone(dtype: torch.dtype, frozen: bool) -> None:
    torch.manual_seed(0)
    lean = tiny_model(llm="qwen2").llm.model.norm.to(dtype)
    nn.init.normal_(lean.weight)
    lean.requires_grad_(not frozen)
    rows, pull = (torch.randn(2, 30, lean.weight.numel()).to(dtype) for _ in range(2))
    sizes, found = kept_and_gradients(lean, rows * 3, pull)
    stock_sizes, expected = kept_and_gradients(stock_twin(lean), rows * 3, pull)
    whole = rows.numel()
    assert sizes.count(whole) == 1 and stock_sizes.count(whole) >= 2 - frozen
    # worst of 20 seeds, of the largest entry: 1.2e-7 in float32, 5.1e-3 (the last of eight bits) in bfloat16
    limit = 2e-6 if dtype == torch.float32 else 1.6e-2
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == dtype
        assert (one.float() - other.float()).abs().max() <= limit * other.float().abs().max()


def test_a_lean_norm_of_mixed_kinds_gives_what_the_stock_one_gives() -> None:
    lean = tiny_model(llm="qwen2").llm.model.norm
    rows = torch.randn(3, lean.weight.numel(), dtype=torch.bfloat16)
    found, expected = lean(rows), stock_twin(lean)(rows)
    assert found.dtype == expected.dtype == torch.float32  # weights are master weights, the input is not
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("wide", [16, 10])
def test_rotary_positions_are_those_of_transformers(wide: int) -> None:
    torch.manual_seed(0)
    angles = torch.randn(1, 7, wide // 2).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    heads, pull = torch.randn(1, 4, 7, wide), torch.randn(1, 4, 7, wide)
    one, other = heads.clone().requires_grad_(), heads.clone().requires_grad_()
    found = Rotary.apply(one, cos.unsqueeze(1), sin.unsqueeze(1))
    expected, _ = apply_rotary_pos_emb(other, other[:, :2], cos, sin)
    (found * pull).sum().backward()
    (expected * pull).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-6)


def test_autocast_keeps_one_copy_of_what_several_linear_layers_read() -> None:
    torch.manual_seed(0)
    lean = tiny_model(llm="qwen2").llm.model.layers[0].mlp
    rows, pull = torch.randn(2, 1, 30, lean.hidden_size)
    with pick("cpu").autocast(torch.bfloat16):
        sizes, found = kept_and_gradients(lean, rows, pull)
        stock_sizes, expected = kept_and_gradients(stock_twin(lean), rows, pull)
    assert (sizes.count(rows.numel()), stock_sizes.count(rows.numel())) == (1, 2)
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found, expected, strict=True):
        # worst of 20 seeds, of the largest entry: 2.6e-3
        assert (one - other).abs().max() <= 1e-2 * other.abs().max()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_wanted_rows_are_those_of_all_rows_and_so_are_gradients(kind: str, checkpointing: bool) -> None:
    torch.manual_seed(0)
    config = tiny_config(kind, "internvit")
    model = VisionLanguageModel(config, image_token_id=config.llm.vocab_size - 1).train()
    model.set_gradient_checkpointing(checkpointing)
    ids, positions = torch.arange(24) % 40, torch.cat([torch.arange(9), torch.arange(15)])
    pack = (ids, positions, torch.tensor([0, 9, 24], dtype=torch.int32), 15, None)
    wanted_N, pull = torch.tensor([3, 8, 9, 20]), torch.randn(4, config.llm.hidden_size)
    seen = []
    model.llm.model.layers[-1].mlp.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].shape[1]))

    def gradients(hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (hidden * pull).sum().backward()
        return {name: p.grad.clone() for name, p in model.llm.named_parameters() if p.grad is not None}

    whole = model.hidden(*pack)[wanted_N]
    expected = gradients(whole)
    assert set(seen) == {24}
    few = model.hidden(*pack, wanted_N=wanted_N)
    found = gradients(few)
    assert seen[-1] == 4 and few.shape == (4, config.llm.hidden_size)
    torch.testing.assert_close(few, whole, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # worst measured, of each gradient's largest entry: 5e-7
        assert (found[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-9, name


def test_no_wanted_row_is_no_error() -> None:
    config = tiny_config("qwen2", "internvit")
    model = VisionLanguageModel(config, image_token_id=config.llm.vocab_size - 1)
    pack = (torch.arange(5), torch.arange(5), torch.tensor([0, 5], dtype=torch.int32), 5, None)
    hidden = model.hidden(*pack, wanted_N=torch.empty(0, dtype=torch.long))
    assert hidden.shape == (0, config.llm.hidden_size)
    hidden.sum().backward()
    assert all(not p.grad.any() for p in model.llm.model.layers.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_lean_mlp_is_the_stock_one_bit_by_bit_and_keeps_less(kind: str) -> None:
    torch.manual_seed(0)
    lean = tiny_model(llm=kind).llm.model.layers[0].mlp
    rows = torch.linspace(-3, 3, 20 * lean.hidden_size).view(1, 20, -1)
    sizes, found = kept_and_gradients(lean, rows, rows)
    stock_sizes, expected = kept_and_gradients(stock_twin(lean), rows, rows)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    inner = 20 * lean.intermediate_size
    assert (sizes.count(inner), stock_sizes.count(inner)) == (2, 4)
