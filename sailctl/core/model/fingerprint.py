"""What a model's answers depend on, as one short string."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sailctl.core.model.weights import Loaded


def fingerprint(loaded: Loaded) -> str:
    """blake2b-128 (hex) of the model's config, dtypes and weights: of all that an answer depends on."""
    digest = hashlib.blake2b(loaded.config.model_dump_json().encode(), digest_size=16)
    for name, tensor in sorted(loaded.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
