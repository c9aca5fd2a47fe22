"""Drawing the next token, each row of a batch from a seed and at a temperature of its own.

What a row draws depends on its logits and its seed alone, neither on its neighbours nor on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria


class Draw(LogitsProcessor):
    """Leaves a warm row only the token drawn for it; a row at temperature 0 stays as it is, for its best to be taken.

    One uniform number a token looks up its place in the cumulative probabilities: so the generators can live on the
    host, where they are the same for every device, and nothing as long as the vocabulary is drawn.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int]) -> None:
        self._rows = [row for row, temperature in enumerate(temperatures) if temperature > 0]
        self._temperatures = [temperatures[row] for row in self._rows]
        # 63 bits of a seed count: all that torch takes
        self._generators = [torch.Generator().manual_seed(seeds[row] % (1 << 63)) for row in self._rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, vocabulary) with all but the drawn token of each warm row at minus infinity."""
        if not self._rows:
            return scores
        rows = torch.tensor(self._rows, device=scores.device)
        warmth = torch.tensor(self._temperatures, device=scores.device)[:, None]
        uniform = torch.cat([torch.rand(1, generator=generator) for generator in self._generators])
        places = (scores[rows].float() / warmth).softmax(dim=-1).cumsum(dim=-1)
        # the last place is 1 but for rounding; a token without probability has its predecessor's place and is passed
        drawn = torch.searchsorted(places, uniform.to(scores.device)[:, None] * places[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        only = torch.full_like(scores[rows], float("-inf")).scatter_(1, drawn, 0.0)
        return scores.index_copy(0, rows, only)


class Abandon(StoppingCriteria):
    """Ends every row once somebody asks to stop."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """One bool a row."""
        return torch.full((input_ids.shape[0],), self._asked(), dtype=torch.bool, device=input_ids.device)
