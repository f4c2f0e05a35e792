"""A conversation with the policies of a run (对话), token by token; cli/chat.py is its terminal.

Any policy of the run may answer: the one that feedback tuned, the one that has only seen
demonstrations (SFT), the base. One of them talks, and its answers are the history that all of them
read. What fits the context is cut as in training (training/truncation.py): a history that is too
long loses its first turns.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from minirlhf.feedback.conversation import Conversation, Prompt, Turn, question_of
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.policy import Policy
from minirlhf.models.sampling import stream
from minirlhf.runs import run_models
from minirlhf.runs.folder import Run
from minirlhf.runs.products import RESULT, SFT
from minirlhf.runs.topics import has_conversations
from minirlhf.system.seeds import step_generator
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.rollout import AnyReward, scores_of
from minirlhf.training.truncation import CutTopics, prompt_tokens

# Who can answer, and the stage that makes them.
WRITERS = {"base": "pretrain", "sft": SFT, "tuned": "finetune"}


@dataclass
class Answer:
    """What a policy has written so far; `ended` is False while it writes and if it was cut off."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ended: bool = False


@dataclass(frozen=True)
class ChatModels:
    """The policies that can answer, by name, and what they share. Each is loaded when needed."""

    writers: list[str]
    load: Callable[[str], Policy]
    tokenizer: Tokenizer
    context: int  # tokens of prompt and answer together, for every policy
    reward_model: Callable[[], AnyReward] | None = None


class Chat:
    """The state of a conversation, and the policies that answer.

    `name` is who talks, one of `models.writers`. Without `with_history` each question stands alone,
    as a topic does.
    """

    def __init__(
        self,
        models: ChatModels,
        name: str,
        max_new_tokens: int,
        options: SamplingOptions = SamplingOptions(),
        seed: int = 0,
        with_history: bool = True,
    ):
        self.models, self.name, self.max_new_tokens = models, name, max_new_tokens
        self.writers, self.tokenizer = models.writers, models.tokenizer
        self.context = models.context
        self.options, self.seed, self.with_history = options, seed, with_history
        self.number = 0  # of the last question, for its random numbers
        self.policies: dict[str, Policy] = {}
        self.judge: AnyReward | None = None
        self.start_over()

    def start_over(self) -> None:
        """Forget all turns."""
        self.turns: Conversation = ()  # questions and answers so far
        self.prompt: Prompt | None = None  # what the last question was asked with
        self.answers: dict[str, Answer] = {}  # to the last question, by who wrote them
        self.told = False  # that the first turns are forgotten

    def use_seed(self, seed: int) -> None:
        """From now on the random numbers of this seed, as if nothing had been drawn yet."""
        self.seed, self.number = seed, 0

    def ask(self, question: str) -> list[str]:
        """Put a question. Returns what the user should know about it, usually nothing."""
        self.prompt = (*self.turns, Turn("user", question)) if self.with_history else question
        self.answers = {}
        self.number += 1
        notes = []
        cut = CutTopics.of(self.tokenizer, [self.prompt], self.context)
        if cut.cut:
            notes.append(f"the models read the last {cut.limit - 1} tokens of this question only")
        if cut.forgetful and not self.told:
            self.told = True
            notes.append("the conversation has become too long; its first turns are forgotten")
        return notes

    def answer(self, name: str | None = None) -> Generator[str, None, None]:
        """The answer to the last question, piece by piece; by who talks, or by another one.

        An answer of who talks becomes part of the history, also if it is stopped on the way (the
        generator is closed). Raises ValueError if no question was put.
        """
        name = name or self.name
        prompt = self.asked("answer")
        if name in self.answers and self.answers[name].tokens:
            yield self.answers[name].text
            return
        answer = Answer()
        if name == self.name:
            self.answers[name] = answer
        try:
            yield from self._write(name, prompt, answer)
            self.answers[name] = answer
        finally:
            if name == self.name and self.with_history and answer.text.strip():
                question = Turn("user", question_of(prompt))
                self.turns = (*self.turns, question, Turn("assistant", answer.text))

    def scores(self) -> dict[str, float]:
        """The reward model's score in [0, 1] of each answer to the last question.

        Raises ValueError if there is no answer or no reward model.
        """
        prompt = self.asked("/score")
        answers = {name: self.answers[name] for name in self.writers if name in self.answers}
        written = {name: answer.tokens for name, answer in answers.items() if answer.tokens}
        if not written:
            raise ValueError("/score: expected an answer to score, found none")
        if self.models.reward_model is None:
            raise ValueError("/score: this run has no reward model")
        if self.judge is None:
            self.judge = self.models.reward_model()
        ids = prompt_tokens(self.tokenizer, prompt, self.context)
        scores = scores_of(self.judge, ids, list(written.values()))
        return dict(zip(written, scores, strict=True))

    def asked(self, command: str) -> Prompt:
        """The last question and the turns before it.

        Raises ValueError, which names the command that needs it, if there is none.
        """
        if self.prompt is None:
            raise ValueError(f"{command}: expected a question first, found none")
        return self.prompt

    def _write(self, name: str, prompt: Prompt, answer: Answer) -> Iterator[str]:
        """The pieces of a new answer, which is filled on the way."""
        if name not in self.policies:
            self.policies[name] = self.models.load(name)
        policy = self.policies[name]
        ids = prompt_tokens(self.tokenizer, prompt, self.context)
        # All models get the same random numbers, so that they differ by what they have learned.
        generator = step_generator(self.seed, "chat", self.number, policy.device)
        length = min(self.max_new_tokens, self.context - len(ids))

        def tokens() -> Iterator[int]:
            for token in stream(
                policy, ids, length, self.tokenizer.end_id, self.options, generator
            ):
                answer.tokens.append(token)
                answer.ended = token == self.tokenizer.end_id
                yield token

        for piece in whole_characters(self.tokenizer, tokens()):
            answer.text += piece
            yield piece


