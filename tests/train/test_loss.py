"""The chunked loss against the one that holds all logits, by value and by every gradient."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sailctl.core.train.loss import supervised_loss


class Head(nn.Module):
    """An output layer that records how many rows of logits it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 50, bias=False)
        self.rows: list[int] = []

    def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
        self.rows.append(hidden.shape[0])
        return self.head(hidden)


@pytest.mark.parametrize("chunk", [1, 7, 30, 31, 4096])
def test_chunks_change_neither_loss_nor_gradients(chunk: int) -> None:
    torch.manual_seed(0)
    model = Head()
    hidden_TD = torch.randn(64, 16, requires_grad=True)
    index_N, targets_N, weights_N = torch.randperm(64)[:31], torch.randint(50, (31,)), torch.rand(31)

    expected = (cross_entropy(model.head(hidden_TD[index_N]), targets_N, reduction="none") * weights_N).sum()
    wanted = torch.autograd.grad(expected, [hidden_TD, model.head.weight])
    loss = supervised_loss(model, hidden_TD[index_N], targets_N, weights_N, chunk=chunk)
    found = torch.autograd.grad(loss, [hidden_TD, model.head.weight])

    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max()
    assert max(model.rows) <= chunk
    # One chunk is not recomputed; several are, once each.
    assert sum(model.rows) == (31 if chunk >= 31 else 62)
