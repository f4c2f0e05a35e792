"""Rating by hand: the queue, the file that no crash can spoil, the two screens."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minirlhf.cli.main import main
from minirlhf.feedback import answers
from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.conversation import Turn
from minirlhf.feedback.records import read_comparisons, read_feedback, read_triples
from minirlhf.feedback.screens import question, rate_in_terminal, rate_widget
from minirlhf.feedback.session import Item, RatingSession, make_items, make_queue
from minirlhf.runs.rating import Questions, open_session

TEXTS = [
    (f"topic {index % 4}", f"text {index}", ["before", "after"][index % 2]) for index in range(40)
]


def session_of(
    path: Path, pairs: bool = False, count: int = 6, rater: str = "x", repeats: float = 0.0
) -> RatingSession:
    return RatingSession(
        make_queue(make_items(TEXTS, pairs, count, 0), repeats, 0, rater), AnswerFile(path), rater
    )


def answer(n: int) -> dict:
    """The n-th answer of a session."""
    return {"topic": "t", "text": f"text {n}", "score": 3}


def press(session: RatingSession, keys: str) -> None:
    """Rate with these keys, then quit."""
    pending = list(keys) + ["q"]
    rate_in_terminal(session, key=lambda: pending.pop(0))


# ---- the queue


@pytest.mark.parametrize("pairs", [False, True])
def test_items_use_no_text_twice_and_pair_within_a_topic(pairs):
    items = make_items(TEXTS + TEXTS + [("topic 0", "  ", "after")], pairs, 15, seed=1)
    texts = [(item.topic, text) for item in items for text in item.texts]
    assert len(items) == 15 and len(texts) == len(set(texts)) == 15 * (1 + pairs)
    model_of = {(topic, text): model for topic, text, model in TEXTS}
    assert all(
        item.models == tuple(model_of[item.topic, text] for text in item.texts) for item in items
    )


def test_queue_is_a_random_order_of_the_raters_own():
    items = make_items(TEXTS, False, 40, 0)
    ours, theirs = (make_queue(items, 0.0, 0, rater) for rater in "xy")
    assert set(ours) == set(theirs) == set(items) and ours != theirs and ours != items
    assert ours == make_queue(items, 0.0, 0, "x")


@pytest.mark.parametrize("pairs", [False, True])
def test_repeats_come_late_and_with_the_texts_changed_over(pairs):
    items = make_items(TEXTS, pairs, 20, 0)
    queue = make_queue(items, 0.2, 0, "x")
    repeats = [(place, item) for place, item in enumerate(queue) if item.repeat]
    assert len(items) == 20 and len(queue) == 24 and len(repeats) == 4
    for place, item in repeats:
        first = next(index for index, other in enumerate(queue) if other.key == item.key)
        assert place - first >= 5 and not queue[first].repeat
        assert queue[first].texts == item.texts[::-1] and queue[first].models == item.models[::-1]
    with pytest.raises(ValueError, match="repeats: expected a share"):
        make_queue(items, 0.6, 0, "x")


def test_either_text_of_a_pair_may_stand_first():
    items = make_items(TEXTS, True, 20, 0)
    queue = {item.key: item for item in make_queue(items, 0.0, 0, "x")}
    changed = sum(queue[item.key].texts != item.texts for item in items)
    assert 3 <= changed <= 17  # of 20 fair coins: 3.1 standard errors each way


# ---- answers


def test_scores_are_written_at_once_as_feedback_reads_them(tmp_path, capsys):
    path = tmp_path / "new" / "r.jsonl"
    session = session_of(path)
    shown = [item.texts[0] for item in session.queue]
    for number, key in enumerate("152", start=1):
        session.answer(key)
        assert [triple.text for triple in read_triples(path)] == shown[:number]
    triples = read_triples(path)
    assert [triple.score for triple in triples] == [0.0, 1.0, 0.25] and triples[0].ratings == (1.0,)
    assert triples[0].rater == "x" and triples[0].provenance == "people"
    assert json.loads(path.read_text().splitlines()[0])["model"] in ("before", "after")
    with pytest.raises(ValueError, match="expected one of 1 2 3 4 5, found '6'"):
        session.answer("6")
    assert len(read_triples(path)) == 3 and session.done == 3


def test_comparisons(tmp_path):
    path = tmp_path / "c.jsonl"
    session = session_of(path, pairs=True)
    shown = list(session.queue)
    press(session, "120")
    first, second, tie = read_comparisons(path)
    assert (first.better, first.worse) == shown[0].texts and (second.worse, second.better) == shown[
        1
    ].texts
    assert not first.tie and tie.tie and tie.topic == shown[2].topic
    records = AnswerFile(path).records()
    assert [record["first"] for record in records] == ["better", "worse", "better"]
    model_of = {(topic, text): model for topic, text, model in TEXTS}
    for record in records:
        assert record["models"] == [
            model_of[record["topic"], record[name]] for name in ("better", "worse")
        ]


def test_skip_undo_quit(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    session = session_of(path)
    shown = [item.texts[0] for item in session.queue]
    press(
        session, "u4s3u5x7"
    )  # nothing to undo; 4; skip; 3, taken back; 5; two keys that mean nothing
    assert [(triple.text, triple.score) for triple in read_triples(path)] == [
        (shown[0], 0.75),
        (shown[2], 1.0),
    ]
    press(session, "uu")  # the 5, then the skip
    assert session.current.texts[0] == shown[1] and len(read_triples(path)) == 1
    press(session, "22222u")  # to the end and one back: the last answer can be mended too
    assert session.current.texts[0] == shown[5] and len(read_triples(path)) == 5
    printed = capsys.readouterr().out
    assert (
        "nothing to undo" in printed
        and "[3 of 6]" in printed
        and "That was the last one" in printed
    )
    assert "before" not in printed and "after" not in printed  # blind to the model


def test_at_the_end_of_the_queue_no_answer_is_accepted(tmp_path):
    session = session_of(tmp_path / "r.jsonl", count=1)
    session.answer("3")
    assert session.current is None and session.keys() == ()
    with pytest.raises(ValueError, match="^answer: expected an item, found the end of the queue$"):
        session.answer("3")


def test_a_new_session_asks_only_what_this_rater_left_open(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    first = session_of(path, repeats=0.3, count=10)
    total = first.total
    press(first, "3" * (total - 2))
    left = first.queue[total - 2 :]
    again = session_of(path, repeats=0.3, count=10)
    assert again.queue == left and again.done == total - 2 and again.total == total
    assert session_of(path, repeats=0.3, count=10, rater="y").done == 0


def test_ctrl_c_is_a_quit(tmp_path, capsys):
    session = session_of(tmp_path / "r.jsonl")

    def key():
        if session.done == 2:
            raise KeyboardInterrupt
        return "3"

    rate_in_terminal(session, key)
    assert (
        len(read_triples(session.file.path)) == 2
        and "2 answers given now" in capsys.readouterr().out
    )


def test_the_terminal_is_not_steered_by_what_a_model_wrote(tmp_path):
    item = Item("to\x1b]0;\x07pic", ("a\x1b[2Jb\u202ec\x9b",), ("before",))
    shown = question(RatingSession([item], AnswerFile(tmp_path / "r.jsonl"), "x"))
    assert "to\\x1b]0;\\x07pic" in shown and "a\\x1b[2Jb\\u202ec\\x9b" in shown
    assert not set("\x1b\x07\u202e\x9b") & set(shown)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_a_key_counts_without_enter():
    import pty

    code = (
        "from minirlhf.feedback.screens import read_key; print('ready', flush=True); "
        "print('got', read_key(), read_key())"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    os.write(ours, b"4u")
    assert process.communicate(timeout=60)[0] == "got 4 u\n"
    os.close(ours)
    os.close(theirs)


# ---- the file


def test_half_a_line_is_cut_off_and_a_whole_one_completed(tmp_path):
    path = tmp_path / "r.jsonl"
    good = json.dumps({"topic": "t", "text": "x", "score": 3})
    path.write_text(f'{good}\n{{"topic": "t", "te')
    file = AnswerFile(path)
    assert path.read_text() == good + "\n" and file.dropped == '{"topic": "t", "te'
    path.write_text(good)
    assert AnswerFile(path).dropped == "" and path.read_text() == good + "\n"
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1: expected a JSON object"):
        AnswerFile(path).records()


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    file = AnswerFile(tmp_path / "r.jsonl")
    file.append(answer(1))
    real = os.write
    monkeypatch.setattr(answers.os, "write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(ValueError, match="r.jsonl: cannot be written: no space left"):
        file.append(answer(2))
    monkeypatch.setattr(answers.os, "write", real)
    file.append(answer(3))
    assert file.records() == [answer(1), answer(3)]


def test_undo_never_takes_what_another_program_wrote(tmp_path):
    file, other = AnswerFile(tmp_path / "r.jsonl"), AnswerFile(tmp_path / "r.jsonl")
    file.append(answer(1))
    other.append(answer(2))
    with pytest.raises(ValueError, match="another program"):
        file.undo()
    file.append(answer(3))
    file.undo()
    with pytest.raises(ValueError, match="another program"):
        file.undo()  # what stands behind answer 1 is not ours
    assert file.records() == [answer(1), answer(2)]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        AnswerFile(tmp_path / "file" / "r.jsonl")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill_9_loses_no_answer(tmp_path):
    """Answer as fast as it goes, be killed at some point, look: every answer that was confirmed is
    there, whole."""
    code = (
        "import sys; from pathlib import Path; from minirlhf.feedback.answers import AnswerFile\n"
        "file = AnswerFile(Path(sys.argv[1]))\n"
        "answer = {'topic': 't', 'text': 'x', 'score': 3, 'pad': 'x' * 5000}\n"
        "for n in range(10**6): file.append(answer | {'n': n}); print(n, flush=True)\n"
    )
    path = tmp_path / "r.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    confirmed = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    confirmed += map(int, process.communicate()[0].split())
    found = [record["n"] for record in AnswerFile(path).records()]
    assert found[: len(confirmed)] == confirmed and len(found) <= len(confirmed) + 1
    assert AnswerFile(path).dropped == ""


# ---- the widget


def test_widget_does_the_same(tmp_path):
    session = session_of(tmp_path / "r.jsonl", pairs=True, count=3)
    box = rate_widget(session)
    bar, topic, first, second, buttons, message = box.children
    item = session.current
    assert (
        (first.value, second.value) == item.texts
        and item.topic in topic.value
        and "1 of 3" in topic.value
    )

    def click(words: str) -> None:
        next(button for button in buttons.children if button.description == words).click()

    click("undo")
    assert message.value == "nothing to undo"
    click("second is better")
    assert (read_comparisons(session.file.path)[0].better, bar.value) == (item.texts[1], 1)
    click("undo")
    assert session.file.path.read_text() == "" and (first.value, second.value) == item.texts
    click("skip")
    click("no difference")
    click("first is better")
    assert "All done" in topic.value and [button.description for button in buttons.children] == [
        "undo"
    ]
    assert [one.tie for one in read_comparisons(session.file.path)] == [True, False]


def test_rating_needs_no_ipywidgets(tmp_path):
    code = "import sys; sys.modules['ipywidgets'] = None\nimport minirlhf.feedback.screens\n"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- from a run


@pytest.mark.parametrize("mode", ["single", "pair"])
def test_rate_command_on_a_run(finished_run, tmp_path, capsys, monkeypatch, mode):
    """From keys in a pipe to the summary. The tiny policy hardly writes a whole text, so texts are
    given."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 2 su\n1q"))
    monkeypatch.setattr("minirlhf.runs.rating.sample_to_rate", lambda *_: TEXTS)
    path = tmp_path / "r.jsonl"
    main(
        [
            "rate",
            "--run",
            "tiny",
            "--runs",
            str(finished_run.path.parent),
            "--mode",
            mode,
            "--output",
            str(path),
            "--count",
            "8",
        ]
    )
    assert len(read_comparisons(path) if mode == "pair" else read_triples(path)) == 3
    capsys.readouterr()
    main(["feedback", "summary", str(path)])
    assert "people 3" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds (scores|comparisons)"):
        open_session(finished_run, path, Questions(pairs=mode == "single", count=8), "me")


