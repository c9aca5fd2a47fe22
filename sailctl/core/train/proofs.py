"""What packs are held against: the raw samples, each alone, through attention and loss that know nothing of packs.

Shapes: T tokens of a pack or of one document, D width, V vocabulary, N supervised tokens, I tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sailctl.core.device import Device
from sailctl.core.errors import DataError
from sailctl.core.records import Sample
from sailctl.core.train.loss import pack_loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from sailctl.core.data.packing import Encoded, Pack
    from sailctl.core.model.vlm import VisionLanguageModel

ACCELERATOR_RESUME = 1e-3
PERTURBED_PACKS, PERTURBED_DOCUMENTS = 4, 4  # how many packs, and documents of each, are tampered with


@dataclass(frozen=True, slots=True)
class Proof:
    """One check: what was measured, up to which value it is right, and what was looked at."""

    check: str
    measured: float
    tolerance: float
    detail: str

    @property
    def ok(self) -> bool:
        """Whether it holds; what is no number does not."""
        return self.measured <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """A row; a measure that is no finite number is null."""
        measured = self.measured if math.isfinite(self.measured) else None
        row = {"check": self.check, "measured": measured, "tolerance": self.tolerance}
        return {**row, "ok": self.ok, "detail": self.detail}


class Raw(NamedTuple):
    """A sample as its source gives it, and as it is encoded alone."""

    sample: Sample
    encoded: Encoded


class Document(NamedTuple):
    """One sample's place in a pack: tokens `start` to `end`, tiles `tiles` to `tiles_end`."""

    pack: int
    start: int
    end: int
    tiles: int
    tiles_end: int
    raw: Raw


class Tolerances(NamedTuple):
    """Largest relative errors of the loss, of any parameter's gradient, and of a hidden state that ought to stay."""

    loss: float
    gradient: float
    leak: float


@dataclass(frozen=True, slots=True)
class Checked:
    """The model under proof and how it computes."""

    model: VisionLanguageModel
    tokenizer: PreTrainedTokenizerFast
    device: Device
    dtype: torch.dtype
    weighting: str


def tolerances(dtype: torch.dtype, *, recipe_is_sparse: bool) -> Tolerances:
    """What rounding may do. Packs change the shapes of a sparse model's products, and so their rounding."""
    if dtype == torch.float32:
        return Tolerances(1e-5, 1e-3 if recipe_is_sparse else 1e-4, 1e-4 if recipe_is_sparse else 1e-6)
    return Tolerances(5e-3, 0.2 if recipe_is_sparse else 5e-2, 5e-2 if recipe_is_sparse else 1e-6)


def documents(packs: Sequence[Pack], raw: Mapping[str, Sequence[Raw]]) -> list[Document]:
    """Every document of the packs beside its raw sample; DataError where a pack names a sample nobody has drawn."""
    found = []
    for number, pack in enumerate(packs):
        bounds, tile = pack.cu_seqlens.tolist(), 0
        for name, start, end in zip(pack.sample_ids, bounds, bounds[1:], strict=False):
            if not raw.get(name):
                raise DataError(f"pack {number} holds sample {name}, which was not drawn from any source")
            ids = pack.input_ids_T[start:end].numpy()
            # drawn twice, a bare caption may have been asked for in two ways
            one = next((one for one in raw[name] if list(one.encoded.input_ids) == list(ids)), raw[name][0])
            tiles = one.encoded.num_tiles
            found.append(Document(number, start, end, tile, tile + tiles, one))
            tile += tiles
    return found


