"""Checks one line of a feedback file; each fault is a message "field: expected ..., found ..."."""

from __future__ import annotations

import re
from collections.abc import Iterable

from minirlhf.feedback.conversation import ROLES
from minirlhf.system.files import shown

TEXT = "a text that is not empty"
MISSING = "found no such field"
NAMES = ("provenance", "rater")  # fields that a record may lack
SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair: no character by itself

# The two kinds of feedback, and the fields that each must have.
SCORES, COMPARISONS = "scores", "comparisons"
FIELDS = {SCORES: ("topic", "text", "score"), COMPARISONS: ("topic", "better", "worse")}
NOUNS = {SCORES: "scored texts", COMPARISONS: "comparisons"}
DEMONSTRATION = ("prompt", "answer")  # the fields of a demonstration
TURN = ("role", "text")  # and those of a turn of its prompt
RANKING = ("prompt", "answers", "ranks")  # the fields of a ranking
# What other programs call the same.
OTHER_NAMES = {
    "prompt": ("topic", "instruction", "question", "query", "input", "messages", "turns"),
    "answer": ("text", "response", "completion", "output", "content"),
    "answers": ("responses", "completions", "outputs", "texts"),
    "ranks": ("ranking", "rank", "order"),
    "role": ("from", "speaker", "author"),
    "topic": ("prompt", "instruction", "question", "query", "input"),
    "text": ("response", "completion", "answer", "output", "content"),
    "score": ("rating", "reward", "label", "grade", "stars"),
    "better": ("chosen", "preferred", "winner"),
    "worse": ("rejected", "dispreferred", "loser"),
}


def kind_of(record: dict) -> str | None:
    """Which kind of feedback a record looks like, by its fields' names; None if like neither."""
    also = {field for field, _ in renames(record, OTHER_NAMES)}
    for fields in (record.keys(), also):  # the right names decide; others only where there are none
        of_comparison = len(fields & {"better", "worse"})
        of_score = len(fields & {"text", "score"})
        if of_comparison or of_score:
            return COMPARISONS if of_comparison > of_score else SCORES
    return None


def renames(record: dict, fields: Iterable[str]) -> list[tuple[str, str]]:
    """(field, name that the record has for it) for the fields that it has under another name."""
    names = {name.lower(): name for name in record}
    found = []
    for field in fields:
        if field in record:
            continue
        for other in (field, *OTHER_NAMES[field]):
            if other in names:
                found.append((field, names[other]))
                break
    return found


def record_faults(
    record: dict, kind: str, low: float, high: float, conversations: bool = False
) -> list[str]:
    """Every fault of a record that should be of this kind, its scores from `low` to `high`.

    Fields under other names are one fault, which says how to rename them.
    """
    if kind == SCORES:
        faults = triple_faults(record, low, high, conversations)
    else:
        faults = comparison_faults(record, conversations)
    return with_renames(record, FIELDS[kind], faults)


def with_renames(record: dict, expected_fields: tuple[str, ...], faults: list[str]) -> list[str]:
    """The faults; those of fields under other names become one, which says how to rename them."""
    renamed = renames(record, expected_fields)
    if not renamed:
        return faults
    fields = {field for field, _ in renamed}
    faults = [fault for fault in faults if fault.partition(":")[0] not in fields]
    names = [shown(name, quote=False) for _, name in renamed]
    how = ", ".join(f"{name} to {field}" for (field, _), name in zip(renamed, names, strict=True))
    found = ", ".join(names)
    expected = ", ".join(expected_fields)
    return [f"expected the fields {expected}; found {found}; rename {how}", *faults]


def triple_faults(record: dict, low: float, high: float, conversations: bool = False) -> list[str]:
    """Every fault of a record that should be a scored text, its scores from `low` to `high`.

    `conversations`: its topic may also be one.
    """
    faults, fields = _topic_faults(record, ("text",), conversations)
    number = f"a number from {low:g} to {high:g}"
    if "score" not in record:
        faults.append(f"score: expected {number}, {MISSING}")
    elif not _is_number_in(record["score"], low, high):
        faults.append(f"score: expected {number}, found {shown(record['score'])}")
    if "ratings" in record:
        ratings = record["ratings"]
        if isinstance(ratings, list) and ratings:
            for place, rating in enumerate(ratings):
                if not _is_number_in(rating, low, high):
                    faults.append(f"ratings[{place}]: expected {number}, found {shown(rating)}")
        else:
            expected = "a list of numbers that is not empty"
            faults.append(f"ratings: expected {expected}, found {shown(ratings)}")
    return faults + _character_faults(record, fields)


def comparison_faults(record: dict, conversations: bool = False) -> list[str]:
    """Every fault of a record that should be a comparison; `conversations` as in triple_faults."""
    faults, fields = _topic_faults(record, ("better", "worse"), conversations)
    if not faults and record["better"] == record["worse"]:
        faults.append("worse: expected another text than better, found the same")
    if not isinstance(record.get("tie", False), bool):
        faults.append(f"tie: expected true or false, found {shown(record['tie'])}")
    return faults + _character_faults(record, fields)


