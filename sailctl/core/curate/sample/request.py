"""`sailctl curate sample`: a balanced part of data, of exactly the size asked for, as verdicts beside them.

Three steps: a map over parts notes who may be drawn and in which group (`work/`), the drawing decides over arrays
(about 60 bytes a sample), and a second map writes the verdicts. Only ids, groups and the seed decide.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from shlex import quote
from typing import Any

from sailctl.core.curate.join import Columns, Lookup, column_names, content
from sailctl.core.curate.parts import Data, open_data
from sailctl.core.curate.passes import PASS_FILE, Pass, Workers, default_workers, run_tasks, write_table
from sailctl.core.curate.sample.choose import choose
from sailctl.core.curate.sample.clusters import cluster
from sailctl.core.curate.sample.concepts import Concepts
from sailctl.core.curate.sample.quota import parse_count, parse_quotas
from sailctl.core.curate.sample.rows import OF_SAMPLES, Candidates, Drawn, Grouping, Told, same_data
from sailctl.core.data.verdicts import VERDICTS
from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.reporter import Reporter

CANDIDATES, CLUSTERS = "work/candidates", "work/clusters.parquet"


@dataclass
class SampleRequest:
    """What `sailctl curate sample` was asked."""

    data: Sequence[str]
    verdicts: Sequence[str] = ()
    samples: str | None = None
    by: str | None = None
    cap: int | None = None
    quota: Sequence[str] = ()
    natural: bool = False
    concepts: Path | None = None
    embeddings: str | None = None
    clusters: int | None = None
    even_ngrams: int | None = None
    seed: int = 0
    out: Path | None = None
    image_root: str | None = None
    captions: str | None = None
    processes: int | None = None
    ray: str | None = None

    def perform(self, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
        """Draw, or with `dry_run` say what would be drawn and leave nothing behind. Raises UsageError, DataError."""
        size, quotas = self._checked(dry_run)
        data = open_data(self.data, image_root=self.image_root, captions=self.captions, reporter=reporter)
        workers = default_workers(self.processes, self.ray)
        if not dry_run:
            assert self.out is not None
            return self._draw(self.out, data, size, quotas, workers, reporter, dry_run=False)
        with tempfile.TemporaryDirectory(prefix="sailctl-sample-") as folder:
            return self._draw(Path(folder), data, size, quotas, workers, reporter, dry_run=True)

    def _draw(
        self, out: Path, data: Data, size: int | None, quotas: dict[str, Fraction], workers: Workers,
        reporter: Reporter, *, dry_run: bool,
    ) -> dict[str, Any]:  # fmt: skip
        made = Pass("sample", out, self._parameters(size, quotas), data, workers, reporter)
        if made.open():
            assert made.summary is not None
            return made.summary
        try:
            grouping = self._grouping(out, reporter)
            lookups = tuple(Lookup.open(path, ["keep", "reason", "detail"]) for path in self.verdicts)
            known = next((path for path in self.verdicts if same_data(path, data)), None)
            work = Candidates(data, lookups, grouping, self.even_ngrams, known)
            sizes = {part.name: part.stop - part.first for part in data.parts}
            run_tasks(work, data.parts, out / CANDIDATES, workers, reporter, "groups", sizes)
            choice = choose(made.tables(CANDIDATES), len(data), self, size, quotas)
        except SailctlError as error:
            if error.exit_code == UsageError.exit_code:  # the folder is free for a request that can be met
                shutil.rmtree(out / "work", ignore_errors=True)
                (out / PASS_FILE).unlink(missing_ok=True)
            raise
        if dry_run:
            return {**choice.summary, "warnings": list(data.warnings)}
        tasks, first = [], 0
        for part in data.parts:
            tasks.append(Drawn(part.name, first))
            first += part.stop - part.first
        told = Told(out / CANDIDATES, choice.bits, self.by is not None, self.concepts is not None)
        run_tasks(told, tasks, out / VERDICTS, workers, reporter, "verdicts", sizes)
        return made.finish(choice.summary)

    def next(self) -> str:
        """The command that usually comes next: the samples drawn as shards of their own."""
        words = ["sailctl curate write", *(f"--data {quote(path)}" for path in self.data)]
        given = (("--image-root", self.image_root), ("--captions", self.captions))
        words += [f"{option} {quote(value)}" for option, value in given if value is not None]
        return " ".join([*words, f"--verdicts {quote(str(self.out))}", "--out DIR"])

    def _checked(self, dry_run: bool) -> tuple[int | None, dict[str, Fraction]]:
        """Size and quotas; raises UsageError for options that do not fit together, and settles `by`."""
        for option, value, meaning in (("--concepts", self.concepts, "concepts"), ("--embeddings", self.embeddings,
                                       "cluster")):  # fmt: skip
            if value is not None and self.by not in (None, meaning):
                raise UsageError(f"{option} means --by {meaning}, but --by {self.by} is given; give one of them")
            self.by = meaning if value is not None else self.by
        if self.concepts is not None and self.embeddings is not None:
            raise UsageError("--concepts and --embeddings are two ways to balance; give one of them")
        if self.by == "concepts" and self.concepts is None:
            raise UsageError("--by concepts: give the list with --concepts FILE, a word or phrase a line")
        if self.clusters is not None and self.embeddings is None:
            raise UsageError(f"--clusters {self.clusters}: of what? give --embeddings DIR")
        if self.out is None and not dry_run:
            raise UsageError("--out DIR is missing: the folder that is to hold the verdicts")
        size, quotas = None if self.samples is None else parse_count(self.samples), parse_quotas(self.quota)
        if size is None and self.cap is None:
            raise UsageError("how many? give --samples N, or --by and --cap N for so many of each group")
        for option, given in (("--cap", self.cap is not None), ("--quota", bool(quotas)), ("--natural", self.natural)):
            if given and self.by is None:
                raise UsageError(f"{option} is about groups; say which with --by, such as --by source")
        if quotas and size is None:
            raise UsageError("--quota: shares of how many? give --samples N")
        if self.by == "concepts" and (quotas or self.natural):
            option = "--quota" if quotas else "--natural"
            raise UsageError(f"{option} needs groups that share no samples; a caption may name several concepts")
        return size, quotas

    def _parameters(self, size: int | None, quotas: dict[str, Fraction]) -> dict[str, Any]:
        return {
            "samples": size, "by": self.by, "cap": self.cap, "quota": {name: str(one) for name, one in quotas.items()},
            "natural": self.natural, "concepts": _hashed(self.concepts), "clusters": self.clusters,
            "embeddings": None if self.embeddings is None else _content(self.embeddings),
            "even_ngrams": self.even_ngrams, "seed": self.seed,
            "verdicts": [content(path) for path in self.verdicts],
        }  # fmt: skip

    def _grouping(self, out: Path, reporter: Reporter) -> Grouping:
        if self.concepts is not None:
            return Grouping(self.by, concepts=Concepts.read(self.concepts))
        if self.embeddings is not None:
            path = out / CLUSTERS
            if not path.is_file():
                reporter.info(f"clustering the embeddings at {self.embeddings}")
                write_table(path, cluster(self.embeddings, self.clusters, self.seed))
            return Grouping(self.by, Columns.open([str(path)], ["cluster"]))
        holders = [path for path in self.verdicts if self.by in column_names(path)]
        if self.by is None or (self.by in OF_SAMPLES and (self.by != "lang" or not holders)):
            return Grouping(self.by)
        if not holders:
            raise UsageError(
                f"--by {self.by}: is none of {', '.join(OF_SAMPLES)}, and no column of the tables given with "
                "--verdicts; give the folder of the pass that made it"
            )
        return Grouping(self.by, Columns.open(self.verdicts, [self.by]))


def _content(embeddings: str) -> str:
    try:
        return content(embeddings)
    except UsageError:
        raise UsageError(
            f"--embeddings {embeddings}: no embeddings (.parquet) there; give Parquet with a column id and a column of "
            "vectors (lists of numbers)"
        ) from None


def _hashed(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise UsageError(f"--concepts {path}: cannot be read: {error.strerror}; give a text file") from None