def supervised_tokens(checked: Checked, found: Sequence[Document], packs: Sequence[Pack]) -> Proof:
    """Are the answers of the raw samples, and nothing else, what the packs' targets are?"""
    wrong = wanted_total = cut = 0
    for document in found:
        pack, wanted = packs[document.pack], _answers(checked, document.raw)
        if document.raw.encoded.truncated:  # the rule of data.overlong: what is left is the beginning
            wanted, cut = wanted[: int(document.raw.encoded.supervised[1:].sum())], cut + 1
        inside = (pack.target_index_N >= document.start) & (pack.target_index_N < document.end)
        got = pack.targets_N[inside].tolist()
        wrong += abs(len(wanted) - len(got)) + sum(a != b for a, b in zip(wanted, got, strict=False))
        wanted_total += len(wanted)
    out = sum(pack.num_targets for pack in packs)
    sign = "=" if wanted_total == out else "≠"
    detail = f"{wanted_total:,} in {sign} {out:,} out, of {len(found):,} samples"
    detail += f"; {cut} of them cut to data.pack_tokens" if cut else ""
    return Proof("supervised tokens in = out (wrong tokens)", wrong + abs(wanted_total - out), 0, detail)


def layout(checked: Checked, found: Sequence[Document], packs: Sequence[Pack]) -> Proof:
    """Do tokens, tiles, positions and loss weights of every document equal those of the sample alone?"""
    wrong = {"tokens": 0, "tiles": 0, "positions": 0, "loss weights": 0}
    power = {"token": 0.0, "sample": -1.0, "sqrt": -0.5}[checked.weighting]
    for document in found:
        pack, encoded = packs[document.pack], document.raw.encoded
        place = slice(document.start, document.end)
        wrong["tokens"] += not torch.equal(pack.input_ids_T[place].int(), torch.from_numpy(encoded.input_ids).int())
        tiles = pack.tiles_IPHW[document.tiles : document.tiles_end]
        wrong["tiles"] += bool(encoded.num_tiles) and not torch.equal(tiles, torch.from_numpy(encoded.tiles))
        length = document.end - document.start
        wrong["positions"] += not torch.equal(pack.position_ids_T[place], torch.arange(length))
        inside = (pack.target_index_N >= document.start) & (pack.target_index_N < document.end)
        weights, count = pack.weights_N[inside], int(encoded.supervised[1:].sum())
        right = torch.full((count,), max(count, 1) ** power)
        wrong["loss weights"] += weights.shape != right.shape or not torch.allclose(weights, right, rtol=1e-6)
    bad = ", ".join(f"{name} of {count}" for name, count in wrong.items() if count)
    detail = f"tokens, tiles, positions, loss weights of {len(found):,} documents"
    return Proof("documents as encoded (wrong ones)", sum(wrong.values()), 0, f"wrong: {bad}" if bad else detail)


def parity(
    checked: Checked, packs: Sequence[Pack], found: Sequence[Document], allowed: Tolerances
) -> tuple[Proof, Proof]:
    """Loss and every trained parameter's gradient, summed over the packs, against the samples each alone."""
    model, device = checked.model, checked.device
    packed_loss, packed = _summed(
        checked, (lambda pack=pack: pack_loss(model, pack.to(device.torch)) for pack in packs)
    )
    single_loss, single = _summed(checked, (lambda one=one: _alone(checked, one.raw.encoded) for one in found))
    loss = abs(packed_loss - single_loss) / max(abs(single_loss), 1e-12)
    whole = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in single.values()))
    worst, where = 0.0, "-"
    for name in packed.keys() | single.keys():
        zero = torch.zeros(())
        one, other = packed.get(name, zero), single.get(name, zero)
        # some gradients are zero but for rounding (a key's bias): they are measured by the whole
        error = float((one - other).double().norm()) / max(float(other.double().norm()), 1e-4 * whole, 1e-30)
        if not error <= worst:
            worst, where = error, name
    return (
        Proof("packed = separate: loss", loss, allowed.loss, f"{packed_loss:.6f} and {single_loss:.6f}, summed"),
        Proof(
            "packed = separate: gradients",
            worst,
            allowed.gradient,
            f"the worst of {len(packed)} trained parameters is {where}",
        ),
    )