def _topic_faults(
    record: dict, texts: tuple[str, ...], conversations: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The faults of topic and texts, and which of these fields are texts.

    `conversations`: the topic may also be one, whose turns are checked here.
    """
    if conversations and isinstance(record.get("topic"), list):
        return _turns_faults("topic", record["topic"]) + _text_faults(record, texts), texts
    fields = ("topic", *texts)
    return _text_faults(record, fields), fields


def demonstration_faults(record: dict) -> list[str]:
    """Every fault of a record that should be a demonstration (demonstrations.py)."""
    faults = _prompt_faults(record)
    faults += _text_faults(record, ("answer",)) + _surrogate_faults(record, ("answer",))
    return with_renames(record, DEMONSTRATION, faults)


def _prompt_faults(record: dict) -> list[str]:
    """Every fault of the field `prompt`, a text or a conversation."""
    prompt = record.get("prompt")
    if isinstance(prompt, list):
        return _turns_faults("prompt", prompt)
    return _text_faults(record, ("prompt",)) + _surrogate_faults(record, ("prompt",))


def ranking_faults(record: dict) -> list[str]:
    """Every fault of a record that should be a ranking (rankings.py)."""
    faults = _prompt_faults(record)
    answers = _list_faults(record, "answers", "texts") or _answers_faults(record["answers"])
    faults += answers
    ranks = _list_faults(record, "ranks", "whole numbers")
    if not ranks and not answers:
        ranks = _ranks_faults(record["ranks"], record["answers"])
    return with_renames(record, RANKING, faults + ranks + name_faults(record))


def _list_faults(record: dict, field: str, of_what: str) -> list[str]:
    """The fault of a field that should be a list of two or more."""
    expected = f"{field}: expected a list of at least two {of_what}"
    if field not in record:
        return [f"{expected}, {MISSING}"]
    value = record[field]
    if not isinstance(value, list):
        return [f"{expected}, found {shown(value)}"]
    return [f"{expected}, found {len(value)}"] if len(value) < 2 else []


def _answers_faults(answers: list) -> list[str]:
    """Every fault of the single answers; one may be empty."""
    faults = []
    for place, answer in enumerate(answers):
        field = f"answers[{place}]"
        if not isinstance(answer, str):
            faults.append(f"{field}: expected a text, found {shown(answer)}")
        faults += _surrogate_faults({field: answer}, (field,))
    return faults


def _ranks_faults(ranks: list, answers: list[str]) -> list[str]:
    """Every fault of the ranks of these answers."""
    count = len(answers)
    if len(ranks) != count:
        return [f"ranks: expected one for each of the {count} answers, found {len(ranks)}"]
    faults = []
    for place, rank in enumerate(ranks):
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= count:
            found = f"found {shown(rank)}"
            faults.append(f"ranks[{place}]: expected a whole number from 1 to {count}, {found}")
    if not faults and 1 not in ranks:
        faults.append(f"ranks: expected 1 for the best answer, found {min(ranks)} as the lowest")
    first: dict[str, int] = {}  # answer -> its first place
    for place, answer in enumerate(answers):
        same = first.setdefault(answer, place)
        if not faults and ranks[place] != ranks[same]:
            faults.append(
                f"ranks[{place}]: expected {ranks[same]}, the rank of the same text in "
                f"answers[{same}], found {ranks[place]}"
            )
    return faults


def _turns_faults(name: str, turns: list) -> list[str]:
    """Every fault of a conversation that waits for an answer: user, assistant, ..., user."""
    if not turns:
        return [f"{name}: expected a text or a list of turns, found an empty list"]
    faults = []
    for place, turn in enumerate(turns):
        where, role = f"{name}[{place}]", ROLES[place % 2]
        if not isinstance(turn, dict):
            faults.append(
                f'{where}: expected {{"role": "{role}", "text": ...}}, found {shown(turn)}'
            )
            continue
        own = _text_faults(turn, ("text",)) + _surrogate_faults(turn, ("text",))
        if turn.get("role") != role:
            found = f"found {shown(turn['role'])}" if "role" in turn else MISSING
            own.append(f'role: expected "{role}", as user and assistant take turns, {found}')
        for fault in with_renames(turn, TURN, own):
            faults.append(
                f"{where}: {fault}" if fault.startswith("expected") else f"{where}.{fault}"
            )
    if len(turns) % 2 == 0 and not faults:
        faults.append(f"{name}: expected the user's turn as the last, found the assistant's")
    return faults


def _text_faults(record: dict, fields: tuple[str, ...]) -> list[str]:
    """Required fields that are missing, not a string, or blank."""
    faults = []
    for field in fields:
        if field not in record:
            faults.append(f"{field}: expected {TEXT}, {MISSING}")
        elif not isinstance(record[field], str) or not record[field].strip():
            faults.append(f"{field}: expected {TEXT}, found {shown(record[field])}")
    return faults


def _character_faults(record: dict, fields: tuple[str, ...]) -> list[str]:
    """Optional names that are not strings, and strings that UTF-8 cannot encode."""
    return name_faults(record) + _surrogate_faults(record, fields)


def name_faults(record: dict) -> list[str]:
    """Every fault of the optional fields `provenance` and `rater`."""
    faults = []
    for name in NAMES:
        if not isinstance(record.get(name, ""), str):
            faults.append(f"{name}: expected a text, found {shown(record[name])}")
    return faults + _surrogate_faults(record, NAMES)


def _surrogate_faults(record: dict, fields: tuple[str, ...]) -> list[str]:
    faults = []
    for field in fields:
        value = record.get(field)
        if isinstance(value, str) and SURROGATE.search(value):
            found = f"half a surrogate pair in {shown(value)}"
            faults.append(f"{field}: expected whole characters, found {found}")
    return faults


def _is_number_in(value: object, low: float, high: float) -> bool:
    """True for a number in the range; False for a bool (an int to Python), NaN and infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
