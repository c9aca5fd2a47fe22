"""Chinese captions as words with their parts of speech: what jieba.posseg says, several times as fast.

The dictionary and the tables of the hidden Markov model are jieba's own, read from its package; nothing is read from
the cache that jieba leaves in the folder of temporary files. The tests hold the words and tags to jieba's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import log
from typing import Any

from sailctl.core.errors import MissingExtra

# What jieba looks up in its dictionary; every other character stands alone.
_BLOCK = re.compile(r"([\u4E00-\u9FD5a-zA-Z0-9+#&._]+)")
# What becomes of characters that no word of the dictionary covers: Chinese goes to the model, the rest by its kind.
_UNKNOWN = re.compile(r"[\u4E00-\u9FD5]+|[.0-9]+|[a-zA-Z0-9]+|[+#&_]+")
_KNOWN = 1 << 16  # runs of single characters that are remembered
_KIND_OF = {"n": 1, "v": 2, "a": 3}  # by the first letter of jieba's tags; the numbers are those of tagging.py

Words = tuple[list[str], bytearray]
Tagged = tuple[tuple[str, str], ...]
State = tuple[str, str]  # place in the word (B, M, E, S), tag
_FEW = 4
_NEVER = -3.14e100  # jieba's logarithm of zero


class Chinese:
    """Words and kinds of Chinese text as jieba.posseg has them: nouns n…, verbs v… (vn, vd), adjectives a… (ad, an)."""

    def __init__(self) -> None:
        try:
            import jieba
            from jieba import posseg
            from jieba.posseg.viterbi import viterbi
        except ImportError as error:
            raise MissingExtra("jieba", "curate") from error
        frequencies, total = jieba.dt.gen_pfdict(jieba.dt.get_dict_file())
        log_total = log(total)
        # log probability of a word; None for what only begins one
        self._weight: dict[str, float | None] = {
            word: log(count) - log_total if count else None for word, count in frequencies.items()
        }
        self._unseen = log(1) - log_total
        self._tag: dict[str, str] = posseg.dt.word_tag_tab
        self._path = _Path(posseg.char_state_tab_P, posseg.start_P, posseg.trans_P, posseg.emit_P, viterbi)
        self._runs: dict[str, Tagged] = {}

    def words(self, text: str) -> Words:
        """The words of a text, each with its kind."""
        words: list[str] = []
        kinds = bytearray()
        for word, tag in self.tagged(text):
            if word.isalnum() or any(map(str.isalnum, word)):
                words.append(word.lower())
                kinds.append(_KIND_OF.get(tag[0], 0))
        return words, kinds

    def count(self, text: str) -> int:
        """How many words a text has."""
        return len(self.words(text)[0])

    def tagged(self, text: str) -> list[tuple[str, str]]:
        """Words and tags of a text as `jieba.posseg.lcut(text)` has them."""
        tagged: list[tuple[str, str]] = []
        for number, block in enumerate(_BLOCK.split(text)):
            if number % 2:
                self._cut(block, tagged)
            else:
                tagged += [(piece, "x") for piece in re.findall(r"\r\n|[\s\S]", block)]
        return tagged

    def _cut(self, block: str, tagged: list[tuple[str, str]]) -> None:
        """The likeliest words of a block, runs of single characters aside."""
        ends, tag_of = self._route(block), self._tag
        start, single, size = 0, 0, len(block)  # block[single:start] are single characters, not yet tagged
        while start < size:
            end = ends[start]
            if end - start > 1:
                if single < start:
                    tagged += self._run(block[single:start])
                word = block[start:end]
                tagged.append((word, tag_of.get(word, "x")))
                single = end
            start = end
        if single < size:
            tagged += self._run(block[single:])

    def _route(self, block: str) -> list[int]:
        """Where the word that starts at each place ends, on the likeliest way from there to the end of the block.

        Of equally likely words the longer one, as in jieba; sums are made in its order, so that they round as its do.
        """
        weight_of, size = self._weight.get, len(block)
        best = [0.0] * (size + 1)
        ends = [0] * size
        for start in range(size - 1, -1, -1):
            end = start + 1
            piece = block[start]
            top, top_end = None, end
            weight: float | int | None = weight_of(piece, 0)  # 0: begins no word
            while weight != 0:
                if weight is not None:
                    value = weight + best[end]
                    if top is None or value >= top:
                        top, top_end = value, end
                end += 1
                if end > size:
                    break
                weight = weight_of(block[start:end], 0)
            best[start] = self._unseen + best[start + 1] if top is None else top
            ends[start] = top_end
        return ends

    def _run(self, run: str) -> Tagged:
        """Words and tags of a run of characters that are no parts of longer words."""
        if len(run) == 1:
            return ((run, self._tag.get(run, "x")),)
        if (found := self._runs.get(run)) is None:
            if len(self._runs) >= _KNOWN:
                self._runs.clear()
            if self._weight.get(run) is None:
                found = tuple(self._guess(run))
            else:  # a word, but as single characters likelier
                found = tuple((character, self._tag.get(character, "x")) for character in run)
            self._runs[run] = found
        return found

    def _guess(self, run: str) -> list[tuple[str, str]]:
        """Words that are in no dictionary, by the hidden Markov model over (place in word, tag) of each character."""
        tagged: list[tuple[str, str]] = []
        for piece in _UNKNOWN.findall(run):
            if "\u4e00" <= piece[0] <= "\u9fd5":
                start = 0
                states = self._path.of(piece)
                for place, (position, tag) in enumerate(states):
                    if position == "B":
                        start = place
                    elif position == "E":
                        tagged.append((piece[start : place + 1], tag))
                        start = place + 1
                    elif position == "S":
                        tagged.append((piece[place], tag))
                        start = place + 1
                if start < len(piece):  # a word that the text breaks off
                    tagged.append((piece[start:], states[start][1]))
            elif piece[0] in ".0123456789":
                tagged.append((piece, "m"))
            else:
                tagged.append((piece, "eng" if piece[0].isalnum() else "x"))
        return tagged


class _Path:
    """The likeliest states of a run of Chinese characters: Viterbi over the tables of jieba's model.

    The numbers are added in the order in which jieba adds them and ties go to the greater state, as there; only steps
    that the tables do not know are left out. Characters that they do not know are left to jieba itself.
    """

    def __init__(self, states: Any, start: Any, steps: Any, emitted: Any, otherwise: Any) -> None:
        self._tables = (states, start, steps, emitted)
        self._otherwise = otherwise
        self._steps: dict[State, dict[State, float]] = steps
        before: dict[State, list[tuple[State, float]]] = {}
        for state, following in steps.items():
            for after, chance in following.items():
                before.setdefault(after, []).append((state, chance))
        # few states lead into the middle or the end of a word: those are listed; many lead to its beginning
        self._before = {state: some for state, some in before.items() if len(some) <= _FEW}
        self._seen: dict[str, list[tuple[State, float, list[tuple[State, float]] | None]]] = {}

    def of(self, run: str) -> Sequence[State]:
        """A state for every character."""
        known, start, _, _ = self._tables
        if any(character not in known for character in run):
            return self._jieba(run)
        column = {state: start[state] + chance for state, chance, _ in self._emissions(run[0])}
        back: list[dict[State, State]] = []
        for character in run[1:]:
            column, origins = self._step(column, character)
            if not column:
                return self._jieba(run)
            back.append(origins)
        _, state = max((value, state) for state, value in column.items())
        path = [state]
        for origins in reversed(back):
            state = origins[state]
            path.append(state)
        return path[::-1]

    def _step(self, column: dict[State, float], character: str) -> tuple[dict[State, float], dict[State, State]]:
        leaving = [(state, value, self._steps[state]) for state, value in column.items() if self._steps[state]]
        values: dict[State, float] = {}
        origins: dict[State, State] = {}
        for state, chance, few in self._emissions(character):
            best, origin = None, state
            if few is not None:
                steps = [(one, column[one], step) for one, step in few if one in column]
            else:
                steps = [(one, value, after[state]) for one, value, after in leaving if state in after]
            for one, value, step in steps:
                total = value + step + chance
                if best is None or total > best or (total == best and one > origin):
                    best, origin = total, one
            if best is not None:
                values[state], origins[state] = best, origin
        return values, origins

    def _emissions(self, character: str) -> list[tuple[State, float, list[tuple[State, float]] | None]]:
        if (found := self._seen.get(character)) is None:
            known, _, _, emitted = self._tables
            found = self._seen[character] = [
                (state, emitted[state].get(character, _NEVER), self._before.get(state)) for state in known[character]
            ]
        return found

    def _jieba(self, run: str) -> Sequence[State]:
        path: Sequence[State] = self._otherwise(run, *self._tables)[1]
        return path
