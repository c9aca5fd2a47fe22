"""What a user can be told: every expected failure is a SailctlError carrying one clear line and an exit code.

The line names the file, the key, the value (or both numbers) and the remedy. Anything that is not a SailctlError is a
defect of ours and keeps its traceback.
"""

from __future__ import annotations


class SailctlError(Exception):
    """A failure with one clear line for the user; exit code 1 unless a subclass says otherwise."""

    exit_code = 1
    told = False  # True where another process of the same run says it


class UsageError(SailctlError):
    """The command, the recipe or a path given by the user is wrong; exit code 2."""

    exit_code = 2


class DataError(SailctlError):
    """A source, a shard or the share of broken samples makes it impossible to go on."""


class CheckpointError(SailctlError):
    """A checkpoint is missing tensors, misshapen, incomplete or of an unknown layout."""


class TrainingError(SailctlError):
    """The loss is not a number or has exploded, or a step cannot be made."""


class StorageError(SailctlError):
    """The disk is full or refuses to be written."""


class Interrupted(SailctlError):
    """The user (or the cluster) asked to stop; state was saved and the message says how to resume."""

    exit_code = 130


class MissingExtra(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: {install_command(extra)}")


def install_command(extra: str) -> str:
    """How to add one of the package's extras: from the folder sailctl came from where there is one."""
    import json  # all of this only where something is missing: every command loads this file
    from importlib import metadata
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    here = Path(__file__).resolve().parents[2]
    if (here / "pyproject.toml").is_file():  # a checkout, installed editable or run as it is
        return f"pip install -e '{here}[{extra}]'"
    try:
        origin = json.loads(metadata.distribution("sailctl").read_text("direct_url.json") or "{}")  # PEP 610
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    if "dir_info" in origin and (folder := Path(unquote(urlsplit(origin["url"]).path))).is_dir():
        return f"pip install '{folder}[{extra}]'"
    return f"pip install 'sailctl[{extra}]', or from a clone: pip install '.[{extra}]'"


class SampleError(Exception):
    """One sample is unusable. Never reaches the user as such: it becomes a Verdict in the reject log.

    `reason` is one of `sailctl.core.records.REJECT_REASONS`; `detail` says what was found, with both numbers.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.key = ""  # the sample's name in its source, filled in by the source
