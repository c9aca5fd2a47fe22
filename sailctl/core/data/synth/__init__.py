"""Pictures, questions and answers made to order: training and held-out data to try any recipe with.

Deterministic by (task, level, seed, index, split). This room draws and writes; reading the written shards is the
business of `sailctl.core.data.sources`.
"""

from sailctl.core.data.synth.generate import generate
from sailctl.core.data.synth.item import LEVELS, TASKS, SynthItem
from sailctl.core.data.synth.layouts import item_to_record
from sailctl.core.data.synth.shards import write_shards
from sailctl.core.data.synth.words import vocabulary

__all__ = ["LEVELS", "TASKS", "SynthItem", "generate", "item_to_record", "vocabulary", "write_shards"]