def test_texts_of_a_run_come_from_both_models(finished_run, small_task, monkeypatch, tmp_path):
    from minirlhf.runs import run_models
    from minirlhf.tokenizer import Tokenizer
    from minirlhf.training.ratings import sample_to_rate

    tokenizer = Tokenizer.load(finished_run.path / "tokenizer.json")
    models = {"before": run_models.model_for_sampling(finished_run, tokenizer, False)}
    texts = sample_to_rate(
        models, tokenizer, ["Keeping a diary", "Why sleep matters"], 200, 60, seed=0
    )
    assert texts == sample_to_rate(
        models, tokenizer, ["Keeping a diary", "Why sleep matters"], 200, 60, seed=0
    )
    assert 0 < len(texts) <= 200 and {topic for topic, _, _ in texts} == {
        "Keeping a diary",
        "Why sleep matters",
    }
    assert all(name == "before" for _, _, name in texts)


def test_item_key_does_not_depend_on_the_order():
    assert (
        Item("t", ("a", "b"), ("x", "y")).key
        == Item("t", ("b", "a"), ("y", "x")).key
        == ("t", "a", "b")
    )


# ---- conversations

TALK = (
    Turn("user", "Why is sleep good?"),
    Turn("assistant", "It\x1b mends."),
    Turn("user", "And?"),
)
OTHER = (Turn("user", "Why tea?"),)
ANSWERS = [(talk, f"So {number}.", "before") for talk in (TALK, OTHER) for number in range(4)]


