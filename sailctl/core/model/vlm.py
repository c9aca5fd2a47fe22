"""The composite model: tiles through the tower and projector, spliced into the text, through the language model.

Shapes: T packed tokens, N of them wanted, I tiles, V visual tokens of a tile, D the language model's width, B rows, S
row length; tiles are ICSS: C colours, S pixels of a tile's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.initialization import no_init_weights

from sailctl.core.errors import DataError
from sailctl.core.model.attention import packed_arguments
from sailctl.core.model.initialise import reset_weights
from sailctl.core.model.language import build_llm
from sailctl.core.model.lean import expect_recomputation
from sailctl.core.model.projector import build_projector, shuffle_factor
from sailctl.core.model.sampling import Draw, decode
from sailctl.core.model.vision import build_vision, layers_of, normalise, patch_features, pixel_shuffle
from sailctl.core.schema.model import ModelConfig

MODULES = ("vision", "projector", "llm")
TILES_AT_ONCE = 64  # through the tower in generation: more would cost memory and save no time


class VisionLanguageModel(nn.Module):
    """`vision` and `llm` are stock transformers modules; `projector` is the original `mlp1` in order.

    `initialise=False` leaves the weights as allocated, for a loader that fills every one of them.
    """

    def __init__(self, config: ModelConfig, image_token_id: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.config = config
        self.image_token_id = image_token_id
        with no_init_weights():
            self.vision = build_vision(config.vision)
            self.projector = build_projector(config)
            self.llm: Any = build_llm(config.llm)  # Any: generate() is beyond PreTrainedModel's annotations
        self.llm.tie_weights()
        if initialise:
            reset_weights(self, layer_scale_init=config.vision.layer_scale_init)

    def encode_tiles(self, tiles_ICSS: torch.Tensor, patches: int | None = None) -> torch.Tensor:
        """uint8 tiles (I, 3, S, S) to projected features (I * V, D); a frozen tower keeps no graph.

        With `patches` only the first of each tile go through the layers.
        """
        weight = next(self.vision.parameters())
        pixels = normalise(tiles_ICSS.to(weight.device), weight.dtype)
        frozen = not any(parameter.requires_grad for parameter in self.vision.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features_IPD = patch_features(self.vision, pixels, self.config.select_layer, patches)
            merged = pixel_shuffle(features_IPD, shuffle_factor(self.config), self.config.ps_version)
        return self.projector(merged).flatten(0, 1)

    def embed(self, input_ids: torch.Tensor, tiles_ICSS: torch.Tensor | None) -> torch.Tensor:
        """Token embeddings with the visual features in the place of the image tokens, in reading order.

        Where gradients are kept, text alone still goes by way of the tower, see `_nothing_seen`, and image tokens that
        are on the device already are not counted: that would wait for it (`check_image_tokens` before they go there).
        """
        embeddings = self.llm.get_input_embeddings()(input_ids)
        is_image = input_ids == self.image_token_id
        num_tiles = 0 if tiles_ICSS is None else tiles_ICSS.shape[0]
        if input_ids.device.type == "cpu" or not torch.is_grad_enabled():
            self.check_image_tokens(input_ids, num_tiles)
        if tiles_ICSS is None or not num_tiles:
            return embeddings if not torch.is_grad_enabled() else embeddings + self._nothing_seen(embeddings)
        features = self.encode_tiles(tiles_ICSS).to(embeddings.dtype)
        return embeddings.masked_scatter(is_image.unsqueeze(-1), features)

    def _embed_sharing(self, input_ids: torch.Tensor, tiles: Sequence[torch.Tensor]) -> torch.Tensor:
        """`embed` for the tiles of several rows, of which equal ones (the same object) are encoded once."""
        self.check_image_tokens(input_ids, sum(len(row_tiles) for row_tiles in tiles))
        embeddings = self.llm.get_input_embeddings()(input_ids)
        if not tiles:
            return embeddings
        distinct = {id(row_tiles): row_tiles for row_tiles in tiles}
        parts = torch.cat(list(distinct.values())).split(TILES_AT_ONCE)
        encoded = torch.cat([self.encode_tiles(part) for part in parts]).to(embeddings.dtype)
        lengths = [len(row_tiles) * self.config.tokens_per_tile for row_tiles in distinct.values()]
        features = dict(zip(distinct, encoded.split(lengths), strict=True))
        ordered = torch.cat([features[id(row_tiles)] for row_tiles in tiles])
        return embeddings.masked_scatter((input_ids == self.image_token_id).unsqueeze(-1), ordered)

    def check_image_tokens(self, input_ids: torch.Tensor, num_tiles: int) -> None:
        """DataError naming both numbers when image tokens and the features of so many tiles do not match."""
        expected = int((input_ids == self.image_token_id).sum())
        found = num_tiles * self.config.tokens_per_tile
        if expected != found:
            raise DataError(
                f"image tokens {expected} ≠ vision features {found} "
                f"({num_tiles} tiles of {self.config.tokens_per_tile} tokens each); check the image placeholders"
            )

    def _nothing_seen(self, embeddings: torch.Tensor) -> torch.Tensor:
        """A zero that depends on tower and projector, so that their gradients are zero rather than absent.

        Every rank then meets the others in the same collectives, whatever its packs hold. One visual token's patches
        go through the layers: an empty batch is more than some kernels and modules can bear, a tile would cost.
        """
        size = self.config.vision.image_size
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=embeddings.device)
        features = self.encode_tiles(blank, patches=shuffle_factor(self.config) ** 2)
        return features[:0].sum().to(embeddings.dtype)

    def hidden(
        self,
        input_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        tiles_ICSS: torch.Tensor | None,
        wanted_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Final hidden states (T, D) of a pack; documents do not see each other.

        With `wanted_N` only those of these positions, (N, D): the last layer computes nothing more for the others than
        what the attention of these needs.
        """
        embeddings_TD = self.embed(input_ids_T, tiles_ICSS)
        output = self.llm.model(
            inputs_embeds=embeddings_TD.unsqueeze(0),
            position_ids=position_ids_T.unsqueeze(0),
            wanted_N=wanted_N,
            **packed_arguments(cu_seqlens, max_seqlen),
        )
        return output.last_hidden_state.squeeze(0)

    def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (..., vocabulary) of hidden states (..., D)."""
        return self.llm.lm_head(hidden)

    def freeze(self, trainable: Sequence[str]) -> None:
        """Let only the named modules (vision, projector, llm) learn."""
        for name in MODULES:
            getattr(self, name).requires_grad_(name in trainable)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations layer by layer in the backward pass of tower and language model."""
        for part in (self.vision, self.llm):
            # transformers 6 drops the older pair of names, earlier versions do not have the newer one
            prefix = "activation" if hasattr(part, "activation_checkpointing_enable") else "gradient"
            if enabled:
                getattr(part, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
            else:
                getattr(part, f"{prefix}_checkpointing_disable")()
            expect_recomputation(part, enabled)

    def compile_layers(self) -> None:
        """Let torch.compile fuse what stands between the products, layer by layer, for packs of any length."""
        # transformers' layers share one wrapper's code, and so its places for compiled variants: with eight, as it is
        # left, the later layers would silently stay as they are.
        settings = torch._dynamo.config
        settings.recompile_limit = max(settings.recompile_limit, 64)
        for layer in (*layers_of(self.vision), *self.llm.model.layers):
            layer.compile(dynamic=True)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: list[list[int]],
        tiles: list[torch.Tensor | None],
        *,
        max_new_tokens: int,
        temperature: float | Sequence[float],
        eos_ids: Sequence[int],
        seed: int | Sequence[int] = 0,
        abandon: Callable[[], bool] = lambda: False,
    ) -> list[list[int]]:
        """Continue each row; new token ids only, ending with the stop token where one was drawn.

        Rows are left-padded and share a KV cache; one that has ended leaves the batch. Rows given the very same tensor
        of tiles share its features. `temperature` 0 is greedy; above it a row draws from its seed, its neighbours
        changing nothing; both are one for all rows or one each. The caller's random state is left alone.
        When `abandon`, asked after every token, says so, the rows end where they are.
        """
        temperatures = [float(temperature)] * len(input_ids) if isinstance(temperature, int | float) else temperature
        seeds = [seed] * len(input_ids) if isinstance(seed, int) else seed
        modes = {part: part.training for part in (self, self.vision, self.projector, self.llm)}
        self.eval()
        try:
            embeddings_BSD, mask_BS = self._left_padded(input_ids, tiles, self.llm.device)
            return decode(
                self.llm,
                embeddings_BSD,
                mask_BS,
                max_new_tokens=max_new_tokens,
                stops=frozenset(eos_ids),
                draw=Draw(temperatures, seeds),
                abandon=abandon,
            )
        finally:
            for part, training in modes.items():  # a frozen tower may be in eval mode while the rest trains
                part.train(training)

    def _left_padded(
        self, input_ids: list[list[int]], tiles: list[torch.Tensor | None], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flat = torch.tensor([token for row in input_ids for token in row], device=device)
        shown = [row_tiles for row_tiles in tiles if row_tiles is not None and len(row_tiles)]
        rows = self._embed_sharing(flat, shown).split([len(row) for row in input_ids])
        length = max(len(row) for row in rows)
        embeddings = torch.stack([nn.functional.pad(row, (0, 0, length - len(row), 0)) for row in rows])
        mask = torch.zeros(embeddings.shape[:2], dtype=torch.long, device=device)
        for index, row in enumerate(rows):
            mask[index, length - len(row) :] = 1
        return embeddings, mask
