"""Two judges of film-review sentences that never saw the people's scores: VADER and word fluency.

- VADER's compound score: a word list with rules for negation and emphasis. It says whether a text
  sounds
  positive.
- word-bigram fluency: how likely the words follow each other. A text can be positive but
  ungrammatical;
  then VADER rises and fluency falls. Fluency does not punish repetition ("the film of the film of
  the film" is likely word by word).
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from minirlhf.tasks.reviews.download import INSTALL

JUDGE_NAME = "VADER compound score, (compound + 1) / 2"
BACKOFF = (
    0.4  # "stupid backoff": Brants et al. (2007), Large Language Models in Machine Translation
)


def judge(topic: str, text: str) -> float:
    """VADER's compound score of the text, in [0, 1]; 0.5 is neutral. The topic plays no part.

    Raises ValueError if vaderSentiment is not installed. Source: Hutto and Gilbert (2014).
    """
    return (vader_analyzer().polarity_scores(text)["compound"] + 1) / 2


def fluency(text: str) -> float:
    """Mean log-probability of the text's words, each given the word before it.

    In nats per word: negative, and higher is more likely. Words are runs of ASCII letters and
    digits, lower-cased, apostrophes dropped ("don't" is "dont", as in the counts). p(w | v) =
    count(v w) / count(v) if the pair is listed, else BACKOFF * count(w) / total: a score, not a
    normalised distribution. A word that is not listed gets the count of the rarest listed one. The
    first word follows "<s>". A text without words counts as one unknown word. Raises ValueError if
    wordsegment (web counts of 333,213 words and 258,437 pairs) is not installed.
    """
    unigrams, bigrams, total, rarest = word_counts()
    words = re.findall(r"[a-z0-9]+", re.sub("['’]", "", text.lower())) or ["<unknown>"]
    log_prob, previous = 0.0, "<s>"
    for word in words:
        pair, context = bigrams.get(f"{previous} {word}"), unigrams.get(previous)
        if pair and context:
            # The two lists were truncated separately, so the ratio can exceed 1.
            log_prob += math.log(min(1.0, pair / context))
        else:
            log_prob += math.log(BACKOFF * unigrams.get(word, rarest) / total)
        previous = word
    return log_prob / len(words)


@lru_cache(maxsize=1)
def vader_analyzer():
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ValueError(f"the judge of task reviews needs vaderSentiment: {INSTALL}") from error
    return SentimentIntensityAnalyzer()


@lru_cache(maxsize=1)
def word_counts() -> tuple[dict[str, float], dict[str, float], float, float]:
    """(word counts with "<s>" added, pair counts, total count, count of the rarest word)."""
    try:
        import wordsegment
    except ImportError as error:
        raise ValueError(f"fluency needs wordsegment: {INSTALL}") from error
    segmenter = wordsegment.Segmenter()
    segmenter.load()
    rarest = min(segmenter.unigrams.values())
    starts = sum(count for pair, count in segmenter.bigrams.items() if pair.startswith("<s> "))
    return {**segmenter.unigrams, "<s>": starts}, segmenter.bigrams, segmenter.total, rarest
