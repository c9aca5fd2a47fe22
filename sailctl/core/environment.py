"""What this machine and installation offer: versions, devices, optional parts, disk, threads. Changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from sailctl import __version__
from sailctl.core.device import Device, pick
from sailctl.core.errors import UsageError
from sailctl.core.workers import usable_cores

REQUIRED = (
    *("torch", "transformers", "safetensors", "numpy", "pillow", "pyarrow", "fsspec", "aiohttp", "orjson", "pydantic"),
    *("typer", "rich"),
)

# Extra of the package -> (the distribution it brings, what for).
EXTRAS = {
    "deepspeed": ("deepspeed", "sharded training on many devices"),
    "flash": ("flash-attn", "faster packed attention on NVIDIA GPUs"),
    "npu": ("torch-npu", "Ascend NPUs"),
    "lmdeploy": ("lmdeploy", "serving a captioner"),
    "bench": ("ms-vlmeval", "public benchmarks through VLMEvalKit"),
    "curate": ("jieba", "Chinese words in sailctl curate"),
    "annotate": ("starlette", "the page of sailctl curate annotate"),
    "ray": ("ray", "data work on several machines"),
    "remote": ("s3fs", "data sources behind s3://"),
    "tensorboard": ("tensorboard", "train.trackers: event files of a run"),
    "wandb": ("wandb", "train.trackers: a run of Weights & Biases"),
}


def describe_environment(device: str, folder: Path) -> dict[str, Any]:
    """Versions, devices, extras, disk space of `folder` and threads as one JSON-able object; sizes in bytes.

    `device` is what `--device` would be; raises UsageError when this machine does not have it.
    """
    disk = shutil.disk_usage(folder)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {"sailctl": __version__, **{name: installed_version(name) for name in REQUIRED}},
        "devices": [_describe(found) for found in _devices(device)],
        "extras": {extra: installed_version(package) for extra, (package, _) in EXTRAS.items()},
        "disk": {"path": str(folder.resolve()), "free_bytes": disk.free, "total_bytes": disk.total},
        "threads": {"cores": usable_cores(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
    }


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, None where it is absent; nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices(name: str) -> list[Device]:
    """The chosen device first, then its brothers, then the CPU."""
    chosen = pick(name)
    if chosen.kind == "cpu":
        return [chosen]
    found = [chosen]
    for index in range(1 if ":" not in name else 0, 1024):
        try:
            brother = pick(f"{chosen.kind}:{index}")
        except UsageError:
            break
        if brother.torch != chosen.torch:
            found.append(brother)
    return [*found, pick("cpu")]


def _describe(device: Device) -> dict[str, Any]:
    return {
        "device": str(device.torch),
        "name": device.name(),
        "memory_bytes": device.total_memory(),
        "dtype": str(device.dtype("auto")).removeprefix("torch."),
    }
