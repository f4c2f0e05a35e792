"""Talking with a run: pieces of an answer, what is remembered, the commands of the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys

import pytest
import torch
from conftest import TINY
from test_policy import policy_of, seeded

from minirlhf.cli import chat as terminal
from minirlhf.cli.ending import Terminated
from minirlhf.cli.main import main
from minirlhf.config import ModelConfig
from minirlhf.feedback.conversation import Turn
from minirlhf.models import build
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.sampling import sample, stream
from minirlhf.runs import chat as chats
from minirlhf.runs import products, run_models
from minirlhf.runs.chat import Chat, ChatModels, open_chat, whole_characters
from minirlhf.runs.folder import Run
from minirlhf.runs.topics import advice_on_topic, has_conversations, known_topics
from minirlhf.tokenizer import END, Tokenizer
from minirlhf.training.truncation import prompt_tokens

BYTES = Tokenizer([bytes([value]) for value in range(256)])
CONFIG = dataclasses.replace(
    TINY,
    task="assistant",
    model=ModelConfig(vocab_size=256, context=48, width=16, layers=1, heads=2),
    finetune=dataclasses.replace(TINY.finetune, max_new_tokens=8),
)


# Token by token -----------------------------------------------------------------------------------


def test_a_streamed_text_is_the_sampled_one():
    """Same random numbers, same tokens: of texts that end and of texts that are cut off."""
    policy, ends = policy_of(), set()
    options = [SamplingOptions(), SamplingOptions(0), SamplingOptions(0.7, top_k=5, top_p=0.9)]
    for seed in range(9):
        settings, prompt = options[seed % 3], [5 * seed % 11] * (1 + seed % 4)
        whole = sample(policy, [prompt], 12, 2, settings, seeded(seed))
        (wanted,) = whole.ids()
        assert list(stream(policy, prompt, 12, 2, settings, seeded(seed))) == wanted
        ends.add(bool(whole.ended))
    assert ends == {True, False}


def test_a_stream_leaves_nothing_behind_when_it_stops():
    with pytest.raises(ValueError, match="exceed context=32"):
        next(stream(policy_of(), [1] * 30, 3, 2))
    tokens = stream(policy_of(), [1], 20, 2, SamplingOptions(), seeded(0))
    next(tokens)
    assert not torch.is_inference_mode_enabled()  # between two tokens the caller may train
    tokens.close()


@pytest.mark.parametrize("text", ["é 中文, 🌊!", " two", "", "a\ufffdb", "👩\u200d🚀"])
def test_pieces_are_whole_characters(text):
    ids = BYTES.encode_text(text)
    pieces = list(whole_characters(BYTES, [*ids, 65]))
    assert "".join(pieces) == text == BYTES.decode_text(ids)
    assert all(len(piece) == 1 for piece in pieces)  # here every token is a byte


@pytest.mark.parametrize("raw", [b" \xe4\xb8", b"\xff a\xc3", b"\xf0\x9f\x8c", b"  x"])
def test_half_a_character_is_shown_as_the_tokenizer_decodes_it(raw):
    ids = [*raw, BYTES.separator_id]
    assert "".join(whole_characters(BYTES, ids)) == BYTES.decode_text(ids)


# What is remembered -------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch) -> dict[str, str]:
    """What each model says, in place of what it samples; the prompts that it was given."""
    texts = {"base": "B.", "sft": "S.", "tuned": "T é.", "prompts": []}

    def streamed(policy, prompt, length, *_):
        texts["prompts"].append(prompt)
        yield from BYTES.encode_text(texts[policy])[:length]

    monkeypatch.setattr(chats, "stream", streamed)
    monkeypatch.setattr(chats, "step_generator", lambda *_: None)
    return texts


class Named(str):
    """A policy that is known by its name."""

    device = torch.device("cpu")


class ByLength:
    """A reward model that likes long rows."""

    device = torch.device("cpu")

    def text_scores(self, rows, lengths, prompt_lengths):
        return lengths / 1000


def chat_of(context: int = 192, longest: int = 8, **settings) -> Chat:
    settings = {"name": "tuned", "reward_model": ByLength} | settings
    writers, reward_model = ["base", "sft", "tuned"], settings.pop("reward_model")
    models = ChatModels(writers, Named, BYTES, context, reward_model)
    return Chat(models, max_new_tokens=longest, **settings)


def answered(chat: Chat, question: str) -> str:
    assert chat.ask(question) == []
    return "".join(chat.answer())


def test_later_questions_are_asked_with_the_turns_before_them(said):
    chat = chat_of()
    assert answered(chat, f"Why {END}?") == "T é."
    turns = (Turn("user", f"Why {END}?"), Turn("assistant", "T é."))
    assert chat.turns == turns
    answered(chat, "And?")
    second = said["prompts"][1]
    assert second == prompt_tokens(BYTES, (*turns, Turn("user", "And?")), 192)
    assert second.count(BYTES.end_id) == 1  # the answer's: what a user types gives none
    chat.start_over()
    answered(chat, "Why?")
    assert said["prompts"][2] == prompt_tokens(BYTES, "Why?", 192)


def test_without_history_each_line_is_a_topic(said):
    chat = chat_of(with_history=False)
    answered(chat, "tea")
    answered(chat, "rain")
    assert chat.turns == () and said["prompts"][1] == prompt_tokens(BYTES, "rain", 192)


def test_history_is_cut_at_a_turn_and_told_once(said):
    chat = chat_of(context=90)  # two thirds: 60 tokens
    told = []
    for number in range(6):
        told.append(chat.ask(f"question {number}"))
        list(chat.answer())
    assert [bool(notes) for notes in told].count(True) == 1 and "first turns are forgotten" in max(
        told
    )[0]
    last = said["prompts"][-1]
    kept = BYTES.decode(last)
    assert len(last) <= 60 and kept == "question 3 T é.question 4 T é.question 5"
    assert "last 29 tokens" in chat.ask("long " * 10)[0]


def test_an_answer_that_is_stopped_is_remembered_as_far_as_it_was_shown(said):
    chat = chat_of()
    chat.ask("Why?")
    pieces = chat.answer()
    next(pieces)
    pieces.close()
    assert chat.turns[1].text == "T" and not chat.answers["tuned"].ended
    chat.ask("Why?")
    chat.answer().close()  # before its first word
    assert len(chat.turns) == 2 and not chat.answers
    assert "".join(chat.answer()) == "T é." and len(chat.turns) == 4


def test_others_answer_the_same_question_and_the_history_stays(said):
    chat = chat_of()
    answered(chat, "Why?")
    texts = {name: "".join(chat.answer(name)) for name in chat.writers}
    assert texts == {"base": "B.", "sft": "S.", "tuned": "T é."}
    assert len(said["prompts"]) == 3 and len(chat.turns) == 2  # the tuned one answered before
    assert said["prompts"] == [prompt_tokens(BYTES, "Why?", 192)] * 3
    # A row: the question, its separator, a space, the answer, its end.
    assert chat.scores() == pytest.approx({"base": 0.009, "sft": 0.009, "tuned": 0.012})


# In the terminal ----------------------------------------------------------------------------------


def talk(capsys, chat: Chat, *lines: str | BaseException, interactive: bool = False):
    """The lines typed one by one (or what happens instead); what is printed."""
    typed = iter(lines)

    def read(prompt: str) -> str:
        print(prompt, end="")
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    terminal.converse(chat, read, interactive)
    return capsys.readouterr()


def test_a_pipe_gets_the_answers_and_no_more(said, capsys):
    printed = talk(capsys, chat_of(), "\ufeffWhy?", "", "  ", "And?")
    assert (printed.out, printed.err) == ("T é.\nT é.\n", "")
    printed = talk(capsys, chat_of(), "Why?", interactive=True)
    assert printed.out == "you> tuned> T é.\nyou> \n"


def test_commands(said, capsys):
    chat = chat_of(name="sft")
    lines = ["/compare", "/score", "Why?", "/score", "/compare", "/score", "/quit", "Never."]
    printed = talk(capsys, chat, *lines)
    assert printed.out.splitlines() == [
        *("S.", "0.009  sft"),
        *("base> B.", "sft> S.", "tuned> T é."),
        *("0.009  base", "0.009  sft", "0.012  tuned"),
    ]
    missing = "expected a question first, found none"
    assert printed.err.splitlines() == [f"error: /compare: {missing}", f"error: /score: {missing}"]
    said["sft"] = "far too long"
    printed = talk(capsys, chat, "/new", "Why?", "/score", "/help")
    assert printed.out.startswith("far too\n0.013  sft  (cut off)\n/compare")
    assert all(command in printed.out for command in terminal.COMMANDS)
    assert len(chat.turns) == 2


@pytest.mark.parametrize(
    "line, words",
    [
        ("/etc/hosts\x1b[2J", "/etc/hosts\\x1b[2J: no such command; /help lists them"),
        ("/temperature", '/temperature: expected a number of at least 0, found ""'),
        ("/temperature -1", '/temperature: expected a number of at least 0, found "-1"'),
        ("/temperature nan", '/temperature: expected a number of at least 0, found "nan"'),
        ("/temperature inf", '/temperature: expected a number of at least 0, found "inf"'),
        ("/seed 1.5", '/seed: expected a whole number from 0 to 2^63 - 1, found "1.5"'),
        ("/seed -1", '/seed: expected a whole number from 0 to 2^63 - 1, found "-1"'),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line(said, capsys, line, words):
    printed = talk(capsys, chat_of(), line, "Why?")
    assert printed.out == "T é.\n" and printed.err.startswith(f"error: {words}")
    assert printed.err.count("\n") == 1


def test_settings_are_changed(said, capsys):
    chat = chat_of()
    talk(capsys, chat, "Why?", "/temperature 0.5", "/seed 7", " /not a command")
    assert (chat.options.temperature, chat.seed, chat.number) == (0.5, 7, 1)
    assert chat.turns[2].text == "/not a command"
    printed = talk(capsys, chat_of(reward_model=None), "Why?", "/score")
    assert printed.err == "error: /score: this run has no reward model\n"


def test_ctrl_c_stops_an_answer_and_leaves_at_the_prompt(said, capsys, monkeypatch):
    def stopped(kind):
        def streamed(*_):
            yield from BYTES.encode_text("Te")[:-1]
            raise kind

        monkeypatch.setattr(chats, "stream", streamed)

    stopped(KeyboardInterrupt)
    chat = chat_of()
    assert talk(capsys, chat, "Why?", "/help").out.startswith("Te (stopped)\n/compare")
    assert chat.turns[1].text == "Te"
    with pytest.raises(KeyboardInterrupt):
        talk(capsys, chat, KeyboardInterrupt())
    stopped(Terminated)  # SIGTERM ends the program
    with pytest.raises(Terminated):
        talk(capsys, chat, "Why?")


def test_a_model_does_not_steer_the_terminal(said, capsys):
    said["tuned"] = "a\x1b[2J\u202e"
    assert talk(capsys, chat_of(longest=20), "Why?").out == "a\\x1b[2J\\u202e\n"


@pytest.mark.parametrize("stdin", [None, io.StringIO("")])
def test_no_input_at_all_is_an_end(monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(EOFError):
        terminal.read_line("")


# On a run -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with an untrained policy."""
    made = Run.create(tmp_path / "r", CONFIG)
    BYTES.save(made.path / "tokenizer.json")
    finish(made, "pretrain", seed=0)
    return made


