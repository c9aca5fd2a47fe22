"""`sailctl curate stats`: what is in caption data, by source: languages, lengths, sizes, and the figures of Table 1.

The pass measures every sample (`stats_rows.py`); what follows merges its tables in constant memory (`stats_merge.py`)
and counts words of a sample of fixed size (`text_stats.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.curate.parts import Data, open_data
from sailctl.core.curate.passes import VERDICTS, Pass, default_workers, run_tasks
from sailctl.core.curate.stats.figures import figures
from sailctl.core.curate.stats.lengths import RecipeChoice
from sailctl.core.curate.stats.merge import LENGTHS, drawn_captions, tally
from sailctl.core.curate.stats.report import comparable, compare
from sailctl.core.curate.stats.rows import Drawing, Measure
from sailctl.core.curate.stats.tagging import tagger_of, tools
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Reporter

SAMPLE = 10_000  # captions, as in the paper
UNIT = {"en": "words", "zh": "characters"}  # of lengths


@dataclass(frozen=True)
class StatsRequest:
    """What is asked for; `recipe` with `stage` and `overrides` adds tokens and tiles, `sample` captions are tagged.

    `against` is the folder of another pass that this one is compared with.
    """

    data: Sequence[str]
    out: Path | None
    image_root: str | None = None
    captions: str | None = None
    recipe: str | None = None
    stage: str | None = None
    overrides: Sequence[str] = ()
    sample: int = SAMPLE
    seed: int = 0
    tagger: str = "textblob"
    against: Path | None = None
    processes: int | None = None
    ray: str | None = None

    def run(self, reporter: Reporter) -> dict[str, Any]:
        """Make the statistics, or go on where they stood, or read them where they are done. Raises UsageError."""
        if self.out is None:
            raise UsageError("no place for the statistics: give --out FOLDER")
        if self.recipe is None and (self.stage is not None or self.overrides):
            raise UsageError("--stage and --set belong to a recipe; give --recipe NAME with them")
        told = tools(self.tagger)
        if self.against is not None:
            comparable(told, self.against)  # better now than after hours
        if self.tagger == "nltk":
            tagger_of("en", self.tagger)  # whether its data are there is to be known before the first sample
        recipe = None if self.recipe is None else RecipeChoice(self.recipe, self.stage, tuple(self.overrides))
        data = open_data(self.data, image_root=self.image_root, captions=self.captions, reporter=reporter)
        drawing = Drawing(self.sample, self.seed)
        parameters = {
            "sample": self.sample,
            "seed": self.seed,
            "tools": told,
            "recipe": None if recipe is None else recipe.decides(),
        }
        workers = default_workers(self.processes, self.ray)
        made = Pass("stats", self.out, parameters, data, workers, reporter)
        if not made.open():
            measure = Measure(data, self.out, drawing, self.tagger, recipe)
            sizes = {part.name: part.stop - part.first for part in data.parts}
            run_tasks(measure, data.parts, self.out / VERDICTS, workers, reporter, "stats", sizes)
            made.finish({**_merge(made, data, drawing, self.tagger, recipe is not None), **parameters})
        assert made.summary is not None
        if self.against is None:
            return made.summary
        compared, others = compare(made.summary, self.against)
        return {**made.summary, "against": str(self.against), "comparison": compared, "not_compared": others}

    def next(self, result: dict[str, Any]) -> str:
        """The command that usually comes next."""
        if result["lengths"]:
            stage = result["recipe"]["stage"]
            return f"sailctl plan --recipe {self.recipe} --stage {stage} --lengths {self.out}/{LENGTHS}"
        return f"sailctl curate filter --data {self.data[0]} --out filtered"


def _merge(made: Pass, data: Data, drawing: Drawing, english: str, lengths: bool) -> dict[str, Any]:
    tallies, drawn = tally(made, drawing, lengths)
    captions = drawn_captions(made, drawing, drawn, english)
    sources: list[str | None] = [source.name for source in data.sources]
    rows = []
    for source in [*sources, None] if len(sources) > 1 else sources:
        for language, unit in UNIT.items():
            some = captions.get((source, language))
            if some is not None:
                rows.append(
                    {
                        "source": source,
                        "lang": language,
                        "captions": tallies[source].languages[language],
                        "sample": len(some),
                        "length_unit": unit,
                        "words": len(some.ids) / len(some),
                        **figures(some, drawing.seed),
                    }
                )
    return {
        "table": rows,
        "sources": [{"source": source, **tallies[source].described()} for source in sources],
        "all": tallies[None].described(),
        "lengths": LENGTHS if lengths else None,
    }
