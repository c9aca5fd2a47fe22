"""What a captioner is asked: one file a task and language, ours unless the user's folder has one of the same name.

A paragraph that holds `{alt_text}` is left out for a sample that has none, so one file serves both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from sailctl.core.errors import UsageError
from sailctl.core.records import IMAGE_PLACEHOLDER

TASKS = ("detailed", "recaption", "ocr", "qa")
LANGUAGES = ("en", "zh")
MAX_ALT_CHARACTERS = 4000  # of an alt-text, or of a caption a question is made from; pages hold all kinds of things
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_KNOWN = {task: ("alt_text", "caption") if task == "qa" else ("alt_text",) for task in TASKS}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A task's prompt in one language; `without` is what is left of it for a sample without alt-text.

    `where` is the file it was read from, as the user knows it.
    """

    task: str
    text: str
    without: str
    where: str = field(default="", compare=False)

    def render(self, alt_text: str | None, caption: str | None = None) -> tuple[str, str]:
        """The question as it is asked, and the prompt's id: which text, and which of its two forms."""
        form = self.text if alt_text else self.without
        values = {"alt_text": alt_text or "", "caption": caption or ""}
        # in one pass, so that a brace in an alt-text stays one
        asked = _PLACEHOLDER.sub(lambda match: _plain(values.get(match[1], match[0])), form)
        return asked, hashlib.blake2b(form.encode(), digest_size=8).hexdigest()

    @property
    def uses_alt_text(self) -> bool:
        """Whether an alt-text changes the question."""
        return self.text != self.without


def load_prompts(tasks: Sequence[str], lang: str, folder: Path | None) -> tuple[Prompt, ...]:
    """The prompts of the tasks, from `folder` where it has them.

    Raises UsageError naming the file for one that cannot be read, is empty, has an unknown placeholder or a name that
    no task has.
    """
    known = {f"{task}.{language}.txt" for task in TASKS for language in LANGUAGES}
    if folder is not None:
        if not folder.is_dir():
            raise UsageError(f"--prompts {folder} is no folder; give one with files such as {tasks[0]}.{lang}.txt")
        for path in sorted(folder.glob("*.txt")):
            if path.name not in known:
                raise UsageError(f"--prompts: {path} belongs to no task; known names: {', '.join(sorted(known))}")
    return tuple(_load(task, lang, folder) for task in tasks)


def prompt_digest(prompt: Prompt) -> str:
    """A hash of the prompt's text."""
    return hashlib.blake2b(prompt.text.encode(), digest_size=16).hexdigest()


def _load(task: str, lang: str, folder: Path | None) -> Prompt:
    name = f"{task}.{lang}.txt"
    own = None if folder is None else folder / name
    if own is not None and own.is_file():
        where = str(own)
        try:
            text = own.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"prompt {own} cannot be read: {error}") from error
    else:
        where = f"{name} of sailctl"
        text = resources.files("sailctl.core.caption").joinpath("prompts", name).read_text(encoding="utf-8")
    text = text.replace("\r\n", "\n").strip()
    for found in _PLACEHOLDER.findall(text):
        if found not in _KNOWN[task]:
            fitting = ", ".join(f"{{{name}}}" for name in _KNOWN[task])
            raise UsageError(f"prompt {where}: unknown placeholder {{{found}}}; {task} knows {fitting}")
    paragraphs = re.split(r"\n\s*\n", text)
    without = "\n\n".join(part for part in paragraphs if "{alt_text}" not in part)
    if not without:
        raise UsageError(
            f"prompt {where}: nothing is left of it for a sample without alt-text; put {{alt_text}} in a paragraph of "
            "its own, with an empty line before and after"
        )
    return Prompt(task, text, without, where)


def _plain(text: str) -> str:
    """Text from data as part of a question: cut to a sensible length, and no picture's place."""
    return text.replace(IMAGE_PLACEHOLDER, " ").strip()[:MAX_ALT_CHARACTERS]
