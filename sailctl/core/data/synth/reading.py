"""Text questions without a picture: a short passage of facts and a question whose answer stands in the passage."""

from __future__ import annotations

from sailctl.core.data.synth import words
from sailctl.core.data.synth.item import Brief, Draw, SynthItem
from sailctl.core.data.synth.scenes import COLOR_NAMES


def text_qa(brief: Brief, draw: Draw) -> SynthItem:
    """`level` + 1 facts about people, things, colours and rooms, all different; one of them is asked for."""
    level = brief.level
    count = level + 1
    people, objects = draw.sample(words.PEOPLE, count), draw.sample(words.OBJECTS, count)
    colors, rooms = draw.sample(COLOR_NAMES, count), draw.sample(words.ROOMS, count)
    facts: list[tuple[str, list[tuple[str, str, str]]]] = []  # sentence, (question, answer, kind) it can answer
    for person, thing, color, room in zip(people, objects, colors, rooms, strict=True):
        form = draw.choice(("has",) if level == 1 else ("has", "has", "is_in", "keeps"))
        if form == "has":
            questions = [
                (words.ASK_WHO.format(object=thing), person, "person"),
                (words.ASK_WHAT.format(person=person), thing, "object"),
                (words.ASK_COLOR.format(object=thing), color, "color"),
            ]
            if level == 3:
                questions.append((words.ASK_PERSON_COLOR.format(object=thing, person=person), color, "color"))
            facts.append(
                (words.HAS.format(person=person, article=words.article(color), color=color, object=thing), questions)
            )
        elif form == "is_in":
            where = (words.ASK_WHERE.format(person=person), room, "room")
            who = (words.ASK_WHO_IN.format(room=room), person, "person")
            facts.append((words.IS_IN.format(person=person, room=room), [where, who]))
        else:
            where = (words.ASK_WHERE_OBJECT.format(object=thing), room, "room")
            facts.append((words.KEEPS.format(object=thing, room=room), [where]))
    question, answer, kind = draw.choice(draw.choice(facts)[1])
    passage = " ".join(sentence for sentence, _ in facts)
    references = (answer, f"the {answer}") if kind == "room" else (answer,)
    return SynthItem(None, f"{passage}\n{question}", answer, references, (), (), brief.task, level, kind)
