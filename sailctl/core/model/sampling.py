"""The next token, again and again: the decoding loop, and how each row of a batch draws from a seed of its own.

What a row draws depends on its logits and its seed alone, neither on its neighbours nor on the device. A row that has
ended is taken out of the batch, so that one that goes on and on holds nobody up.

Shapes: B rows still open, S positions of the prompts (padded on the left), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import DynamicCache

CLEAR_SHARE = 0.125  # of the rows in a batch: once so many have ended they are taken out, which copies the cache


class Draw:
    """Chooses the next token of each row: the best at temperature 0, above that one drawn from the row's seed.

    One uniform number a token looks up its place in the cumulative probabilities: so the generators can live on the
    host, where they are the same for every device, and nothing as long as the vocabulary is drawn.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int]) -> None:
        # 63 bits of a seed count: all that torch takes
        self._warm = {
            row: (temperature, torch.Generator().manual_seed(seeds[row] % (1 << 63)))
            for row, temperature in enumerate(temperatures)
            if temperature > 0
        }

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the present ones alone."""
        self._warm = {new: self._warm[old] for new, old in enumerate(rows) if old in self._warm}

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Tokens (B,) for scores (B, vocabulary)."""
        best = scores.argmax(dim=-1)
        if not self._warm:
            return best
        rows = torch.tensor(list(self._warm), device=scores.device)
        warmth = torch.tensor([temperature for temperature, _ in self._warm.values()], device=scores.device)[:, None]
        uniform = torch.cat([torch.rand(1, generator=generator) for _, generator in self._warm.values()])
        places = (scores[rows].float() / warmth).softmax(dim=-1).cumsum(dim=-1)
        # the last place is 1 but for rounding; a token without probability has its predecessor's place and is passed
        drawn = torch.searchsorted(places, uniform.to(scores.device)[:, None] * places[:, -1:], right=True)
        return best.index_copy(0, rows, drawn.clamp(max=scores.shape[-1] - 1)[:, 0])


@torch.inference_mode()
def decode(
    llm: Any,
    embeddings_BSD: torch.Tensor,
    mask_BS: torch.Tensor,
    *,
    max_new_tokens: int,
    stops: Collection[int],
    draw: Draw,
    abandon: Callable[[], bool] = lambda: False,
) -> list[list[int]]:
    """New token ids of each row, up to a stop token, which is among them, or to `max_new_tokens`.

    When `abandon`, asked after every token, says so, rows end where they are.
    """
    rows: list[list[int]] = [[] for _ in range(len(embeddings_BSD))]
    open_rows = list(range(len(rows)))  # by their place in the batch
    ended: set[int] = set()  # places in the batch
    cache = DynamicCache(config=llm.config)
    positions_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)
    # of the prompts the last layer has to make nothing but what follows their ends
    last = torch.tensor([embeddings_BSD.shape[1] - 1], device=embeddings_BSD.device)
    step: dict[str, Any] = {"inputs_embeds": embeddings_BSD, "position_ids": positions_BS, "wanted_N": last}
    for _ in range(max_new_tokens):
        hidden_BD = llm.model(**step, attention_mask=mask_BS, past_key_values=cache, use_cache=True).last_hidden_state
        tokens_B = draw(llm.lm_head(hidden_BD[:, -1]).float())
        for place, token in enumerate(tokens_B.tolist()):
            if place not in ended:
                rows[open_rows[place]].append(token)
                if token in stops:
                    ended.add(place)
        if len(ended) == len(open_rows) or abandon():
            break
        positions_B1 = step["position_ids"][:, -1:] + 1
        if len(ended) >= CLEAR_SHARE * len(open_rows):
            kept = [place for place in range(len(open_rows)) if place not in ended]
            open_rows, ended = [open_rows[place] for place in kept], set()
            draw.keep(kept)
            index = torch.tensor(kept, device=mask_BS.device)
            cache.batch_select_indices(index)
            tokens_B, positions_B1, mask_BS = tokens_B[index], positions_B1[index], mask_BS[index]
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), 1)], dim=1)
        step = {"input_ids": tokens_B[:, None], "position_ids": positions_B1}
    return rows
