"""What fits into the context: the one rule by which topics and texts are cut, in every stage.

A row of the context holds a prompt (the topic and a separator) and a text. A prompt may take a
third of it; a topic that is too long loses its beginning. This depends on the context alone, so
what a model learns under a topic, it also writes under that topic. A text that does not fit loses
its end.

A conversation (对话) stands in the row as one topic and text after the other:

    question SEPARATOR answer END question SEPARATOR answer END question SEPARATOR

The two special tokens mark the roles and the turns. No user's text can produce them: one who types
"<|end|>" gets its letters. The last question is cut as a topic is. Together with the history before
it, it may take two thirds of the context; a longer history loses whole exchanges, the oldest first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from minirlhf.feedback.conversation import Prompt, exchanges, question_of
from minirlhf.tokenizer import Tokenizer

SHARE_OF_PROMPT = 3  # a prompt may take one third of the context


def prompt_limit(context: int) -> int:
    """The most tokens of a topic or question, its separator included; at least 1."""
    return max(1, context // SHARE_OF_PROMPT)


def prompt_tokens(tokenizer: Tokenizer, prompt: Prompt, context: int) -> list[int]:
    """A prompt as every stage uses it: the history that fits, and the end of the topic or question.

    The last topic or question has at most `prompt_limit` tokens, the whole at most twice as many.
    Raises ValueError for a conversation whose roles do not take turns.
    """
    earlier, limit = exchanges(prompt), prompt_limit(context)
    kept = limit - 1  # beside the separator
    tokens = [*tokenizer.encode_end(question_of(prompt), kept), tokenizer.separator_id]
    for question, answer in reversed(earlier):
        exchange = tokenizer.encode_prompt(question) + tokenizer.encode_text(answer)
        if len(exchange) + len(tokens) > 2 * limit:
            break
        tokens = exchange + tokens
    return tokens


def text_tokens(tokenizer: Tokenizer, text: str, context: int) -> list[int]:
    """As `Tokenizer.encode_text`, but at most the first `context` tokens."""
    return [*tokenizer.encode_start(" " + text, context), tokenizer.end_id][:context]


@dataclass(frozen=True)
class CutTopics:
    """Which of a task's topics are too long for the context."""

    topics: int  # all of them
    limit: int  # tokens that a prompt may have
    cut: list[Prompt]  # those that lose their beginning
    same: list[list[Prompt]]  # groups of different topics that become the same prompt
    forgetful: list[Prompt]  # conversations that lose their first turns

    @classmethod
    def of(cls, tokenizer: Tokenizer, topics: Iterable[Prompt], context: int) -> CutTopics:
        different, limit = list(dict.fromkeys(topics)), prompt_limit(context)
        cut, forgetful, groups = [], [], defaultdict(list)
        for topic in different:
            # One token more than is kept tells whether anything is lost.
            if len(tokenizer.encode_end(question_of(topic), limit)) >= limit:
                cut.append(topic)
            tokens = prompt_tokens(tokenizer, topic, context)
            # Each exchange that is kept has one end.
            if tokens.count(tokenizer.end_id) < len(exchanges(topic)):
                forgetful.append(topic)
            groups[tuple(tokens)].append(topic)
        same = [group for group in groups.values() if len(group) > 1]
        return cls(len(different), limit, cut, same, forgetful)

    def warning(self) -> str:
        """What a user should know, in one line; empty if no topic is cut."""
        if not self.cut and not self.forgetful:
            return ""
        losses = []
        if self.cut:
            losses.append(
                f"{len(self.cut):,} of {self.topics:,} topics are longer than {self.limit - 1} "
                "tokens and lose their beginning"
            )
        if self.forgetful:
            losses.append(
                f"{len(self.forgetful):,} of {self.topics:,} conversations are longer than "
                f"{2 * self.limit} tokens and lose their first turns"
            )
        words = "; ".join(losses)
        if self.same:
            count = sum(map(len, self.same))
            words += (
                f"; {count:,} different topics become {len(self.same):,} equal "
                f"prompt{'s' if len(self.same) > 1 else ''}, and nothing tells their texts apart"
            )
        return words + "; shorten them, or train from scratch with a larger --model.context"
