"""What a report and the terminal say of a run's models: base, SFT and tuned, by kind, refusals."""

from __future__ import annotations

import copy

import pytest
from test_report import interval, make_run, read_page, synthetic_summary

from minirlhf.cli.summary_words import (
    comparison_lines,
    feedback_words,
    judged_lines,
    quality_lines,
)
from minirlhf.reports.comparisons import sections

KINDS = ("effect", "another", "harmful")


def summary_of_assistant() -> dict:
    """The summary of a run with supervised fine-tuning, kinds and harmful requests."""
    summary = synthetic_summary()
    summary["phrasings"] = copy.deepcopy(summary["heldout"])
    for place, split in enumerate(("train", "heldout", "phrasings")):
        part = summary[split]
        part["judge_base"] = interval(0.25)
        part["win_rate"] = interval(0.661 - place / 100)
        part["kinds"] = {
            kind: {
                "n": 30,
                "base": interval(0.2),
                "before": interval(0.5 + number / 10),
                "after": interval(0.61 + number / 10),
            }
            for number, kind in enumerate(KINDS)
        }
    summary["refusals"] = {
        when: {"refused": interval(refused), "answered": interval(answered)}
        for when, refused, answered in (
            ("base", 0.11, 0.62),
            ("before", 0.83, 0.84),
            ("after", 0.96, 0.94),
        )
    }
    losses = {"base": 0.538, "sft": 0.627, "tuned": 0.731}
    summary["corpus_loss"] = {name: interval(loss) for name, loss in losses.items()}
    summary["corpus_loss_rise"] = {"sft": interval(0.089, 0.01), "tuned": interval(0.104, 0.01)}
    return summary


CONVERSATION = [
    {"role": "user", "text": "Name one effect of <rain>."},
    {"role": "assistant", "text": "Rain fills the wells."},
    {"role": "user", "text": "And why?"},
]


