"""Packed equals separate: loss and every gradient of a step of packs against one document at a time.

The reference runs transformers' own modules with their own attention (sdpa, no packing), one document after the other,
full logits, and divides by the step's weight. Tolerance 1e-5 relative in fp32; worst measured on this set (torch 2.13,
x86-64): loss 1.2e-7, gradients 3.1e-6 of the parameter's largest entry.
"""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sailctl.core.data.packing import Encoded, merge
from sailctl.core.device import pick
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.backend import Plain

IMAGE = 99  # the image token's id
TOLERANCE = 1e-5
# tiles and text tokens of each document: image-free, one tile, several images, and a single supervised token
DOCUMENTS = [(0, 9), (1, 12), (3, 20), (0, 5), (2, 31), (5, 8), (1, 3)]


def config(kind: str, vision: str) -> ModelConfig:
    return ModelConfig(
        name="parity",
        vision=VisionConfig(
            kind=vision,
            hidden_size=32,
            intermediate_size=64,
            num_layers=2,
            num_heads=2,
            image_size=56,
            attention_bias=vision == "internvit",
        ),
        llm=LLMConfig(
            kind=kind,
            vocab_size=100,
            hidden_size=32,
            intermediate_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            tie_embeddings=True,
        ),
    )


def documents() -> list[Encoded]:
    """Hand-laid documents: the image tokens of each tile in two runs, the last two thirds of the text supervised."""
    draw = np.random.default_rng(0)
    made = []
    for number, (tiles, text) in enumerate(DOCUMENTS):
        words = draw.integers(0, 90, text).tolist()
        ids = [words[0], *[IMAGE] * (4 * tiles), *words[1:]]
        supervised = [position >= len(ids) - 2 * text // 3 for position in range(len(ids))]
        pixels = draw.integers(0, 256, (tiles, 3, 56, 56)).astype(np.uint8)
        made.append(
            Encoded(f"sample-{number}", str(number), "s", np.array(ids, np.int32), np.array(supervised), pixels)
        )
    return made


def model_of(kind: str, vision: str) -> VisionLanguageModel:
    torch.manual_seed(0)
    model = VisionLanguageModel(config(kind, vision), IMAGE)
    for parameter in model.parameters():  # off the initial symmetries: zero biases, unit norms
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def weights_of(count: int, weighting: str) -> float:
    return {"token": 1.0, "sample": 1 / count, "sqrt": count**-0.5}[weighting]


def reference(model: VisionLanguageModel, weighting: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss and gradients, one document at a time through the stock modules."""
    model = copy.deepcopy(model)
    model.llm.set_attn_implementation("sdpa")
    model.vision.set_attn_implementation("sdpa")
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for document in documents():
        ids = torch.from_numpy(document.input_ids).long()
        embeddings = model.llm.get_input_embeddings()(ids)
        if document.num_tiles:
            mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
            pixels = (torch.from_numpy(document.tiles) / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
            rows = []
            for image in pixels:
                states = model.vision(pixel_values=image.unsqueeze(0)).last_hidden_state[0]
                grid = states[-16:].view(4, 4, 32)  # a CLS token, where there is one, comes first
                blocks = [grid[y : y + 2, x : x + 2].flatten() for y in (0, 2) for x in (0, 2)]
                rows.append(torch.stack(blocks))
            features = model.projector(torch.cat(rows))
            positions = (ids == IMAGE).nonzero().flatten()
            embeddings = embeddings.index_copy(0, positions, features)
        logits = model.llm(inputs_embeds=embeddings.unsqueeze(0), use_cache=False).logits[0]
        wanted = torch.from_numpy(document.supervised[1:]).nonzero().flatten()
        each = weights_of(len(wanted), weighting)
        losses = cross_entropy(logits[wanted], ids[wanted + 1], reduction="none")
        total = total + (losses.double() * each).sum()
        weight += each * len(wanted)
    loss = total / weight
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def packed(model: VisionLanguageModel, groups: list[list[int]], weighting: str, **train: object) -> Plain:
    """One step's backward passes over the given groups of documents, through the real backend."""
    backend = Plain(copy.deepcopy(model), TrainConfig(**train), pick("cpu"))
    made = documents()
    packs = [merge([made[number] for number in group], weighting) for group in groups]
    weight = sum(pack.loss_weight for pack in packs)
    backend.loss = sum(backend.backward(pack, weight) for pack in packs) / weight
    return backend


GROUPINGS = {
    "one pack": [[0, 1, 2, 3, 4, 5, 6]],
    "accumulated": [[4, 0], [2, 6, 3], [5], [1]],
    "one pack without images": [[0, 3], [1, 2, 4, 5, 6]],
}


def relative_errors(model: VisionLanguageModel, wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each gradient over the largest entry of the wanted one.

    A tower without rotary positions gives its key bias no gradient but rounding noise (a constant added to all keys
    changes no softmax): there the key weight's gradient is the scale.
    """
    errors = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        scale = name.replace("bias", "weight") if name.startswith("vision") and name.endswith("k_proj.bias") else name
        errors[name] = ((parameter.grad - wanted[name]).abs().max() / wanted[scale].abs().max()).item()
    return errors


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize(
    ("kind", "vision", "weighting"),
    [("qwen2", "internvit", "token"), ("qwen2", "internvit", "sqrt"), ("qwen3", "aimv2", "sample")],
)
def test_packed_equals_separate(kind: str, vision: str, weighting: str, grouping: str) -> None:
    assert any(tiles == 0 for tiles, _ in DOCUMENTS) and any(tiles > 1 for tiles, _ in DOCUMENTS)
    model = model_of(kind, vision)
    loss, gradients = reference(model, weighting)
    backend = packed(model, GROUPINGS[grouping], weighting)
    errors = relative_errors(backend.model, gradients)
    assert {name.split(".")[0] for name in errors} == {"vision", "projector", "llm"}
    assert set(errors) == {name for name, gradient in gradients.items() if gradient is not None}
    assert abs(backend.loss - loss) <= TOLERANCE * loss
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= TOLERANCE, worst


@pytest.mark.parametrize("trainable", [["projector"], ["vision", "projector"], ["llm"]])
def test_a_frozen_module_gets_no_gradient_and_the_rest_the_same(trainable: list[str]) -> None:
    model = model_of("qwen2", "internvit")
    _, gradients = reference(model, "token")
    backend = packed(model, GROUPINGS["accumulated"], "token", trainable=trainable)
    errors = relative_errors(backend.model, gradients)
    assert {name.split(".")[0] for name in errors} == set(trainable)
    assert max(errors.values()) <= TOLERANCE


def test_activation_checkpointing_changes_no_gradient() -> None:
    model = model_of("qwen2", "internvit").train()
    plain = packed(model, GROUPINGS["accumulated"], "token")
    saving = packed(model, GROUPINGS["accumulated"], "token", gradient_checkpointing=True)
    for (name, a), b in zip(plain.model.named_parameters(), saving.model.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad), name


def test_a_frozen_tower_keeps_no_graph() -> None:
    model = model_of("qwen2", "internvit")
    model.freeze(["llm"])
    features = model.encode_tiles(torch.zeros(2, 3, 56, 56, dtype=torch.uint8))
    assert not features.requires_grad
    model.freeze(["projector"])
    assert model.encode_tiles(torch.zeros(2, 3, 56, 56, dtype=torch.uint8)).requires_grad
