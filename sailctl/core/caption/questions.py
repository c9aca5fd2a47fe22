"""Which questions a sample gives, task by task, and what each is called in the books."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass

from sailctl.core.caption.job import Job
from sailctl.core.caption.ledger import Ledger
from sailctl.core.engines.ask import Ask
from sailctl.core.records import Sample, Turn

RETRY_TEMPERATURE = 0.7  # the second try at an answer of no use is another one


@dataclass(slots=True)
class Question:
    """A question on its way: whose it is, what is asked, and what was spent on it before.

    One that is made `after` another's answer (its name) has no text before that is there.
    """

    ledger: Ledger
    name: str
    task: str
    row: int
    sample_id: str
    text: str
    prompt_id: str
    images: tuple[bytes, ...]
    alt_text: str | None
    after: str = ""
    attempts: int = 0
    again: bool = False

    def ask(self, key: str) -> Ask:
        """The question as an engine is asked it; a second try is warmer, and has a seed of its own."""
        parameters = self.ledger.job.parameters
        return Ask(
            key=key,
            turns=(Turn("user", self.text),),
            images=self.images,
            max_tokens=parameters.max_tokens,
            temperature=max(parameters.temperature, RETRY_TEMPERATURE) if self.again else parameters.temperature,
            seed=1 if self.again else None,
        )

    def fill(self, caption: str) -> None:
        """Make the text, now that the caption it is about is there."""
        prompt = next(prompt for prompt in self.ledger.job.prompts if prompt.task == self.task)
        self.text, _ = prompt.render(self.alt_text, caption)


def questions_of(ledger: Ledger, row: int, sample: Sample) -> list[Question]:
    """Note a sample and the questions it gives; returns those that are neither answered nor asked yet.

    The alt-text is the sample's own or, without one, its bare caption. Questions and answers are made from the
    description of the same pass where there is one, else from the bare caption; a sample without either refuses.
    """
    asks: dict[str, str] = {}
    refused: list[dict[str, str]] = []
    questions: list[Question] = []
    own = sample.turns[0].text if sample.is_bare_caption else None
    alt_text = sample.alt_text if sample.alt_text and sample.alt_text.strip() else own
    for prompt in ledger.job.prompts:
        task, after = prompt.task, asks.get("detailed", "") if prompt.task == "qa" else ""
        if task == "qa" and not after and own is None:
            detail = "no caption to make questions from; add --task detailed, or give the data captions"
            refused.append({"task": task, "reason": "no_turns", "detail": detail})
            continue
        text, prompt_id = prompt.render(alt_text, own)
        asks[task] = name = _name(ledger.job, sample.id, task, prompt_id, alt_text if prompt.uses_alt_text else None)
        questions.append(
            Question(ledger, name, task, row, sample.id, text, prompt_id, sample.images, alt_text, after)
        )  # fmt: skip
    ledger.note_row(row, sample.id, sample.key, asks, refused)
    fresh = [question for question in questions if question.name not in ledger.waiting]
    fresh = [question for question in fresh if ledger.answer(question.name) is None]
    for question in fresh:
        ledger.waiting.add(question.name)
        question.attempts = ledger.tries(question.name)
        question.again = question.attempts > 0
    return fresh


def _name(job: Job, sample_id: str, task: str, prompt_id: str, alt_text: str | None) -> str:
    """What an answer is journaled under: a hash of everything that decides it."""
    told = repr((sample_id, task, job.lang, prompt_id, alt_text, job.model, astuple(job.parameters)))
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