def test_the_turns_of_a_conversation_are_shown(tmp_path):
    session = RatingSession([Item(TALK, ("So.",), ("x",))], AnswerFile(tmp_path / "r.jsonl"), "x")
    assert question(session).splitlines()[:8] == [
        "",
        "[1 of 1]  Conversation:",
        "",
        "   User: Why is sleep good?",
        "   Assistant: It\\x1b mends.",
        "   User: And?",
        "",
        "   Answer: So.",
    ]
    pair = Item(OTHER, ("So.", "No."), ("x", "x"))
    session = RatingSession([pair], AnswerFile(tmp_path / "c.jsonl"), "x")
    assert question(session).splitlines()[5:7] == ["   1. So.", "   2. No."]


@pytest.mark.parametrize("pairs", [False, True])
def test_answers_about_conversations_are_feedback(tmp_path, pairs):
    """They are read back, undone and never asked about twice."""
    path = tmp_path / "r.jsonl"

    def session() -> RatingSession:
        queue = make_queue(make_items(ANSWERS, pairs, 8, 0), 0.0, 0, "x")
        return RatingSession(queue, AnswerFile(path), "x")

    first = session()
    total = first.total
    assert total == (4 if pairs else 8)
    press(first, "12u2")
    found = read_feedback(path, conversations=True)
    lines = found.comparisons or found.triples
    assert [line.topic for line in lines] == [item.topic for item in first.queue[:2]]
    again = session()
    assert again.before == 2 and again.queue == first.queue[2:]
    press(again, "1" * total)
    assert session().current is None and len(AnswerFile(path).records()) == total
    # Read without this, such a file is refused, and the error says so.
    with pytest.raises(ValueError, match="topic: expected a text that is not empty, found a list"):
        read_feedback(path)


