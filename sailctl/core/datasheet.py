"""What vendors say their devices can do: dense bf16 peak FLOP/s and memory. Numbers only, nothing of sailctl."""

from __future__ import annotations

from typing import NamedTuple

GIB = 2**30


class DataSheet(NamedTuple):
    """One device type: `name` is a piece of what the driver calls it."""

    name: str
    peak_bf16: float  # FLOP/s, dense
    memory_bytes: int


# Of names that contain one another the longer stands first: the first match counts.
DATA_SHEETS = (
    DataSheet("H200", 989e12, 141 * 10**9),
    DataSheet("H100 PCIe", 756e12, 80 * GIB),
    DataSheet("H100", 989e12, 80 * GIB),
    DataSheet("H800", 989e12, 80 * GIB),
    DataSheet("H20", 148e12, 96 * GIB),
    DataSheet("A100", 312e12, 80 * GIB),
    DataSheet("A800", 312e12, 80 * GIB),
    DataSheet("L40S", 362e12, 48 * GIB),
    DataSheet("L40", 181e12, 48 * GIB),
    DataSheet("L20", 119e12, 48 * GIB),
    DataSheet("A10", 125e12, 24 * GIB),
    DataSheet("4090", 165e12, 24 * GIB),
    DataSheet("3090", 71e12, 24 * GIB),
    DataSheet("910B1", 378e12, 64 * GIB),
    DataSheet("910B2", 353e12, 64 * GIB),
    DataSheet("910B", 313e12, 64 * GIB),
)


def data_sheet(name: str) -> DataSheet | None:
    """The data sheet of a device whose name contains a known piece; None where there is none."""
    return next((sheet for sheet in DATA_SHEETS if sheet.name in name), None)
