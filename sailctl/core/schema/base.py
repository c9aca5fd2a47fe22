"""The common base of all configs: unknown keys are refused, values are checked on assignment."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A config section; `load.py` turns its validation errors into one line naming the nearest known key."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=(), allow_inf_nan=False)