def finish(run: Run, stage: str, seed: int) -> None:
    torch.manual_seed(seed)
    policy = build.new_policy(run.config.model, BYTES.vocab_size)
    run.save_model(products.RESULT[stage], policy)


def command(run: Run, *more: str) -> None:
    main(["chat", "--run", "r", "--runs", str(run.path.parent), "--device", "cpu", *more])


def test_the_command_answers_from_a_pipe(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why?\n/compare\n/score\n"))
    command(run)
    printed = capsys.readouterr()
    assert printed.out.count("\n") >= 2 and "base> " in printed.out
    assert printed.err == "error: /score: this run has no reward model\n"


def test_the_furthest_model_answers_and_all_are_compared(run, capsys):
    finish(run, "sft", seed=1)
    finish(run, "finetune", seed=2)
    reward = run_models.empty_reward_model(run, BYTES)
    run.save_model(products.RESULT["reward"], reward)
    chat = open_chat(run)
    assert (chat.name, chat.writers) == ("tuned", ["base", "sft", "tuned"])
    assert chat.with_history and chat.max_new_tokens == 8
    printed = talk(capsys, chat, "Why?", "/compare", "/score")
    assert printed.err == "" and all(f"0.500  {name}" in printed.out for name in chat.writers)
    ids = [answer.tokens for answer in chat.answers.values()]
    assert ids[0] != ids[1] != ids[2]
    # The same numbers as `sample` would draw; the same seed, the same answers.
    again = open_chat(run, "sft", seed=0, max_new_tokens=4)
    talk(capsys, again, "Why?")
    assert again.answers["sft"].tokens == chat.answers["sft"].tokens[:4]
    talk(capsys, chat, "/new", "/seed 0", "Why?")
    assert chat.answers["tuned"].tokens == ids[0]


def test_a_model_that_is_not_there_is_named(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(run, "--model", "sft")
    assert stopped.value.code == 2
    words = capsys.readouterr().err
    assert "no sft model here yet; run: python -m minirlhf sft --run r" in words
    os.unlink(run.path / "pretrained.safetensors")
    with pytest.raises(ValueError, match="no base model .* minirlhf pretrain --run r .*--resume"):
        open_chat(run)


def test_which_runs_hold_conversations(run):
    assert has_conversations(run) and known_topics(run) == []
    topics = dataclasses.replace(run.config, task="openings")
    run.replace_config(topics)
    assert not has_conversations(run) and "Keeping a diary" in known_topics(run)
    # Prompts of one's own demonstrations are known, too; those of several turns are conversations.
    rows = [{"prompt": "Why tea?", "answer": "So."}]
    file = run.path / "demonstrations.jsonl"
    file.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    shown = dataclasses.replace(run.config.sft, demonstrations=file)
    run.replace_config(dataclasses.replace(topics, sft=shown))
    assert {"Why tea?", "Keeping a diary"} <= set(known_topics(run))
    rows.append({"prompt": [{"role": "user", "text": "Why?"}], "answer": "So."})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert has_conversations(run) and known_topics(run) == []


def test_a_question_to_sample_is_a_conversation_of_one_turn(run):
    assert advice_on_topic(run, BYTES, "Is it?") == []
    (line,) = advice_on_topic(run, BYTES, "a long question " * 9)
    assert line.startswith("question: the model reads its last 15 tokens")
    tokens = prompt_tokens(BYTES, "Why is sleep good?", 192)
    assert tokens == prompt_tokens(BYTES, (Turn("user", "Why is sleep good?"),), 192)