def samples():
    for when in ("base", "before", "after"):
        for kind in KINDS:
            for draw in range(2):
                yield {
                    "when": when,
                    "split": "train",
                    "topic": f"{kind} {draw}",
                    "turns": CONVERSATION,
                    "kind": kind,
                    "text": f"{when} {kind} {draw}",
                    "judge": 0.5,
                }
    yield {
        "when": "step 1",
        "split": "train",
        "topic": "effect 0",
        "turns": CONVERSATION,
        "text": "x",
        "reward": 0.5,
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "assistant"
    return read_page(make_run(path, summary_of_assistant(), samples=samples()))


def test_the_report_shows_every_part(page):
    found = {row[0]: row[1:] for row in page.rows if row}
    rate = "0.66 [0.64, 0.68]"
    assert found["training topics"] == [
        "0.25 [0.23, 0.27]",
        "0.39 [0.37, 0.41]",
        "0.88 [0.86, 0.90]",
        rate,
        "512",
    ]
    assert [row for row in page.rows if row[0] == "another"] == [
        ["another", "0.20 [0.18, 0.22]", "0.60 [0.58, 0.62]", "0.71 [0.69, 0.73]", "30"]
    ] * 3
    assert found["harmful requests refused"][2] == "0.96 [0.94, 0.98]"
    assert found["harmless requests answered"][0] == "0.62 [0.60, 0.64]"
    assert found["after feedback"] == ["0.731 [0.713, 0.749]", "0.104 [0.094, 0.114]"]
    assert found["pretrained base"] == ["0.538 [0.520, 0.556]", "–"]
    assert "On unseen phrasings the judge says" in page.text
    labels = [attributes.get("aria-label", "") for tag, attributes in page.tags if tag == "svg"]
    assert len(labels) == 6 and "Judge by kind of instruction" in labels


def test_samples_show_who_says_what_and_each_kind_once(page):
    rows = [row for row in page.rows if len(row) == 4 and "user" in row[0]]
    assert [row[1].split()[1] for row in rows] == list(KINDS)
    words = "user Name one effect of <rain>.assistant Rain fills the wells.user And why?"
    for row, kind in zip(rows, KINDS, strict=True):
        assert row[0] == words + kind
        assert [cell.split("judge")[0] for cell in row[1:]] == [
            f"{when} {kind} 0" for when in ("base", "before", "after")
        ]
    times = [row[0] for row in page.rows if len(row) == 2 and row[1].startswith(("x", "ba", "be"))]
    assert times == ["base", "before", "update 1"]


def test_the_terminal_shows_every_part():
    text = "\n".join(
        judged_lines(summary_of_assistant()) + comparison_lines(summary_of_assistant())
    )
    for words in (
        "judge  base 0.250 [0.232, 0.268] -> SFT 0.391 [0.373, 0.409] -> tuned 0.883",
        "unseen phrasings judge",
        "held-out topics  0.651 [0.633, 0.669]",
        "another       0.60±0.02 -> 0.71±0.02  0.60±0.02 -> 0.71±0.02",
        "harmful requests refused   base 0.110 [0.092, 0.128] -> SFT 0.830",
        "base 0.538 [0.520, 0.556] -> SFT 0.627 [0.609, 0.645] -> tuned 0.731",
        "by feedback 0.104 [0.094, 0.114]",
    ):
        assert words in text


@pytest.mark.parametrize(
    "raters, words",
    [("people", "people"), ("simulated", "simulated raters"), ("my class", "my class")],
)
def test_who_rated_the_texts(raters, words):
    told = feedback_words({"raters": raters, "shipped": 22, "collected": 0}, {})
    assert told == f"Scores: 22 texts rated by {words}, 0 more during training."
    ratings = {"raters": "simulated", "shipped": 12000, "collected": 12}
    told = feedback_words(ratings | {"collected_by": [raters]}, {})
    by = "" if raters == "simulated" else f" (by {words})"
    assert told == f"Scores: 12,000 texts rated by simulated raters, 12 more during training{by}."
    ranked = {"pairs_right": {}, "answers_each": 4, "rankings": 12}
    told = feedback_words({"raters": raters}, ranked)
    assert told == f"Rankings: 4 answers to each of 12 prompts, by {words}."


def test_a_reward_model_no_better_than_chance_is_told_of():
    def told(low: float | None) -> bool:
        quality = {"pearson": 0.4, "pearson_low": low, "pearson_high": 0.9, "n": 5}
        lines = quality_lines(quality | {"mse": 0.1, "mse_constant": 0.1})
        pairs = {"mean": 0.6, "low": low, "high": 0.9, "n": 5, "pairs": 9}
        ranked = None if low is None else quality_lines({"pairs_right": pairs})
        assert ranked is None or ("chance" in ranked[-1]) == (low <= 0.5)
        return "chance" in lines[-1]

    assert told(-0.2) and told(0.0)
    assert not told(0.1) and not told(0.6) and not told(None)


def test_without_supervised_fine_tuning_the_words_stay_short(tmp_path):
    old = synthetic_summary()
    assert comparison_lines(old) == [] and sections(old) == {}
    assert judged_lines(old)[:2] == [
        "  training topics  judge  0.391 [0.373, 0.409] -> 0.883 [0.865, 0.901]    "
        "KL 5.3 nats, length 22 -> 28 tokens, distinct 87%",
        "                   reward 0.402 [0.384, 0.420] -> 0.902 [0.884, 0.920]",
    ]
    assert len(judged_lines(old)) == 4
    new = copy.deepcopy(old)
    for split in ("train", "heldout"):
        new[split]["win_rate"] = interval(0.9)
    new["corpus_loss"] = {name: interval(1.2) for name in ("base", "tuned")}
    new["corpus_loss_rise"] = {"tuned": interval(0.1)}
    assert comparison_lines(new) == []
    assert set(sections(new)) == {"Against the model before", "Alignment tax"}
    assert "win rate of tuned against pretrained" in read_page(make_run(tmp_path / "r", new)).text
