"""The report page: true to the files of the run, whole with any stage missing, self-contained, and
safe to open."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from minirlhf.reports import figures, run_report

TRAIN = [f"training topic {index}" for index in range(10)]
HELDOUT = [f"held-out topic {index}" for index in range(3)]


def interval(mean, half=0.018):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 512}


def synthetic_metrics(rng):
    for step in range(10, 901, 10):
        row = {
            "stage": "pretrain",
            "step": step,
            "seconds": step * 0.05,
            "learning_rate": 1e-3,
            "tokens_per_second": 3e4,
            "loss_nats_per_token": 0.9 + 6 * math.exp(-step / 120) + rng.normal(0, 0.03),
        }
        if step % 100 == 0:
            row["heldout_loss_nats_per_token"] = 1.0 + 6 * math.exp(-step / 120)
        yield row
    for step in range(50, 501, 50):
        yield {
            "stage": "reward",
            "step": step,
            "seconds": step * 0.06,
            "loss_mse": 0.006 + 0.08 * math.exp(-step / 90),
            "heldout_mse": 0.009 + 0.08 * math.exp(-step / 90),
            "heldout_pearson": 1 - math.exp(-step / 150),
        }
    for step in range(1, 121):
        rise = 1 - math.exp(-step / 35)
        yield {
            "stage": "finetune",
            "step": step,
            "seconds": step * 0.55 + 8 * (step > 40) + 8 * (step > 80),
            "reward": 0.40 + 0.5 * rise + rng.normal(0, 0.02),
            "judge": 0.39 + 0.49 * rise + rng.normal(0, 0.025),
            "kl_nats": 5 * rise + rng.normal(0, 0.2),
            "length_tokens": 22 + 6 * rise + rng.normal(0, 0.5),
            "entropy_nats_per_token": 0.8 - 0.3 * rise,
            "gradient_norm": 1.0,
            "kl_weight": 0.03,
            "distinct": 1 - 0.1 * rise,
            "round": 1 + (step > 40) + (step > 80),
            "samples": step * 128,
        }


def synthetic_samples():
    for step in range(1, 121, 15):
        yield {
            "stage": "finetune",
            "step": step,
            "when": f"step {step}",
            "split": "train",
            "topic": TRAIN[0],
            "text": f"Written at update {step}: sleep mends what the day has worn.",
            "reward": 0.4 + step / 300,
        }
    for split, topics in (("train", TRAIN), ("heldout", HELDOUT)):
        for when, judge in (("before", 0.25), ("after", 1.0)):
            for draw in range(2):
                for topic in topics:
                    text = (
                        f"{split} {when} draw {draw} on {topic}: seven hours of sleep let the "
                        "brain sort the day, and so people remember more of what they have learned."
                    )
                    yield {
                        "when": when,
                        "split": split,
                        "topic": topic,
                        "text": text,
                        "judge": judge,
                        "reward": 0.61,
                        "kl_nats": 0.0 if when == "before" else 5.27,
                        "length_tokens": 27,
                    }


def synthetic_summary():
    def split(judge_after, reward_after):
        return {
            "judge_before": interval(0.391),
            "judge_after": interval(judge_after),
            "reward_before": interval(0.402),
            "reward_after": interval(reward_after),
            "kl_after": 5.27,
            "length_before": 22.4,
            "length_after": 27.9,
            "distinct_before": 0.994,
            "distinct_after": 0.871,
        }

    return {
        "task": "openings",
        "seed": 3,
        "device": "cpu",
        "judge_name": "rubric of five points",
        "hardware": {"device": "some processor", "cores": "2", "threads": "2", "torch": "2.13"},
        "config": {
            "task": "openings",
            "seed": 3,
            "model": {"width": 128, "layers": 4},
            "finetune": {"kl_weight": 0.03},
        },
        "ratings": {"shipped": 2400, "collected": 800, "raters": "simulated"},
        "peak_rss_mb": 812.5,
        "seconds": {
            "pretrain": 45.1,
            "reward": 31.2,
            "finetune": 82.3,
            "evaluate": 9.4,
            "total": 168.0,
        },
        "reward_model": {
            "mse": 0.0093,
            "mse_constant": 0.0871,
            "pearson": 0.947,
            "spearman": 0.938,
            "handwritten_spearman": 0.71,
            "calibration": [
                {"predicted": p, "observed": p + 0.02, "low": p - 0.03, "high": p + 0.07, "n": 24}
                for p in np.linspace(0.06, 0.93, 10).tolist()
            ],
        },
        "train": split(0.883, 0.902),
        "heldout": split(0.847, 0.866),
        "reward_hacking": False,
        "notes": ["The raters are simulated."],
    }


def make_run(path, summary=None, metrics=None, samples=None, config=True):
    """A run folder with the given files; what is None is not there."""
    path.mkdir(parents=True)
    if config:
        (path / "config.json").write_text(json.dumps({"task": "openings", "seed": 3}))
    for name, rows in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
        if rows is not None:
            (path / name).write_text(
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
                encoding="utf-8",
            )
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def full_run(path, **changes):
    return make_run(
        path,
        {**synthetic_summary(), **changes},
        synthetic_metrics(np.random.default_rng(0)),
        synthetic_samples(),
    )


def run_without_curves(path, **changes):
    """The words of a page do not depend on the curves, and drawing those takes most of its time."""
    return make_run(path, {**synthetic_summary(), **changes}, samples=synthetic_samples())


class Page(HTMLParser):
    """Tags with attributes, visible text, rows of table cells, and whether each tag is closed in
    order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.rows, self.open, self.banner = [], "", [], [], False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.banner |= dict(attributes).get("class") == "banner"
        if tag not in ("meta", "path", "use", "rect"):  # void, or written <path/>
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if (self.open and "td" in self.open) or "th" in self.open:
            self.rows[-1][-1] += data


def read_page(run):
    page = Page(run_report.write_report(run).read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return full_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run):
    return read_page(run)


def test_page_is_self_contained(run, page):
    html = (run / "report.html").read_text(encoding="utf-8")
    assert (
        "://" not in html
    )  # the synthetic files hold no address, so any would be a resource or a namespace
    assert "url(" in html and all(
        part.startswith("#") for part in html.split("url(")[1:]
    )  # clip paths inside the page
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "base",
        "image",
    }
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert links and all(link.startswith("#") for link in links)
    assert str(run) not in html and str(run.parent) not in html
    assert sum(tag == "svg" for tag, _ in page.tags) == 4


def test_each_reference_inside_the_page_has_a_target(page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    values = [
        attributes.get(name, "") for _, attributes in page.tags for name in ("href", "clip-path")
    ]
    used = {match[1] for value in values if (match := re.fullmatch(r"(?:url\()?#(\w+)\)?", value))}
    assert used and used <= ids


def test_figures_take_every_colour_from_the_page(page):
    """A fixed colour in a figure would be invisible in one of light and dark."""
    for tag, attributes in page.tags:
        if tag in ("path", "text", "use", "g", "rect"):
            assert "#" not in attributes.get("style", "").replace("url(#", ""), attributes


def test_numbers_equal_the_summary(page):
    rows = {row[0]: row[1:] for row in page.rows if row}
    assert rows["judge (0 to 1)"] == [
        "0.39 [0.37, 0.41]",
        "0.88 [0.86, 0.90]",
        "0.39 [0.37, 0.41]",
        "0.85 [0.83, 0.86]",
    ]
    assert rows["reward model (0 to 1)"] == [
        "0.40 [0.38, 0.42]",
        "0.90 [0.88, 0.92]",
        "0.40 [0.38, 0.42]",
        "0.87 [0.85, 0.88]",
    ]
    assert rows["KL to the reference (nats per text)"] == ["0 (is the reference)", "5.27"] * 2
    assert rows["length (tokens per text)"] == ["22.4", "27.9"] * 2
    assert rows["distinct texts (share)"] == ["0.99", "0.87"] * 2
    assert rows["texts judged"] == ["512"] * 4
    assert rows["mean squared error (MSE) on held-out texts"] == ["0.0093"]
    assert rows["MSE of a constant (always the mean score)"] == ["0.0871"]
    assert rows["Pearson r with the scores"] == ["0.947"] and rows[
        "Spearman r with the scores"
    ] == ["0.938"]
    assert rows["Spearman r on handwritten texts"] == ["0.710"]
    assert rows["fine-tuning"][0] == "82.3" and rows["total"][0] == "168.0"
    assert (
        rows["finetune.kl_weight"] == ["0.03"] and rows["cores"] == ["2"] and rows["seed"] == ["3"]
    )
    assert (
        "the judge says 0.39 [0.37, 0.41] before and 0.88 [0.86, 0.90] after fine-tuning: it rose"
        in page.text
    )
    assert (
        "openings: the judge rose" in page.text
        and "2,400 texts came with scores, 800 more were" in page.text
    )


@pytest.mark.parametrize(
    "raters, words",
    [
        ("simulated", "not from people"),
        ("people", "The raters are people"),
        ("authors", "The authors of the texts"),
        ("<owls>", "Raters: <owls>."),
    ],
)
def test_page_says_who_scored(tmp_path, raters, words):
    page = read_page(
        run_without_curves(
            tmp_path / "run", ratings={"shipped": 1, "collected": 0, "raters": raters}
        )
    )
    said = {
        text
        for text in (
            "not from people",
            "The raters are people",
            "The authors of the texts",
            "Raters: <owls>.",
        )
        if text in page.text
    }
    assert said == {words}


@pytest.mark.parametrize(
    "before, after, verdict",
    [
        (0.30, 0.34, "rose"),
        (0.30, 0.32, "did not clearly change"),
        (0.34, 0.30, "fell"),
        (0.32, 0.30, "did not clearly change"),
    ],
)
def test_change_is_claimed_only_where_it_is_more_than_chance(tmp_path, before, after, verdict):
    train = synthetic_summary()["train"] | {
        "judge_before": interval(before),
        "judge_after": interval(after),
    }  # +-.018
    page = read_page(run_without_curves(tmp_path / "run", train=train))
    assert f"openings: the judge {verdict}" in page.text


def test_banner_only_where_the_summary_says_reward_hacking(tmp_path, page):
    train = synthetic_summary()["train"] | {"judge_after": interval(0.22)}
    hacked = read_page(run_without_curves(tmp_path / "run", train=train, reward_hacking=True))
    assert hacked.banner and "openings: the judge fell" in hacked.text
    assert not page.banner


def test_text_of_files_is_escaped(tmp_path):
    evil = '<script>alert(1)</script> & "quotes" \'n <img src=x onerror=y> </td></table>'
    sample = {
        "when": "before",
        "split": "train",
        "topic": evil,
        "text": evil,
        "reward": 0.5,
        "judge": 0.5,
    }
    samples = [sample, {**sample, "when": "step 1"}]
    summary = synthetic_summary() | {
        "task": evil,
        "judge_name": evil,
        "notes": [evil],
        "hardware": {evil: evil},
        "config": {evil: {evil: evil}},
        "seconds": {evil: 1.0},
        "ratings": {"shipped": evil, "collected": evil, "raters": evil},
    }
    page = read_page(
        make_run(tmp_path / "run", summary, synthetic_metrics(np.random.default_rng(0)), samples)
    )
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert page.text.count('<script>alert(1)</script> & "quotes"') >= 12
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot;" in html


def test_samples_stand_side_by_side_training_topics_first(page):
    rows = [row for row in page.rows if len(row) == 3 and "topic " in row[0]]
    assert [row[0] for row in rows] == TRAIN[:8] + HELDOUT
    for topic, before, after in rows:
        split = "heldout" if topic in HELDOUT else "train"
        assert (
            before.startswith(f"{split} before draw 0 on {topic}:")
            and "judge 0.25 · reward 0.61 · KL 0.0" in before
        )
        assert (
            after.startswith(f"{split} after draw 0 on {topic}:")
            and "judge 1.00 · reward 0.61 · KL 5.3 · tokens 27" in after
        )


def test_one_topic_over_time_goes_from_before_to_after(page):
    rows = [
        row
        for row in page.rows
        if len(row) == 2 and row[0].split()[0] in ("before", "update", "after")
    ]
    assert [row[0] for row in rows] == ["before"] + [
        f"update {step}" for step in range(1, 121, 15)
    ] + ["after"]
    assert f"One topic over time: {TRAIN[0]}" in page.text


@pytest.mark.parametrize(
    "stages", [(), ("pretrain",), ("pretrain", "reward"), ("pretrain", "reward", "finetune")]
)
def test_page_of_an_unfinished_run(tmp_path, stages):
    metrics = [row for row in synthetic_metrics(np.random.default_rng(0)) if row["stage"] in stages]
    page = read_page(make_run(tmp_path / "run", metrics=metrics))
    assert sum(tag == "svg" for tag, _ in page.tags) == len(stages)
    assert ("Not evaluated yet" if "finetune" in stages else "Not fine-tuned yet") in page.text
    missing = page.text[page.text.index("Not in this run yet:") :].split(".")[0]
    for stage, words in (
        ("pretrain", "pretraining"),
        ("reward", "reward model"),
        ("finetune", "fine-tuning"),
    ):
        assert (words in missing) == (stage not in stages)
    assert "before and after" in missing


def test_progress_stands_in_for_the_summary(tmp_path):
    run = make_run(
        tmp_path / "run", metrics=list(synthetic_metrics(np.random.default_rng(0)))[:100]
    )
    (run / "progress.json").write_text(
        json.dumps({"seconds": {"pretrain": 45.1}, "peak_rss_mb": 700.0})
    )
    assert ["pretraining", "45.1", ""] in read_page(run).rows


def test_a_single_record_of_each_stage_and_samples_without_a_partner(tmp_path):
    metrics = [
        {"stage": "pretrain", "step": 1, "seconds": 0.0, "loss_nats_per_token": 7.0},
        {"stage": "reward", "step": 1, "seconds": 0.1, "heldout_mse": 0.05},
        {"stage": "finetune", "step": 1, "seconds": 0.1, "reward": 0.4, "kl_nats": -0.1},
    ]
    samples = [{"when": "before", "split": "heldout", "topic": "rain", "text": ""}]
    page = read_page(make_run(tmp_path / "run", metrics=metrics, samples=samples))
    assert ["rain", "(empty)", "–"] in page.rows and "judge says – at update 1" in page.text


def test_strange_characters_do_not_break_the_page(tmp_path):
    """U+2028 ends a line for str.splitlines but not for JSON; a lone surrogate has no UTF-8."""
    samples = [
        {"when": when, "split": "train", "topic": "睡眠", "text": "a\u2028b \ud800 $x$ é"}
        for when in ("before", "after")
    ]
    run = make_run(tmp_path / "run", samples=samples[:0])
    (run / "samples.jsonl").write_text(
        "".join(json.dumps(row).replace("\\u2028", "\u2028") + "\n" for row in samples),
        encoding="utf-8",
    )
    assert ["睡眠", "a\u2028b ? $x$ é", "a\u2028b ? $x$ é"] in read_page(run).rows


def test_absolute_paths_are_cut_to_their_name(tmp_path):
    page = read_page(
        run_without_curves(
            tmp_path / "run",
            config={"feedback": str(tmp_path / "mine.jsonl"), "credit": "per-token"},
        )
    )
    assert ["feedback", "mine.jsonl"] in page.rows and ["credit", "per-token"] in page.rows


def test_broken_files_are_named_by_file_and_line(tmp_path):
    run = make_run(tmp_path / "run", metrics=[{"stage": "pretrain"}])
    (run / "metrics.jsonl").write_text('{"stage": "pretrain", "step": 1}\n{"stage": \n{}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2: expected a JSON object"):
        run_report.write_report(run)
    (run / "metrics.jsonl").write_text("{}\n[1]\n")
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl: line 2: expected a JSON object, found a list"
    ):
        run_report.write_report(run)
    (run / "metrics.jsonl").write_text(
        '{"stage": "other"}\n{"stage": "pre'
    )  # cut off by an interruption
    read_page(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected a run folder"):
        run_report.write_report(tmp_path / "empty")


def test_write_is_atomic_and_repeatable(tmp_path, monkeypatch):
    run = full_run(tmp_path / "run")
    first = run_report.write_report(run).read_bytes()
    assert run_report.write_report(run).read_bytes() == first
    files = sorted(path.name for path in run.iterdir())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    for write in (
        lambda: run_report.write_report(run),
        lambda: run_report.write_plot(run, run / "report.html"),
    ):
        with pytest.raises(OSError, match="disk full"):
            write()
        assert (run / "report.html").read_bytes() == first and sorted(
            path.name for path in run.iterdir()
        ) == files


def test_curve_passes_through_the_logged_numbers():
    """Minutes and scores of the curves are those of metrics.jsonl; the axis shows the whole of 0 to
    1."""
    from matplotlib.figure import Figure

    finetune = [
        row for row in synthetic_metrics(np.random.default_rng(0)) if row["stage"] == "finetune"
    ]
    axis = Figure().subplots()
    figures.draw_scores(axis, finetune)
    lines = {line.get_label().split()[0]: line for line in axis.lines}
    for key in ("reward", "judge"):
        np.testing.assert_allclose(
            lines[key].get_xdata(), [row["seconds"] / 60 for row in finetune]
        )
        np.testing.assert_allclose(lines[key].get_ydata(), [row[key] for row in finetune])
    assert axis.get_ylim() == (0, 1)
    shaded = [
        [patch.get_x() * 60, (patch.get_x() + patch.get_width()) * 60] for patch in axis.patches
    ]
    np.testing.assert_allclose(
        shaded, [[finetune[i]["seconds"], finetune[i + 1]["seconds"]] for i in (39, 79)]
    )


def test_calibration_and_baseline_are_inside_the_figure():
    summary, metrics = (
        synthetic_summary()["reward_model"],
        synthetic_metrics(np.random.default_rng(0)),
    )
    left, right = figures.reward_figure(
        [row for row in metrics if row["stage"] == "reward"], summary
    ).axes
    points = [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in left.lines
        if line.get_marker() == "o"
    ]
    np.testing.assert_allclose(
        points, [(group["predicted"], group["observed"]) for group in summary["calibration"]]
    )
    assert left.get_xlim() == left.get_ylim() == (0, 1)
    constant = next(line for line in right.lines if line.get_label() == "always the mean score")
    assert constant.get_ydata()[0] == summary["mse_constant"]
    assert right.get_ylim()[0] == 0 and right.get_ylim()[1] > summary["mse_constant"]


def test_plot_is_a_png_and_pyplot_is_never_imported(run, tmp_path):
    code = (
        "import sys; from pathlib import Path; from minirlhf.reports import run_report as report\n"
        "run, plot = map(Path, sys.argv[1:])\n"
        "report.write_plot(run, plot); report.write_report(run)\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    target = tmp_path / "plot.png"
    subprocess.run([sys.executable, "-c", code, str(run), str(target)], check=True)
    data = target.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
    assert width >= 1200 and height >= 500
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_plot_needs_a_finished_run(tmp_path):
    with pytest.raises(ValueError, match="expected a run that is fine-tuned and evaluated"):
        run_report.write_plot(make_run(tmp_path / "run"), tmp_path / "plot.png")


def test_a_second_judge_is_summed_up_and_shown_where_a_task_has_one():
    from minirlhf.evaluation.judge import summarise
    from minirlhf.reports.html import before_after_table

    def rows(*fluency: float) -> list[dict]:
        return [
            {"judge": 0.5, "reward": 0.5, "length_tokens": 9, "kl_nats": 0.0, "text": str(value)}
            | ({"fluency_nats_per_word": value} if value else {})
            for value in fluency
        ]

    part = summarise(rows(-6.0, -8.0), rows(-9.0, -10.0))
    assert (
        part["fluency_before"]["mean"] == -7
        and part["fluency_after"]["mean"] == -9.5
        and part["fluency_after"]["n"] == 2
    )
    assert "fluency" in before_after_table({"train": part})
    assert "fluency" not in before_after_table({"train": summarise(rows(0, 0), rows(0, 0))})
