"""What `sailctl curate annotate` is asked to do: serve the page until it is stopped, or tell what has been said."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.curate.annotate import server
from sailctl.core.curate.annotate.desk import Desk
from sailctl.core.curate.annotate.items import ITEMS, Item, assign, draw, read_items, write_items
from sailctl.core.curate.annotate.pictures import Pictures
from sailctl.core.curate.annotate.results import agreed, progress, results
from sailctl.core.curate.annotate.store import CRITERIA, Answers, Book, fields_of, journal_path
from sailctl.core.curate.judge.opinions import OPINIONS
from sailctl.core.curate.judge.pairs import References, open_references
from sailctl.core.curate.parts import Data, open_data
from sailctl.core.curate.passes import PASS_FILE, Pass, Workers
from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import write_json
from sailctl.core.reporter import Reporter

PASS = "annotate"
DRAWN_FILE, COMMANDS, WORK = "drawn.json", "commands.json", "references"


@dataclass(frozen=True)
class AnnotateRequest:
    """The options of the command, as they were given."""

    data: Sequence[str]
    out: Path | None
    task: str = "quality"
    captions: str | None = None
    reference: str | None = None
    image_root: str | None = None
    samples: int = 200
    annotators: str | None = None
    double: float = 0.1
    seed: int = 0
    lang: str = "en"
    port: int = 8765

    def perform(self, reporter: Reporter, *, report_only: bool) -> dict[str, Any]:
        """Serve until Ctrl-C unless only a report is wanted; write the opinions; tell what they are.

        Raises UsageError for what was asked wrongly, DataError where what was written down is damaged.
        """
        if self.out is None:
            raise UsageError("where to? give --out, a folder for the answers")
        if report_only:
            return self._told()
        names = self._names()
        server.words(self.lang)
        data, items = self._prepare(names, reporter)
        self._serve(data, items, names, reporter)
        return self._told()

    def _names(self) -> tuple[str, ...]:
        names = tuple(name.strip() for name in (self.annotators or "").split(",") if name.strip())
        if not names:
            raise UsageError("who annotates? give --annotators ann,bo")
        if odd := [name for name in names if not re.fullmatch(r"\w[\w.-]{0,39}", name)]:
            raise UsageError(f"--annotators: {odd[0]!r} is no name: letters, digits, '_', '-' and '.', 40 at most")
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"--annotators: {twice[0]} is there twice")
        return names

    def _check(self) -> None:
        if self.task not in CRITERIA:
            raise UsageError(f"--task {self.task}: known: {', '.join(CRITERIA)}")
        if self.task == "gsb" and self.reference is None:
            raise UsageError("--task gsb compares two captions: give the other ones with --reference")
        if self.task == "sft" and self.reference is not None:
            raise UsageError("--task sft judges conversations by themselves: leave out --reference")
        if not 0 <= self.double <= 1:
            raise UsageError(f"--double {self.double:g}: is a share, 0 to 1")

    def _prepare(self, names: tuple[str, ...], reporter: Reporter) -> tuple[Data, list[Item]]:
        """The data and the items, drawn now or when this was first begun."""
        self._check()
        assert self.out is not None
        data = open_data(self.data, image_root=self.image_root, captions=self.captions, reporter=reporter)
        reference = None if self.reference is None else open_references(self.reference)
        parameters = {
            "task": self.task,
            "reference": None if reference is None else reference.fingerprint(),
            "samples": self.samples,
            "annotators": list(names),
            "double": self.double,
            "seed": self.seed,
        }
        Pass(PASS, self.out, parameters, data, Workers(), reporter).open()
        # Written down, so that a report by itself can name them.
        write_json(self.out / COMMANDS, {"go_on": self._command(), "then": self._judge()})
        path = self.out / ITEMS
        if not path.is_file():
            references = None
            if reference is not None:
                references = References(self.out / WORK)
                references.build(reference, reporter)
            drawn, left_out = draw(data, self.samples, self.seed, whole=self.task == "sft", references=references)
            write_json(self.out / DRAWN_FILE, {"drawn": len(drawn), "left_out": left_out})
            write_items(path, assign(drawn, names, self.double, self.seed))
            shutil.rmtree(self.out / WORK, ignore_errors=True)
            if len(drawn) < self.samples:
                passed = "".join(f", {name} {number}" for name, number in left_out.items())
                reporter.info(
                    f"--samples {self.samples}: only {len(drawn)} can be judged{passed}; all of them are taken"
                )
        if len(names) == 1 and self.double > 0:
            reporter.info("one annotator: no item is judged twice, so there will be no agreement to tell")
        return data, read_items(path)

    def _serve(self, data: Data, items: list[Item], names: tuple[str, ...], reporter: Reporter) -> None:
        assert self.out is not None
        fields = fields_of(self.task, pair=self.reference is not None)
        listening = server.listen(self.port)
        books: dict[str, Book] = {}
        try:
            for name in names:
                mine = [item.number for item in items if name in item.annotators]
                books[name] = Book(journal_path(self.out, name), fields, mine)
            desks = {name: Desk(name, self.task, items, self.seed, book) for name, book in books.items()}

            def images(number: int) -> tuple[bytes, ...]:
                item = items[number]
                return data.sources[item.origin].read(item.ordinal).images

            site = server.Site(desks, Pictures(images), self.lang, lambda: _agreement(items, books))
            running = server.make_server(site)
            port = listening.getsockname()[1]
            with contextlib.suppress(KeyboardInterrupt):  # the usual way to end
                for one in progress(items, dict(books)):
                    told = f"{one['done']} of {one['items']} done"
                    reporter.info(f"{one['name']} ({told}): {site.address(one['name'], port)}")
                reporter.info("Ctrl-C stops; every answer is kept, and the same command goes on")
                running.run(sockets=[listening])
        finally:
            listening.close()
            for book in books.values():
                book.close()

    def _told(self) -> dict[str, Any]:
        """What has been said so far, read from the folder alone."""
        assert self.out is not None
        begun = all((self.out / name).is_file() for name in (PASS_FILE, COMMANDS, ITEMS))
        told = _read_json(self.out / PASS_FILE) if begun else {}
        if told.get("pass") != PASS:
            raise UsageError(f"--out {self.out}: holds no annotation; begin one with --data and --annotators")
        known = told["parameters"]
        items = read_items(self.out / ITEMS)
        fields = fields_of(known["task"], pair=known["reference"] is not None)
        answers: dict[str, Answers] = {}
        for name in known["annotators"]:
            mine = [item.number for item in items if name in item.annotators]
            answers[name] = Answers.read(journal_path(self.out, name), fields, mine)
        found = results(known["task"], items, answers, self.out / OPINIONS)
        commands = _read_json(self.out / COMMANDS)
        return {**found, "next": commands["then" if found["complete"] else "go_on"]}

    def _command(self) -> str:
        """What goes on from here."""
        given = ["sailctl", "curate", "annotate"]
        for path in self.data:
            given += ["--data", path]
        options = {
            "--captions": self.captions, "--image-root": self.image_root, "--task": self.task,
            "--reference": self.reference, "--samples": self.samples, "--annotators": self.annotators,
            "--double": self.double, "--seed": self.seed, "--lang": self.lang, "--port": self.port, "--out": self.out,
        }  # fmt: skip
        for option, value in options.items():
            default = getattr(AnnotateRequest, option[2:].replace("-", "_"), None)
            if value is not None and value != default:
                given += [option, str(value)]
        return shlex.join(given)

    def _judge(self) -> str:
        """How a model judges the same, which is then compared with these people."""
        given = ["sailctl", "curate", "judge"]
        for path in self.data:
            given += ["--data", path]
        task = "gsb" if self.reference is not None else self.task
        options = {"--captions": self.captions, "--image-root": self.image_root, "--task": task,
                   "--reference": self.reference, "--people": self.out}  # fmt: skip
        for option, value in options.items():
            given += [] if value is None else [option, str(value)]
        return f"{shlex.join(given)} --endpoint URL --model NAME --out JUDGED"


def _agreement(items: Sequence[Item], books: dict[str, Book]) -> dict[str, Any]:
    """Agreement for the page, once all that two people judge is done by both."""
    both = [item for item in items if len(item.annotators) > 1]
    waiting = any(not books[name].is_done(item.number) for item in both for name in item.annotators)
    return {"doubled": len(both), "waiting": waiting, "agreement": {} if waiting else agreed(items, dict(books))}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); give another --out") from error
