"""An annotator's desk: their items in their order, what the page may know of each, and what it says of them.

The page knows places (0, 1, … in this annotator's order) and texts 1 and 2. Which sample that is, where it comes from
and which text is the candidate stays here. A field as the page has it: "preference" (+1: text 1 is better),
"1.fluency", "2.fluency".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sailctl.core.curate.annotate.items import Item, is_swapped, order_for
from sailctl.core.curate.annotate.pictures import Picture
from sailctl.core.curate.annotate.store import CANDIDATE, PREFERENCE, REFERENCE, SKIP, SKIP_REASON, Book, scale_of


class Refused(ValueError):
    """What the page asked for makes no sense; the message says why."""


class Desk:
    """The items of one annotator with the book of their answers."""

    def __init__(self, annotator: str, task: str, items: Sequence[Item], seed: int, book: Book) -> None:
        self.annotator, self.task, self.book = annotator, task, book
        self.items = order_for(items, annotator, seed)
        self._swapped = [item.reference is not None and is_swapped(item, annotator, seed) for item in self.items]

    def state(self) -> dict[str, Any]:
        """What the page begins with: what is asked, how much there is, and the place to go on at."""
        fields = sorted((self._shown(field, False) for field in self.book.fields), key=_as_asked)
        undone = (place for place, item in enumerate(self.items) if not self.book.is_done(item.number))
        return {
            "annotator": self.annotator,
            "task": self.task,
            "total": len(self.items),
            "done": self.book.done,
            "place": next(undone, len(self.items)),
            "fields": [{"name": name, "scale": list(scale_of(self.task, name))} for name in fields],
        }

    def item(self, place: int, pictures: Sequence[Picture]) -> dict[str, Any]:
        """An item as the page shows it."""
        item = self.at(place)
        texts = [item.turns] if item.reference is None else [item.turns, (("assistant", item.reference),)]
        if self._swapped[place]:
            texts.reverse()
        return {
            "place": place,
            "pictures": [{"width": one.width, "height": one.height, "problem": one.problem} for one in pictures],
            "texts": [[{"role": role, "text": text} for role, text in turns] for turns in texts],
            **self.said(place),
        }

    def said(self, place: int) -> dict[str, Any]:
        """What is known of the answers to an item, in the order in which they were given."""
        number, swapped = self.items[place].number, self._swapped[place]
        values = dict(self.book.state[number])
        skipped = values.pop(SKIP, "")
        shown = {self._shown(field, swapped): _turned(field, value, swapped) for field, value in values.items()}
        return {
            "values": shown,
            "skipped": skipped,
            "complete": self.book.is_complete(number),
            "done": self.book.done,
        }

    def answer(self, place: Any, field: Any, value: Any) -> dict[str, Any]:
        """Note an answer, or take one back with None; what is then known of the item.

        Raises Refused for a place, field or value that is none, OSError where the disk refuses.
        """
        item = self.at(place)
        if field == SKIP:
            if value not in (SKIP_REASON, None):
                raise Refused(f"an item is skipped as {SKIP_REASON!r} or not at all")
            self.book.note(item.number, SKIP, value)
            return self.said(place)
        swapped = self._swapped[place]
        known = {self._shown(one, swapped): one for one in self.book.fields}
        if not isinstance(field, str) or field not in known:
            raise Refused(f"nothing of that name is asked; known: {', '.join(known)}")
        low, high = scale_of(self.task, known[field])
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise Refused(f"{field} goes from {low} to {high}")
        self.book.note(item.number, known[field], _turned(known[field], value, swapped))
        return self.said(place)

    def at(self, place: Any) -> Item:
        """The item at a place. Raises Refused."""
        if type(place) is not int or not 0 <= place < len(self.items):
            raise Refused(f"there are items 0 to {len(self.items) - 1}")
        return self.items[place]

    def _shown(self, field: str, swapped: bool) -> str:
        """A field as the page has it."""
        side, _, criterion = field.partition(".")
        if field == PREFERENCE:
            return field
        first = REFERENCE if swapped else CANDIDATE
        return f"{1 if side == first else 2}.{criterion}"


def _turned(field: str, value: Any, swapped: bool) -> Any:
    """A preference from the page's side to the candidate's, or back."""
    return -value if field == PREFERENCE and swapped and value is not None else value


def _as_asked(name: str) -> tuple[bool, str]:
    """The preference first, then text 1, then text 2; criteria stay in their order."""
    return name != PREFERENCE, name.partition(".")[0]
