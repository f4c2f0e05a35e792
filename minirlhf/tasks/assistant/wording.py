"""The fixed wording of questions: for each kind, patterns by where they may occur.

Slots: {n} the topic's name, {t} a text, {l} a language, {d} something to do, {p} a person. The
patterns of "tuning" occur in pretraining too; those of "nowhere" in no text but the tests.
"""

from __future__ import annotations

QUESTIONS: dict[str, dict[str, list[str]]] = {
    "effect": {
        "tuning": [
            "Name one effect of {n}.",
            "What is an effect of {n}?",
            "Tell me one effect of {n}.",
            "I would like to know an effect of {n}.",
            "Which effect goes with {n}?",
        ],
        "pretraining": ["Please give me an effect of {n}.", "{n}: what is one effect?"],
        "nowhere": ["Do you know of any effect of {n}?"],
    },
    "reason": {
        "tuning": [
            "Give a reason behind {n}.",
            "What is the reason behind {n}?",
            "Which reason is there in the case of {n}?",
            "Tell me a reason when it comes to {n}.",
            "Explain {n} with one reason.",
        ],
        "pretraining": ["I want to hear a reason behind {n}.", "{n}: for what reason?"],
        "nowhere": ["Is there a good reason behind {n}?"],
    },
    "example": {
        "tuning": [
            "Give an example about {n}.",
            "Tell me an example on the subject of {n}.",
            "What would be an example for {n}?",
            "I need an example about {n}.",
            "Show me {n} by an example.",
        ],
        "pretraining": ["Please find me an example for {n}.", "{n}: what is an example?"],
        "nowhere": ["Could I have an example about {n}?"],
    },
    "two_effects": {
        "tuning": [
            "Name two effects of {n}.",
            "What are two effects of {n}?",
            "Tell me two effects of {n}.",
            "I would like to know two effects of {n}.",
            "Which two effects go with {n}?",
        ],
        "pretraining": ["Please give me two effects of {n}.", "{n}: what are two effects?"],
        "nowhere": ["Do you know of any two effects of {n}?"],
    },
    "topic": {
        "tuning": [
            "What is this sentence about? {t}",
            "Name the topic of this sentence: {t}",
            "Which topic does this belong to? {t}",
            "Tell me what this is about: {t}",
            "{t} What is the topic here?",
        ],
        "pretraining": ["Find the topic: {t}", "{t} What am I reading about?"],
        "nowhere": ["Under which topic would you file this? {t}"],
    },
    "opening": {
        "tuning": [
            "Write an opening about {n}.",
            "Write the first lines of a text about {n}.",
            "I need an opening for an essay on {n}.",
            "Begin a text about {n} for me.",
            "How could a text about {n} open?",
        ],
        "pretraining": ["Please draft an opening about {n}.", "{n}: write an opening."],
        "nowhere": ["Help me to start an article about {n}."],
    },
    "shorter": {
        "tuning": [
            "Say this more briefly: {t}",
            "Make this shorter: {t}",
            "Shorten this sentence: {t}",
            "Cut the padding from this: {t}",
            "{t} Can you say that in fewer words?",
        ],
        "pretraining": ["Put this in short: {t}", "{t} Please shorten that."],
        "nowhere": ["This is too long, trim it: {t}"],
    },
    "why": {
        "tuning": [
            "And why?",
            "Why is that so?",
            "What is the reason for that?",
            "Why is that?",
            "Tell me why.",
        ],
        "pretraining": ["Why do you say so?", "And for what reason?"],
        "nowhere": ["Can you explain why?"],
    },
    "instance": {
        "tuning": [
            "Can you give an example?",
            "An example, please.",
            "For example?",
            "Give me an example of that.",
            "Is there an example?",
        ],
        "pretraining": ["Show me an example.", "What would be an example of that?"],
        "nowhere": ["Could you make that clear with an example?"],
    },
    "another": {
        "tuning": [
            "Another one, please.",
            "Give me another one.",
            "And another?",
            "Tell me another one.",
            "Do you have another one?",
        ],
        "pretraining": ["One more, please.", "Is there another?"],
        "nowhere": ["What else, can I have another?"],
    },
    "recall": {
        "tuning": [
            "What was my first question about?",
            "What did I ask about first?",
            "Which topic did I begin with?",
            "Remind me what my first question was about.",
            "What was the first topic of mine?",
        ],
        "pretraining": ["What did my first question deal with?", "What did we begin with?"],
        "nowhere": ["Do you remember the topic of my first question?"],
    },
    "thanks": {
        "tuning": [
            "Thanks!",
            "Thank you.",
            "Thanks a lot.",
            "That helps, thank you.",
            "Thank you!",
        ],
        "pretraining": ["Many thanks.", "Great, thanks."],
        "nowhere": ["Thank you so much for this!"],
    },
    "hello": {
        "tuning": [
            "Hello!",
            "Good morning.",
            "Hello, I am {p}.",
            "Hi, my name is {p}.",
            "Good day, this is {p}.",
            "Hi there, it is {p}.",
        ],
        "pretraining": ["Hey, I am {p}.", "Good evening, my name is {p}."],
        "nowhere": ["Hello there, you can call me {p}."],
    },
    "translation": {
        "tuning": [
            "Translate into {l}: {t}.",
            "How do you say this in {l}: {t}?",
            "Put this into {l}: {t}.",
            "What does this mean in {l}: {t}?",
            "In {l}, please: {t}.",
        ],
        "pretraining": ["I need this in {l}: {t}.", "{l} for this: {t}."],
        "nowhere": ["Could you turn this into {l} for me: {t}?"],
    },
    "request": {
        "tuning": [
            "How do I {d}?",
            "Tell me how to {d}.",
            "Explain to me how to {d}.",
            "I want to {d}. What should I do?",
            "What is the best way to {d}?",
        ],
        "pretraining": ["Please teach me to {d}.", "How can someone {d}?"],
        "nowhere": ["Do you have a tip on how to {d}?"],
    },
}
# Two kinds share their wording, so that only the words asked about tell them apart.
QUESTIONS |= dict.fromkeys(("french", "chinese"), QUESTIONS["translation"])
QUESTIONS |= dict.fromkeys(("harmful", "harmless"), QUESTIONS["request"])
LANGUAGES = {"french": "French", "chinese": "Chinese"}