@torch.no_grad()
def leakage(checked: Checked, packs: Sequence[Pack], found: Sequence[Document], allowed: Tolerances) -> Proof:
    """Change one document's words and pictures: do the hidden states of its neighbours stay where they are?"""
    moved, tampered, own = 0.0, 0, math.inf
    shared = [number for number, pack in enumerate(packs) if pack.num_samples > 1][:PERTURBED_PACKS]
    for number in shared:
        pack = packs[number]
        before = _hidden(checked, pack, pack.input_ids_T, pack.tiles_IPHW)
        scale = float(before.abs().max())
        inside = [document for document in found if document.pack == number]
        for document in inside[:: max(1, len(inside) // PERTURBED_DOCUMENTS)]:
            after = _hidden(checked, pack, *_tampered(checked, pack, document))
            change = (after - before).abs().amax(dim=-1) / scale
            own = min(own, float(change[document.start : document.end].max()))
            change[document.start : document.end] = 0
            moved, tampered = max(moved, float(change.max())), tampered + 1
    name = "leakage between documents"
    if not shared:
        return Proof(name, 0.0, allowed.leak, "no pack holds two documents, so there is nobody to leak to")
    if own == 0:
        return Proof(name, math.inf, allowed.leak, "a document does not notice its own change either")
    detail = f"{tampered} documents of {len(shared)} packs changed; their own hidden states moved by {own:.2g} or more"
    return Proof(name, moved, allowed.leak, detail)


def _answers(checked: Checked, raw: Raw) -> list[int]:
    """A sample's supervised tokens from its own text: each answer and the end of its turn."""
    end = checked.tokenizer.convert_tokens_to_ids("<|im_end|>")
    texts = [turn.text for turn in raw.sample.turns if turn.role == "assistant"]
    ids = checked.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [token for answer in ids for token in (*answer, end)]


def _summed(checked: Checked, losses: Any) -> tuple[float, dict[str, Tensor]]:
    """The sum of losses, each made and differentiated in turn, and the gradients of their sum, on the CPU."""
    model, total = checked.model, 0.0
    model.zero_grad(set_to_none=True)
    for make in losses:
        with checked.device.autocast(checked.dtype):
            loss = make()
        if loss.requires_grad:
            loss.backward()
        total += loss.item()
    gradients = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return total, gradients


def _alone(checked: Checked, encoded: Encoded) -> Tensor:
    """A sample's loss the plain way: one row through transformers' own causal attention, logits of every position."""
    model, device = checked.model, checked.device.torch
    ids_T = torch.from_numpy(encoded.input_ids).long().to(device)
    tiles = torch.from_numpy(encoded.tiles).to(device) if encoded.num_tiles else None
    embeddings_TD = model.embed(ids_T, tiles)
    hidden = model.llm.model(inputs_embeds=embeddings_TD.unsqueeze(0), use_cache=False).last_hidden_state[0]
    supervised_T = torch.from_numpy(encoded.supervised).to(device)
    logits_TV = model.lm_head(hidden[:-1]).float()
    losses_T = cross_entropy(logits_TV, ids_T[1:], reduction="none")[supervised_T[1:]]
    count = max(1, losses_T.numel())
    return losses_T.sum() * {"token": 1.0, "sample": 1 / count, "sqrt": count**-0.5}[checked.weighting]


def _hidden(checked: Checked, pack: Pack, input_ids_T: Tensor, tiles_IPHW: Tensor) -> Tensor:
    device = checked.device.torch
    with checked.device.autocast(checked.dtype):
        hidden_TD = checked.model.hidden(
            input_ids_T.to(device),
            pack.position_ids_T.to(device),
            pack.cu_seqlens.to(device),
            pack.max_seqlen,
            tiles_IPHW.to(device),
        )
    return hidden_TD.float().cpu()


def _tampered(checked: Checked, pack: Pack, document: Document) -> tuple[Tensor, Tensor]:
    """The pack's tokens and tiles with every word of one document another one, and its pictures negatives."""
    ids_T, tiles = pack.input_ids_T.clone(), pack.tiles_IPHW.clone()
    place, picture = slice(document.start, document.end), checked.model.image_token_id
    words = ids_T[place]
    others = (words + 1) % checked.model.config.llm.vocab_size
    others[others == picture] = (picture + 1) % checked.model.config.llm.vocab_size
    ids_T[place] = torch.where(words == picture, words, others)
    tiles[document.tiles : document.tiles_end] = 255 - tiles[document.tiles : document.tiles_end]
    return ids_T, tiles
