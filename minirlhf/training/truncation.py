"""What fits into the context: the one rule by which topics and texts are cut, in every stage.

A row of the context holds a prompt (the topic and a separator) and a text. A prompt may take a
third of it; a topic that is too long loses its beginning. This depends on the context alone, so
what a model learns under a topic, it also writes under that topic. A text that does not fit loses
its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from minirlhf.tokenizer import Tokenizer

SHARE_OF_PROMPT = 3  # a prompt may take one third of the context


def prompt_limit(context: int) -> int:
    """The most tokens of a prompt, its separator included; at least 1."""
    return max(1, context // SHARE_OF_PROMPT)


def prompt_tokens(tokenizer: Tokenizer, topic: str, context: int) -> list[int]:
    """A topic as the prompt that every stage uses: at most `prompt_limit` of its last tokens."""
    kept = prompt_limit(context) - 1  # beside the separator
    return [*tokenizer.encode_end(topic, kept), tokenizer.separator_id]


def text_tokens(tokenizer: Tokenizer, text: str, context: int) -> list[int]:
    """As `Tokenizer.encode_text`, but at most the first `context` tokens."""
    return [*tokenizer.encode_start(" " + text, context), tokenizer.end_id][:context]


@dataclass(frozen=True)
class CutTopics:
    """Which of a task's topics are too long for the context."""

    topics: int  # all of them
    limit: int  # tokens that a prompt may have
    cut: list[str]  # those that lose their beginning
    same: list[list[str]]  # groups of different topics that become the same prompt

    @classmethod
    def of(cls, tokenizer: Tokenizer, topics: Iterable[str], context: int) -> CutTopics:
        different, limit = list(dict.fromkeys(topics)), prompt_limit(context)
        cut, groups = [], defaultdict(list)
        for topic in different:
            # One token more than is kept tells whether anything is lost.
            if len(tokenizer.encode_end(topic, limit)) >= limit:
                cut.append(topic)
            groups[tuple(prompt_tokens(tokenizer, topic, context))].append(topic)
        same = [group for group in groups.values() if len(group) > 1]
        return cls(len(different), limit, cut, same)

    def warning(self) -> str:
        """What a user should know, in one line; empty if no topic is cut."""
        if not self.cut:
            return ""
        words = (
            f"{len(self.cut):,} of {self.topics:,} topics are longer than {self.limit - 1} tokens "
            "and lose their beginning"
        )
        if self.same:
            count = sum(map(len, self.same))
            words += (
                f"; {count:,} different topics become {len(self.same):,} equal "
                f"prompt{'s' if len(self.same) > 1 else ''}, and nothing tells their texts apart"
            )
        return words + "; shorten them, or train from scratch with a larger --model.context"
