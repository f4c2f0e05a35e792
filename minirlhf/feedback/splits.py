"""TODO"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from minirlhf.feedback.records import Comparison, Triple


def split_triples(
    triples: Sequence[Triple], heldout_share: float, seed: int, by: str = "text"
) -> tuple[list[Triple], list[Triple]]:
    """Split at random into (train, heldout), each in the order given.

    What is drawn is a whole text (`by="text"`: each different (topic, text)) or a whole topic (`by="topic"`),
    so no (topic, text) is ever on both sides. `heldout_share` is the share of these to hold out (rounded, at
    least one on each side; 0 holds out nothing). The split depends on the seed and on what is there, not on
    its order.
    Raises ValueError for a share outside [0, 1), an unknown `by`, or fewer than two to share out.
    """
    if not 0 <= heldout_share < 1:
        raise ValueError(f"heldout_share: expected at least 0 and under 1, found {heldout_share}")
    if by not in ("text", "topic"):
        raise ValueError(f'by: expected "text" or "topic", found {by!r}')
    keys = [(triple.topic, triple.text) if by == "text" else (triple.topic,) for triple in triples]
    groups = sorted(set(keys))
    if heldout_share == 0:
        return list(triples), []
    if len(groups) < 2:
        raise ValueError(
            f"triples: expected at least 2 different {by}s to split, found {len(groups)}"
        )
    random.Random(seed).shuffle(groups)
    heldout_count = min(max(round(heldout_share * len(groups)), 1), len(groups) - 1)
    heldout_keys = set(groups[:heldout_count])
    train = [triple for triple, key in zip(triples, keys) if key not in heldout_keys]
    heldout = [triple for triple, key in zip(triples, keys) if key in heldout_keys]
    return train, heldout


def split_comparisons(
    comparisons: Sequence[Comparison], heldout_share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Split at random into (train, heldout) so that no (topic, text) is on both sides; each in the order given.

    Texts that are linked by comparisons stay together: what is drawn is a whole group of them. Raises ValueError as
    `split_triples` does.
    """
    if not 0 <= heldout_share < 1:
        raise ValueError(f"heldout_share: expected at least 0 and under 1, found {heldout_share}")
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(text: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(text, text) != text:
            parent[text] = text = parent[parent[text]]
        return text

    for one in comparisons:
        first, second = sorted((root((one.topic, one.better)), root((one.topic, one.worse))))
        parent[second] = (
            first  # so a group's root is the first of its texts, whatever the order of the comparisons
        )
    groups: dict[tuple[str, str], list[int]] = {}
    for index, one in enumerate(comparisons):
        groups.setdefault(root((one.topic, one.better)), []).append(index)
    if heldout_share == 0:
        return list(comparisons), []
    if len(groups) < 2:
        raise ValueError(
            f"comparisons: expected at least 2 groups of linked texts to split, found {len(groups)}"
        )
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    wanted, heldout = heldout_share * len(comparisons), set()
    for group in order:
        size = len(heldout) + len(groups[group])
        if size - len(groups[group]) / 2 <= wanted and size < len(
            comparisons
        ):  # else it would go further over than it is short
            heldout.update(groups[group])
    if not heldout:
        heldout.update(groups[min(order, key=lambda group: len(groups[group]))])
    return (
        [one for index, one in enumerate(comparisons) if index not in heldout],
        [one for index, one in enumerate(comparisons) if index in heldout],
    )


def without(triples: Sequence[Triple], others: Sequence[Triple]) -> list[Triple]:
    """The triples whose text on its topic is not among `others`: a policy may write a held-out text again."""
    unseen = {(triple.topic, triple.text) for triple in others}
    return [triple for triple in triples if (triple.topic, triple.text) not in unseen]


def merged(triples: Sequence[Triple]) -> list[Triple]:
    """One triple for each (topic, text), with the mean of its lines' scores: raters may each have a line of their own."""
    lines: dict[tuple[str, str], list[Triple]] = {}
    for triple in triples:
        lines.setdefault((triple.topic, triple.text), []).append(triple)
    return [
        replace(same[0], score=sum(line.score for line in same) / len(same))
        for same in lines.values()
    ]


def triples_of_comparisons(comparisons: Sequence[Comparison]) -> list[Triple]:
    """Each text with the share of its comparisons that it won as its score: (wins + ties / 2 + 1/2) / (comparisons + 1).

    The half win and half loss that are added keep a text that was compared once from being perfect or worthless.
    """
    wins: dict[tuple[str, str], list[float]] = {}
    source = {}
    for one in comparisons:
        for text, won in ((one.better, 1.0), (one.worse, 0.0)):
            wins.setdefault((one.topic, text), []).append(0.5 if one.tie else won)
            source[one.topic, text] = one.provenance
    return [
        Triple(topic, text, (sum(won) + 0.5) / (len(won) + 1), (), source[topic, text])
        for (topic, text), won in wins.items()
    ]
