"""The reward model's own split: what it is measured on keeps what loss and statistics need.

A ranking loss needs pairs of texts on one topic on both sides, and few of the texts that are drawn
one by one have a partner.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.duplicates import normal_key
from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import check_share, split_triples

LEAST_HELDOUT = 20  # held-out texts where there are enough: a correlation of fewer says little
LEAST_PAIRS = 10  # of the ranking loss, on either side
GAP_TOLERANCE = 1e-9  # .75 - .625 is a little under .125 to a computer


def split_to_measure(
    triples: Sequence[Triple], heldout_share: float, seed: int, min_gap: float | None = None
) -> tuple[list[Triple], list[Triple]]:
    """Split into (train, heldout) so that the held-out part is large enough to measure on.

    That is: LEAST_HELDOUT texts, or a fifth where there are too few. With `min_gap`, for the
    ranking loss, both sides also have pairs of texts on one topic whose scores are that far apart:
    whole topics are held out where texts drawn one by one leave fewer than LEAST_PAIRS. Raises
    ValueError, which says why, if that cannot be.
    """
    check_share(heldout_share)
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


def _by_topic(triples: Sequence[Triple]) -> dict[Prompt, list[Triple]]:
    topics: dict[Prompt, list[Triple]] = {}
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
    heldout: set[Prompt] = set()
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
        f"{min_gap:g} of the scale apart (--reward.min-gap), to learn from and to hold out; "
        f"{found} "
        f"among the {len(triples):,} for the reward model ({alone:,} of {len(by_topic):,} topics "
        "have one text only)"
    )
