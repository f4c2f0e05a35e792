"""TODO"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from minirlhf.tasks.reviews.download import INSTALL


def judge(topic: str, text: str) -> float:
    """VADER's compound score of the text, from [-1, 1] to [0, 1]; 0.5 is neutral. The topic plays no part.

    Raises ValueError if vaderSentiment is not installed. Source: Hutto and Gilbert (2014).
    """
    return (_vader().polarity_scores(text)["compound"] + 1) / 2


def fluency(text: str) -> float:
    """Mean log-probability of the text's words, each given the word before it; nats a word (under 0; higher: likelier).

    Words are runs of ASCII letters and digits, lower-cased, apostrophes dropped ("don't" is "dont", as in the counts).
    p(w | v) = count(v w) / count(v) if the pair is listed, else BACKOFF * count(w) / total: scores, not a
    normalised distribution. A word that is not listed counts as often as the rarest listed one, however long it is.
    The first word follows "<s>". A text without words counts as one unknown word.
    Raises ValueError if wordsegment (web counts of 333,213 words and 258,437 pairs) is not installed.
    """
    unigrams, bigrams, total, rarest = _counts()
    words = re.findall(r"[a-z0-9]+", re.sub("['’]", "", text.lower())) or ["<unknown>"]
    log_prob, previous = 0.0, "<s>"
    for word in words:
        pair, context = bigrams.get(f"{previous} {word}"), unigrams.get(previous)
        if pair and context:
            log_prob += math.log(
                min(1.0, pair / context)
            )  # the two lists were cut apart: a ratio can pass 1
        else:
            log_prob += math.log(BACKOFF * unigrams.get(word, rarest) / total)
        previous = word
    return log_prob / len(words)


@lru_cache(maxsize=1)
def _vader():
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ValueError(f"the judge of task reviews needs vaderSentiment: {INSTALL}") from error
    return SentimentIntensityAnalyzer()


@lru_cache(maxsize=1)
def _counts() -> tuple[dict[str, float], dict[str, float], float, float]:
    """(word counts with "<s>" added, pair counts, words counted in all, count of the rarest word)."""
    try:
        import wordsegment
    except ImportError as error:
        raise ValueError(f"fluency needs wordsegment: {INSTALL}") from error
    segmenter = wordsegment.Segmenter()
    segmenter.load()
    rarest = min(segmenter.unigrams.values())
    starts = sum(count for pair, count in segmenter.bigrams.items() if pair.startswith("<s> "))
    return {**segmenter.unigrams, "<s>": starts}, segmenter.bigrams, segmenter.total, rarest


BACKOFF = (
    0.4  # Brants et al. (2007), Large Language Models in Machine Translation: "stupid backoff"
)


JUDGE_NAME = "VADER compound score, (compound + 1) / 2"
