"""The fixed wording of composed openings: patterns with slots, from excellent to poor.

Slots: {s} subject, {e} and {f} two effects, {x} example, {r} reason, {c} contrast, {n} the topic's
name, {v} a vague verb phrase, {y} and {q} another topic's example and reason. Upper case starts a
sentence. In REPEATS, {A} is a sentence and {a} the same without its capital letter.
"""

from __future__ import annotations

EXCELLENT = [
    "{S} {e}: {x}.",
    "{S} {e}, because {r}.",
    "{S} {e}, and {x}.",
    "{S} {e} because {r}; {x}.",
    "{S} {e} and {f}: {x}.",
    "{S} {e} and {f}, because {r}.",
    "{S} {e}. For example, {x}.",
    "{S} not only {e} but also {f}: {x}.",
    "{S} {e}, and it also {f} because {r}.",
    "While {c}, {s} {e}, and {x}.",
    "While {c}, {s} {e} because {r}.",
    "While {c}, {s} {e} and {f}.",
    "Because {r}, {s} {e}: {x}.",
    "Because {r}, {s} {e} and {f}.",
    "{X}, and more broadly, {s} {e}.",
    "{X}. Because {r}, {s} {e}.",
    "{X}: {s} {e} because {r}.",
]
GOOD = [
    "{S} {e}.",
    "{S} {e} and {f}.",
    "{S} {e}, and it also {f}.",
    "{S} not only {e} but also {f}.",
    "{S} {e}. It also {f}.",
    "It is worth knowing that {s} {e}.",
    "Few people know that {s} {e}.",
    "Those who care about {n} know that {s} {e}.",
]
PLAIN = [
    "{S} {v}.",
    "{S} {v}, and people notice it.",
    "{S} {v}, and most of us have seen it.",
    "When people talk about {n}, they say that {s} {v}.",
    "I think that {s} {v}.",
    "Many of us feel that {s} {v}.",
    "For most people, {s} {v}.",
]
# Each says nothing. The fixed words between the slots count as filler for the judge.
VAGUE = [
    "There are many things to say about {n}.",
    "A subject such as {n} is interesting to many people.",
    "When it comes to {n}, there is a lot to think about.",
    "Many people have different opinions about {n}, and that is fine.",
    "Everyone has heard of {n} at some point in their life.",
    "In this text I will talk about {n} and why it is a big subject.",
    "Much can be said about {n}, since there are good sides and bad sides.",
    "People have been talking about {n} for a very long time.",
    "There is more to {n} than meets the eye.",
    "We all know something about {n}, and it is good to know more.",
    "{N} and other things like that play a role in our lives.",
    "Nobody can deny that {n} can be important in many ways.",
    "Some people like to think about {n}, and some people do not.",
    "It is nice to learn about {n}, since it is a good thing.",
    "Most of us have thought about {n}, which is something to think about.",
    "The world would be a different place without {n}.",
    "If you look at {n}, you will find all kinds of things.",
    "A lot has been written about {n}, and a lot more will be.",
    "With {n} there are always things that matter more or less.",
    "Every person has a view on {n}, and every view counts.",
    "One could go on and on about {n} without ever coming to an end.",
    "The subject of {n} comes up again and again in daily life.",
    "For better or worse, {n} will be with us for years to come.",
    "Whether we like it or not, {n} means something to everybody.",
]
OPENERS = [
    "It goes without saying that",
    "In this day and age,",
    "As we all know,",
    "At the end of the day,",
    "When all is said and done,",
    "It is important to note that",
    "Needless to say,",
    "In today's modern world,",
    "Generally speaking, it can be said that",
    "As far as I am concerned,",
    "To be perfectly honest,",
    "Since the dawn of time,",
    "It would be fair to say that",
    "All things considered,",
    "As a matter of fact,",
]
CLOSERS = [
    "in many different ways",
    "to a certain extent",
    "for all intents and purposes",
    "in one way or another",
    "more or less all the time",
    "at this point in time",
    "in some shape or form",
    "when you really think about it",
    "as the saying goes",
    "if you will",
    "as has often been said",
    "each and every time",
    "and so on and so forth",
    "and things of that nature",
    "and that is just the way it is",
]
REPEATS = [
    "{A} {A}",
    "{A} Yes, {a}",
    "{A} That is to say, {a}",
    "{A} Again, {a}",
    "{A} I repeat: {a}",
]
BLENDS = {
    "other example": [
        "{S} {e}: {y}.",
        "{S} {e}, and {y}.",
        "{S} {e}. For example, {y}.",
        "{S} {e} and {f}, because {q}.",
        "{S} {e}, because {q}.",
    ],
    "no claim": [
        "There are many things to say about {n}: {x}.",
        "{X}, and that is fine.",
        "Many of us feel that {s} {v}, because {r}.",
        "{S} {v}: {x}.",
        "{S} {v}, because {r}.",
        "When it comes to {n}, there is a lot to think about: {x}.",
    ],
}
