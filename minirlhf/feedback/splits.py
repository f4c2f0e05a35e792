"""Splitting feedback into training and held-out parts, and turning comparisons into scores.

No text on a topic is ever on both sides of a split, since a held-out score that was learned by
heart measures nothing. Texts that differ only in white space or Unicode composition count as the
same (duplicates.py).
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from minirlhf.feedback.duplicates import normal_key, representatives
from minirlhf.feedback.records import Comparison, Triple

Text = tuple[str, ...]  # (topic, text)
LEAST_HELDOUT = 20  # held-out texts where there are enough: a correlation of fewer says little
LEAST_PAIRS = 10  # of the ranking loss, on either side
GAP_TOLERANCE = 1e-9  # .75 - .625 is a little under .125 to a computer


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
    _check_share(heldout_share)
    if by not in ("text", "topic"):
        raise ValueError(f'by: expected "text" or "topic", found {by!r}')
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
    random.Random(seed).shuffle(groups)
    heldout_count = min(max(round(heldout_share * len(groups)), 1), len(groups) - 1)
    heldout_keys = set(groups[:heldout_count])
    is_heldout = [group_of[key] in heldout_keys for key in keys]
    train = [triple for triple, held in zip(triples, is_heldout) if not held]
    heldout = [triple for triple, held in zip(triples, is_heldout) if held]
    return train, heldout


def split_to_measure(
    triples: Sequence[Triple], heldout_share: float, seed: int, min_gap: float | None = None
) -> tuple[list[Triple], list[Triple]]:
    """Split into (train, heldout) so that the held-out part is large enough to measure on.

    That is: LEAST_HELDOUT texts, or a fifth where there are too few. With `min_gap`, for the
    ranking loss, both sides also have pairs of texts on one topic whose scores are that far apart:
    whole topics are held out where texts drawn one by one leave fewer than LEAST_PAIRS. Raises ValueError, which says
    why, if that cannot be.
    """
    _check_share(heldout_share)
    texts = len({(triple.topic, triple.text) for triple in triples})
    least = min(LEAST_HELDOUT, max(4, texts // 5))
    share = max(heldout_share, min(0.5, least / max(texts, 1)))
    plain = split_triples(triples, share, seed)
    if min_gap is None or all(_pair_count(side, min_gap) >= LEAST_PAIRS for side in plain):
        return plain
    by_topic = _topics_with_pairs(triples, share, seed, min_gap)
    for train, heldout in (by_topic, plain, _one_pair(triples, share, seed, min_gap)):
        if has_pair(train, min_gap) and has_pair(heldout, min_gap):
            return train, heldout
    raise ValueError(_why_no_pairs(triples, min_gap))


def has_pair(triples: Sequence[Triple], min_gap: float) -> bool:
    """Whether two different texts on one topic have scores at least `min_gap` apart."""
    return any(_pair_candidates(lines, min_gap) for lines in _by_topic(triples).values())


def _pair_count(triples: Sequence[Triple], min_gap: float) -> int:
    """How many pairs of lines on one topic have scores at least `min_gap` apart."""
    count = 0
    for lines in _by_topic(triples).values():
        scores = sorted(triple.score for triple in lines)
        for place, score in enumerate(scores):  # with each lower one
            count += bisect_right(scores, score - min_gap + GAP_TOLERANCE, hi=place)
    return count


def _by_topic(triples: Sequence[Triple]) -> dict[str, list[Triple]]:
    topics: dict[str, list[Triple]] = {}
    for triple in triples:
        topics.setdefault(triple.topic, []).append(triple)
    return topics


def _pair_candidates(lines: Sequence[Triple], min_gap: float) -> list[tuple[Triple, Triple]]:
    """(better, worse) pairs of two of the best and two of the worst texts on one topic.

    If any two texts are `min_gap` apart, two of these are.
    """

    def by_score(some: Iterable[Triple]) -> list[Triple]:
        return sorted(some, key=lambda triple: triple.score)

    # A text may have several lines, one for each rater: its highest and its lowest score.
    highest = {triple.text: triple for triple in by_score(lines)}
    lowest = {triple.text: triple for triple in reversed(by_score(lines))}
    pairs = []
    for low in by_score(lowest.values())[:2]:
        for high in by_score(highest.values())[-2:]:
            if high.text != low.text and high.score - low.score >= min_gap - GAP_TOLERANCE:
                pairs.append((high, low))
    return pairs


def _topics_with_pairs(
    triples: Sequence[Triple], heldout_share: float, seed: int, min_gap: float
) -> tuple[list[Triple], list[Triple]]:
    """Hold out whole topics, at random, until they have a pair and are many texts enough."""
    by_topic = _by_topic(triples)
    with_pair = {topic for topic, lines in by_topic.items() if _pair_candidates(lines, min_gap)}
    # Topics without a pair serve neither side of this loss.
    order = sorted(with_pair)
    random.Random(seed).shuffle(order)
    goal = heldout_share * len(triples)
    heldout: set[str] = set()
    size = 0
    for topic in order[:-1]:  # one is left to train on
        if size < goal and size + len(by_topic[topic]) <= len(triples) / 2:
            heldout.add(topic)
            size += len(by_topic[topic])
    return (
        [triple for triple in triples if triple.topic not in heldout],
        [triple for triple in triples if triple.topic in heldout],
    )


def _one_pair(
    triples: Sequence[Triple], heldout_share: float, seed: int, min_gap: float
) -> tuple[list[Triple], list[Triple]]:
    """Hold out one pair, and of the other texts as many at random as the share asks for."""
    for _, lines in sorted(_by_topic(triples).items()):
        for pair in _pair_candidates(lines, min_gap):
            chosen = [triple for triple in triples if _same_text(triple, pair)]
            others = [triple for triple in triples if not _same_text(triple, pair)]
            if not has_pair(others, min_gap):
                continue
            for share in (heldout_share, 0.0):  # the others may hold one pair only
                train, more = split_triples(others, share, seed)
                if has_pair(train, min_gap):
                    return train, chosen + more
    return list(triples), []


def _same_text(triple: Triple, pair: tuple[Triple, Triple]) -> bool:
    key = normal_key((triple.topic, triple.text))
    return any(key == normal_key((one.topic, one.text)) for one in pair)


def _why_no_pairs(triples: Sequence[Triple], min_gap: float) -> str:
    by_topic = _by_topic(triples)
    with_pair = sum(bool(_pair_candidates(lines, min_gap)) for lines in by_topic.values())
    alone = sum(len({triple.text for triple in lines}) == 1 for lines in by_topic.values())
    found = "no topic has two such texts"
    if with_pair:
        found = "there are too few such texts to have some on both sides"
    return (
        "--reward.loss ranking: expected texts on one topic with scores at least "
        f"{min_gap:g} of the scale apart (--reward.min-gap), to learn from and to hold out; {found} "
        f"among the {len(triples):,} for the reward model ({alone:,} of {len(by_topic):,} topics "
        "have one text only)"
    )


def split_comparisons(
    comparisons: Sequence[Comparison], heldout_share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Split at random into (train, heldout) so that no (topic, text) is on both sides.

    Texts that are linked by comparisons, or look the same, stay together: whole groups of them are drawn. Each side
    keeps the order given. Raises ValueError as `split_triples` does.
    """
    _check_share(heldout_share)
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


def _check_share(heldout_share: float) -> None:
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
    wins: dict[Text, list[float]] = {}
    source = {}
    for one in comparisons:
        for text, won in ((one.better, 1.0), (one.worse, 0.0)):
            wins.setdefault((one.topic, text), []).append(0.5 if one.tie else won)
            source[one.topic, text] = one.provenance
    triples = []
    for (topic, text), won in wins.items():
        score = (sum(won) + 0.5) / (len(won) + 1)
        provenance = source[topic, text]
        triples.append(Triple(topic=topic, text=text, score=score, provenance=provenance))
    return triples