def open_chat(
    run: Run,
    name: str | None = None,
    options: SamplingOptions = SamplingOptions(),
    max_new_tokens: int | None = None,
    seed: int = 0,
    soft_prompt: Path | None = None,
) -> Chat:
    """A chat with the policies that the run has; the furthest one talks unless `name` says who.

    With `soft_prompt`, another run, the body of this one talks behind the soft prompt of that.
    Raises ValueError if the run has no such policy, or the other one no soft prompt for its base.
    """
    writers = [one for one, stage in WRITERS.items() if run.is_done(stage)]
    name = name or (writers[-1] if writers else "base")
    if name not in writers:
        stage = WRITERS[name]
        again = " --resume" if stage == "pretrain" else ""
        raise ValueError(
            f"{run.path}: no {name} model here yet; "
            f"run: python -m minirlhf {stage} {run.words}{again}"
        )
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    found = run_models.newest_reward_model(run)
    context = run_models.room_for_text(run)
    prompted: dict[str, Policy] = {}
    if soft_prompt is not None:
        policy = run_models.behind_soft_prompt_of(run, soft_prompt, tokenizer)
        name = f"soft prompt {soft_prompt.name}"  # no run's name has a space
        prompted[name] = policy.to(run.device).eval()
        context = min(context, policy.config.context)  # all models read the same prompts

    def load(writer: str) -> Policy:
        if writer in prompted:
            return prompted[writer]
        return run_models.load_policy(run, RESULT[WRITERS[writer]], tokenizer).eval()

    def load_reward_model(file: str) -> AnyReward:
        return run_models.load_reward_model(run, file, tokenizer).eval()

    reward_model = partial(load_reward_model, found) if found else None
    models = ChatModels([*writers, *prompted], load, tokenizer, context, reward_model)
    longest = max_new_tokens or run.config.finetune.max_new_tokens
    return Chat(models, name, longest, options, seed, has_conversations(run))


def whole_characters(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of `ids` as they come, never half a character: a token may end in the middle of one.

    Together the pieces are `tokenizer.decode_text(ids)`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    first = True
    for token in ids:
        if token == tokenizer.end_id:
            break
        if token < len(tokenizer.tokens):  # not a special
            piece = decoder.decode(tokenizer.tokens[token])
            if piece and first:  # `encode_text` has put a space before the text
                piece, first = piece.removeprefix(" "), False
            if piece:
                yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece
