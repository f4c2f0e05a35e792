"""benchmarks/prompt_tuning.py: rows, settings chosen apart from what is reported, figures."""

import math

import pytest

from benchmarks import prompt_tuning as bench
from benchmarks import prompt_tuning_figure as figure
from minirlhf.runs.base import read_base
from minirlhf.tasks.assistant.items import KINDS, TRANSLATION
from minirlhf.tasks.openings.knowledge import DATA

BASE = read_base(DATA / "base_assistant")


def figures(train: float, **others) -> dict:
    means = {"train before": 0.2, "train after": train, "heldout before": 0.1, "heldout after": 0.3}
    width = {"train after 95%": [train - 0.03, train + 0.03]}
    return means | width | {"parameters": 3840, "seconds": 9.0, "commit": "abc"} | others


ROWS = {
    "all-full": {"0": figures(0.8)},
    "all-20": {"0": figures(0.5), "1": figures(0.6)},
    "all-5": {"0": figures(0.4)},
    "all-20-random": {"0": figures(0.3)},
    "all-20, rate 0.1": {"0": figures(0.9)},
}


def test_a_row_says_what_is_tuned_and_how():
    usual, other = bench.Conditions(BASE), bench.Conditions(BASE, steps=7, rate=0.1)
    sft = bench.config_of("60-random", usual).sft
    assert (sft.tune, sft.steps, sft.evaluate_every) == ("soft-prompt", 300, 300)
    assert (sft.soft_prompt.length, sft.soft_prompt.start) == (60, "random")
    sft = bench.config_of("20", other).sft
    assert (sft.steps, sft.soft_prompt.learning_rate) == (7, 0.1)
    assert sft.soft_prompt.start == "demonstration"
    assert bench.config_of("full", usual).sft.tune == "all"
    assert bench.config_of("full", usual).sft.steps == 100
    assert usual.key("all-20") == "all-20" and other.key("all-20") == "all-20, 7 steps, rate 0.1"
    tuning = bench.Conditions(BASE, tuning=True)
    assert tuning.key("all-20") == "all-20, tuning" and tuning.seed(0) != usual.seed(0)


@pytest.mark.parametrize("kinds", [KINDS, TRANSLATION, ("french",)])
def test_settings_are_chosen_on_questions_that_are_not_reported(kinds):
    tuning, reported = bench.tuning_items(kinds), bench.items_of("train", kinds)
    assert len(tuning) >= bench.SAMPLES // 2 and {item.split for item in tuning} == {"train"}
    conversations = {item.conversation for item in reported}
    assert not any(item.conversation in conversations for item in tuning)
    if kinds != KINDS:
        assert not {item.about for item in tuning} & {item.about for item in reported}


def test_the_base_is_judged_once_per_seed():
    base = {"train before": 0.2, "train before 95%": [0.1, 0.3]}
    rows = {"all-20": {"0": base | {"seconds": 1.0}}, "all-5, tuning": {"1": base}}
    assert bench.known_before(rows, "all-60", 0) == base
    assert bench.known_before(rows, "all-60", 1) == {}  # that one answered other questions
    assert bench.known_before(rows, "all-60, tuning", 1) == base
    assert bench.known_before(rows, "french-20", 0) == {}


def test_the_table_holds_means_and_the_share_of_full_tuning():
    lines = figure.table(ROWS).splitlines()
    assert lines[3] == "| all-20 | 2 | 3,840 | 9 | 0.200 to 0.550 | 0.100 to 0.300 | 0.58 |"
    assert len(lines) == 2 + len(ROWS)


def test_the_interval_of_several_seeds_is_that_of_all_their_answers():
    assert figure.half_width(ROWS["all-5"], "train after") == pytest.approx(0.03)
    assert figure.half_width(ROWS["all-20"], "train after") == pytest.approx(0.03 / math.sqrt(2))
    assert math.isnan(figure.half_width(ROWS["all-5"], "heldout after"))
    some = {"0": figures(0.5), "1": {"train after": 0.6}}
    assert figure.half_width(some, "train after") == pytest.approx(0.03 / math.sqrt(2))


def test_the_picture_has_a_line_per_start():
    from matplotlib.figure import Figure

    lines = figure.lines_of(ROWS, "all")
    assert {start: list(found) for start, found in lines.items()} == {
        "demonstration": [5, 20],
        "random": [20],
    }
    axes = Figure().subplots()
    figure.draw_panel(axes, ROWS, "all", "train")
    drawn = {bars.get_label(): list(bars[0].get_ydata()) for bars in axes.containers}
    assert drawn == {"demonstration": pytest.approx([0.4, 0.55]), "random": [0.3]}
    levels = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert levels["every weight"] == 0.8 and levels["the base"] == 0.2
    assert axes.get_xscale() == "log"