def test_the_widget_shows_the_turns(tmp_path):
    session = RatingSession([Item(TALK, ("So.",), ("x",))], AnswerFile(tmp_path / "r.jsonl"), "x")
    _, topic, turns, first, *_ = rate_widget(session).children
    assert topic.value == "[1 of 1] Conversation:" and first.value == "So."
    assert turns.value.splitlines()[2] == "User: And?"


def test_few_of_thousands_of_conversations_are_answered(finished_run, small_task, monkeypatch):
    """Rating fifty answers does not take an answer to each question of the task."""
    prompts = [(Turn("user", f"Why {number}?"),) for number in range(2000)]
    task = dataclasses.replace(small_task, train_prompts=prompts, heldout_prompts=[])
    monkeypatch.setattr("minirlhf.runs.rating.run_task.task_of", lambda run: task)
    asked = []

    def texts(models, tokenizer, topics, count, *_):
        asked.append((len(topics), count))
        return [(topic, "So.", "before") for topic in topics]

    monkeypatch.setattr("minirlhf.runs.rating.sample_to_rate", texts)
    path = finished_run.path.parent / "few.jsonl"
    session = open_session(finished_run, path, Questions(pairs=False, count=50), "me")
    assert asked == [(256, 512)] and session.total == 55
    assert all(isinstance(item.topic, tuple) for item in session.queue)
