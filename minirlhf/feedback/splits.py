"""Splitting feedback into training and held-out parts, and turning comparisons into scores.

No text on a topic is ever on both sides of a split, since a held-out score that was learned by
heart measures nothing. Texts that differ only in white space or Unicode composition count as the
same (duplicates.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.duplicates import normal_key, representatives
from minirlhf.feedback.records import Comparison, Triple

Text = tuple[Prompt, ...]  # (topic, text)
Group = TypeVar("Group")


def split_triples(
    triples: Sequence[Triple], heldout_share: float, seed: int, by: str = "text"
) -> tuple[list[Triple], list[Triple]]:
    """Split at random into (train, heldout), each in the order given.

    Whole texts are drawn (`by="text"`: each different (topic, text)) or whole topics
    (`by="topic"`), so no (topic, text) is ever on both sides. `heldout_share` is the share of these
    to hold out (rounded, at least one on each side; 0 holds out nothing). The split depends on the
    seed and on which texts there are, not on their order. Raises ValueError for a share outside [0,
    1), an unknown `by`, or fewer than two texts or topics.
    """
    check_share(heldout_share)
    if by not in ("text", "topic"):
        raise ValueError(f'by: expected "text" or "topic", found {by!r}')
    keys: list[Text]
    if by == "text":
        keys = [(triple.topic, triple.text) for triple in triples]
    else:
        keys = [(triple.topic,) for triple in triples]
    group_of = representatives(keys)
    groups = sorted(set(group_of.values()))
    if heldout_share == 0:
        return list(triples), []
    if len(groups) < 2:
        raise ValueError(
            f"triples: expected at least 2 different {by}s to split, found {len(groups)}"
        )
    heldout_keys = draw_heldout(groups, heldout_share, seed)
    is_heldout = [group_of[key] in heldout_keys for key in keys]
    train = [triple for triple, held in zip(triples, is_heldout, strict=True) if not held]
    heldout = [triple for triple, held in zip(triples, is_heldout, strict=True) if held]
    return train, heldout


def draw_heldout(groups: Sequence[Group], heldout_share: float, seed: int) -> set[Group]:
    """A share of the groups (at least two) at random, rounded; at least one on each side."""
    drawn = list(groups)
    random.Random(seed).shuffle(drawn)
    count = min(max(round(heldout_share * len(drawn)), 1), len(drawn) - 1)
    return set(drawn[:count])


def split_comparisons(
    comparisons: Sequence[Comparison], heldout_share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Split at random into (train, heldout) so that no (topic, text) is on both sides.

    Texts that are linked by comparisons, or look the same, stay together: whole groups of them are
    drawn. Each side keeps the order given. Raises ValueError as `split_triples` does.
    """
    check_share(heldout_share)
    groups = _linked_groups(comparisons)
    if heldout_share == 0:
        return list(comparisons), []
    if len(groups) < 2:
        raise ValueError(
            f"comparisons: expected at least 2 groups of linked texts to split, found {len(groups)}"
            f" among {len(comparisons):,} comparisons: no text may be on both sides"
        )
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    goal = heldout_share * len(comparisons)
    heldout: set[int] = set()  # indices of comparisons
    for name in order:
        members = groups[name]
        size = len(heldout) + len(members)
        # Taken only if that leaves the size closer to the goal, and something to train on.
        if size - len(members) / 2 <= goal and size < len(comparisons):
            heldout.update(members)
    if not heldout:
        smallest = min(order, key=lambda name: len(groups[name]))
        heldout.update(groups[smallest])
    return (
        [one for index, one in enumerate(comparisons) if index not in heldout],
        [one for index, one in enumerate(comparisons) if index in heldout],
    )


def check_share(heldout_share: float) -> None:
    if not 0 <= heldout_share < 1:
        raise ValueError(f"heldout_share: expected at least 0 and under 1, found {heldout_share}")


def _linked_groups(comparisons: Sequence[Comparison]) -> dict[Text, list[int]]:
    """Comparisons linked by their texts (union-find): first text of a group -> their indices."""
    texts = [(one.topic, text) for one in comparisons for text in (one.better, one.worse)]
    same = representatives(texts)
    parent: dict[Text, Text] = {}

    def root(text: Text) -> Text:
        while parent.setdefault(text, text) != text:
            parent[text] = text = parent[parent[text]]
        return text

    for one in comparisons:
        first, second = sorted(
            (root(same[one.topic, one.better]), root(same[one.topic, one.worse]))
        )
        # The smaller one becomes the root, so that it does not depend on the order of the
        # comparisons.
        parent[second] = first
    groups: dict[Text, list[int]] = {}
    for index, one in enumerate(comparisons):
        groups.setdefault(root(same[one.topic, one.better]), []).append(index)
    return groups


def without(triples: Sequence[Triple], others: Sequence[Triple]) -> list[Triple]:
    """The triples whose (topic, text) is not in `others`: a policy may write a held-out text."""
    excluded = {normal_key((triple.topic, triple.text)) for triple in others}
    return [triple for triple in triples if normal_key((triple.topic, triple.text)) not in excluded]


def merged(triples: Sequence[Triple]) -> list[Triple]:
    """One triple for each (topic, text), with the mean of its scores (one per rater, say)."""
    lines: dict[Text, list[Triple]] = {}
    for triple in triples:
        lines.setdefault((triple.topic, triple.text), []).append(triple)
    result = []
    for same in lines.values():
        mean = sum(line.score for line in same) / len(same)
        result.append(replace(same[0], score=mean))
    return result


def triples_of_comparisons(comparisons: Sequence[Comparison]) -> list[Triple]:
    """Each text with the share of its comparisons that it won as its score.

    The score is (wins + ties / 2 + 1/2) / (comparisons + 1). The half win and half loss that are
    added keep a text that was compared once from being perfect or worthless.
    """
    wins: dict[tuple[Prompt, str], list[float]] = {}
    source = {}
    for one in comparisons:
        for text, won in ((one.better, 1.0), (one.worse, 0.0)):
            wins.setdefault((one.topic, text), []).append(0.5 if one.tie else won)
            source[one.topic, text] = one.provenance
    triples = []
    for (topic, text), results in wins.items():
        score = (sum(results) + 0.5) / (len(results) + 1)
        provenance = source[topic, text]
        triples.append(Triple(topic=topic, text=text, score=score, provenance=provenance))
    return triples
