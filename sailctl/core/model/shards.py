"""A folder of safetensors files read as one table of named tensors, held against the manifest that a checkpoint of ours
has beside it. Pickle is never opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sailctl.core.errors import CheckpointError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MANIFEST = "manifest.json"  # of a checkpoint: size and sha256 of every file
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class TensorFolder:
    """The tensors of every `*.safetensors` file of a folder; where there is an index, of the files it names.

    Raises CheckpointError for a folder without safetensors (naming the remedy where there are pickles), for a shard the
    index names and the folder lacks, for a file that is no safetensors, and for a tensor the index promises in vain.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, torch.Size] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._open: dict[Path, safe_open] = {}
        indices = sorted(folder.glob("*.safetensors.index.json"))
        promised = _read_index(indices[0]) if indices else {}
        paths = {folder / file for file in promised.values()} if indices else set(folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(_no_safetensors(folder))
        for path in sorted(paths):
            self._read_header(path)
        for name, file in promised.items():
            if name not in self._files:
                raise CheckpointError(f"{folder / file}: tensor {name} is missing, though {indices[0].name} names it")

    def _read_header(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path}: shard is missing; copy the whole checkpoint")
        try:
            handle = safe_open(path, framework="pt", device="cpu")
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                piece = handle.get_slice(name)
                self._files[name] = path
                self._shapes[name] = torch.Size(piece.get_shape())
                self._dtypes[name] = _DTYPES.get(piece.get_dtype(), torch.float32)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error}); copy it again") from error
        self._open[path] = handle

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._files)

    def file(self, name: str) -> Path:
        """The file that holds a tensor; the folder itself for one that is nowhere."""
        return self._files.get(name, self.folder)

    def shape(self, name: str) -> torch.Size:
        """A tensor's shape, without reading it."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's dtype as stored; float32 for the kinds that weights do not come in."""
        return self._dtypes[name]

    def get(self, name: str) -> torch.Tensor:
        """Read one tensor."""
        try:
            return self._open[self._files[name]].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self.file(name)}: tensor {name} is unreadable ({error}); copy it again") from error


def check_files(root: Path, wanted: str = "") -> None:
    """Compare the files under `root` whose names begin with `wanted` with root's manifest.

    Raises CheckpointError naming the first that differs, with both values, or a manifest that cannot be read.
    """
    path = root / MANIFEST
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        listed = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: it lists no files with size and hash ({error!r})") from None
    for name, (size, sha256) in listed.items():
        if not name.startswith(wanted):
            continue
        file = root / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, though {path} lists it")
        if (found := file.stat().st_size) != size:
            raise CheckpointError(f"{file} has {found} bytes, its manifest says {size}")
        if (digest := file_sha256(file)) != sha256:
            raise CheckpointError(f"{file} has sha256 {digest[:12]}, its manifest says {sha256[:12]}")


def check_weights(folder: Path) -> None:
    """Compare a `weights` folder with the manifest of its checkpoint; other people's folders have none."""
    if folder.name == "weights" and (folder.parent / MANIFEST).is_file():
        try:
            check_files(folder.parent, "weights/")
        except CheckpointError as error:
            raise CheckpointError(f"{error}; the checkpoint is damaged, take another one of its run") from None


def file_sha256(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal digits."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = {str(name): str(file) for name, file in json.loads(path.read_bytes())["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an index of safetensors shards ({error!r})") from error
    for file in weight_map.values():
        if Path(file).name != file:
            raise CheckpointError(f"{path}: shard {file!r} is not a plain file name")
    return weight_map


def _no_safetensors(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder}: only pickled weights ({pickles[0]}), which can run code and are never opened; where you trust "
            "them, load the checkpoint with the library that wrote it and save it again as safetensors"
        )
    return f"{folder}: no *.safetensors file"
