"""The server of the page: whom it answers, what it refuses, what it writes."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

import pytest
from served import NASTY, TOPIC, light_run, light_task, serving

from minirlhf.cli import play as command
from minirlhf.cli.main import main
from minirlhf.feedback.records import read_triples
from minirlhf.play import asked
from minirlhf.play.workshop import rated_names
from minirlhf.runs import run_task

WRITE = {"prompt": TOPIC, "stages": ["base", "tuned"]}
RATE = {"prompt": TOPIC, "texts": ["A text."], "writers": ["tuned"], "key": "4"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    run = light_run(tmp_path_factory.mktemp("runs") / "r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_task, "load_task", lambda *_: light_task("openings"))
        with serving(run) as found:
            yield found


# Who is answered ----------------------------------------------------------------------------------


def test_the_page_and_its_files_are_served_with_a_strict_policy(served):
    page = served.send(served.path)
    assert page.status == 200 and b"<!doctype html>" in page.read()
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy
    assert "Access-Control-Allow-Origin" not in page.headers
    script = served.send(served.path + "static/main.js", Origin=f"http://{served.host}")
    assert script.status == 200 and script.headers["Content-Type"].startswith("text/javascript")
    assert served.host.startswith("127.0.0.1:")


@pytest.mark.parametrize("path", ["", "static/main.js", "api/run", "api/none"])
@pytest.mark.parametrize(
    "headers, words",
    [
        ({"Host": "evil.example"}, "Host: expected 127.0.0.1:"),
        ({"Host": "127.0.0.1:1"}, "Host: expected 127.0.0.1:"),
        ({"Origin": "http://evil.example"}, "Origin: expected this server's own page"),
        ({"Origin": "null"}, "Origin: expected this server's own page"),
    ],
)
def test_other_hosts_and_origins_are_refused(served, path, headers, words):
    response = served.send(served.path + path, **headers)
    error = json.loads(response.read())["error"]
    assert response.status == 403 and error.startswith(words) and "\n" not in error


@pytest.mark.parametrize("path", ["/", "/x/", "/x/api/run", "/static/main.js", "/favicon.ico"])
def test_without_the_token_nothing_is_told(served, path):
    response = served.send(path)
    assert response.status == 403
    assert json.loads(response.read()) == {
        "error": "token: expected the one in the address that play printed"
    }


@pytest.mark.parametrize(
    "path",
    [
        "static/../server.py",
        "static/../../../config.json",
        "static/%2e%2e/server.py",
        "static//etc/passwd",
        "static/",
        "static/nothing.js",
        "config.json",
        "../server.py",
    ],
)
def test_files_outside_the_page_cannot_be_asked_for(served, path):
    response = served.send(served.path + path)
    assert response.status == 404 and b"import" not in response.read()


# What is refused ----------------------------------------------------------------------------------

LONG = "x" * (asked.LONGEST_TEXT + 1)


@pytest.mark.parametrize(
    "name, body, status, words",
    [
        ("write", b"{", 400, "body: expected JSON"),
        ("write", b"[" * 100_000, 400, "body: expected JSON"),
        ("write", [], 400, "body: expected a JSON object, found list"),
        ("write", b" " * 300_000, 413, "body: expected at most 200000 bytes"),
        ("write", {}, 400, "stages: expected some of base, tuned"),
        ("write", WRITE | {"stages": ["sft"]}, 400, "stages: expected some of base, tuned"),
        ("write", WRITE | {"prompt": " "}, 400, "prompt: expected a text that is not empty"),
        ("write", WRITE | {"prompt": LONG}, 400, "prompt: expected at most 20000 characters"),
        ("write", WRITE | {"prompt": [{"role": "user"}]}, 400, "prompt[0].text: expected a text"),
        ("write", WRITE | {"temperature": "1"}, 400, "temperature: expected a number from 0"),
        ("write", WRITE | {"top_p": 0}, 400, "top_p: expected a number from 1e-06 to 1"),
        ("write", WRITE | {"best_of": 33}, 400, "best_of: expected a whole number from 1 to 32"),
        ("write", WRITE | {"seed": 1.5}, 400, "seed: expected a whole number"),
        ("write", WRITE | {"start": [-1]}, 400, "start: expected a list of token ids"),
        ("write", WRITE | {"start": [10**6]}, 400, "token id: expected 0 to"),
        ("look", {"prompt": TOPIC, "stage": "x", "text": ""}, 400, "stage: expected one of base"),
        ("look", {"prompt": TOPIC, "stage": "base"}, 400, "text: expected a text"),
        ("rate", RATE | {"key": "6"}, 400, "key: expected one of 0, 1, 2, 3, 4, 5"),
        ("rate", RATE | {"key": "0"}, 400, "answer: expected one of 1 2 3 4 5"),
        ("rate", RATE | {"texts": [" "]}, 400, "rating: expected a text that is not empty"),
        ("rate", RATE | {"writers": ["me"]}, 400, "writers: expected one of base, tuned, edited"),
    ],
)
def test_what_cannot_be_done_is_one_line(served, name, body, status, words):
    found, answer = served.api(name, body)
    assert found == status and answer["error"].startswith(words), answer
    assert list(answer) == ["error"] and "\n" not in answer["error"]


def test_only_json_is_read(served):
    """A form of another page could be sent without asking; its type gives it away."""
    status, answer = served.api("write", WRITE, Content_Type="text/plain")
    assert (status, answer["error"]) == (415, "Content-Type: expected application/json")
    assert served.send(served.path + "api/run", {}).status == 405


# Writing ------------------------------------------------------------------------------------------


def test_models_write_side_by_side_and_the_end_holds_the_numbers(served):
    events = served.written(WRITE | {"temperature": 0.5, "seed": 3})
    tokens = [event["stage"] for event in events if event["event"] == "token"]
    assert tokens[:4] == ["base", "tuned", "base", "tuned"]
    for stage in ("base", "tuned"):
        mine = [event for event in events if event["stage"] == stage]
        assert [event["event"] for event in mine[:2]] == ["begin", "token"]
        look = mine[-1]["look"]
        ids = [event["token"]["token"] for event in mine if event["event"] == "token"]
        assert [token["token"] for token in look["tokens"]] == ids
        assert len(look["tokens"][0]["likeliest"]) == 5
        assert look["score"] is not None and look["judge"] is None  # the judge is asked apart
    assert events == served.written(WRITE | {"temperature": 0.5, "seed": 3})
    assert events != served.written(WRITE | {"temperature": 0.5, "seed": 4})


def test_best_of_n_shows_each_text_and_then_the_best(served):
    events = served.written(WRITE | {"stages": ["tuned"], "best_of": 3})
    begins = [(event["number"], event["of"]) for event in events if event["event"] == "begin"]
    assert begins == [(1, 3), (2, 3), (3, 3)]
    scores = events[-1]["scores"]
    assert len(scores) == 3 and events[-1]["number"] == scores.index(max(scores))


def test_what_if_goes_on_from_the_given_tokens(served):
    start = [5, 70, 71]
    events = served.written(WRITE | {"stages": ["base"], "start": start})
    ids = [event["token"]["token"] for event in events if event["event"] == "token"]
    assert ids[:3] == start and len(ids) > 3
    assert [token["token"] for token in events[-1]["look"]["tokens"]] == ids


def test_a_second_writer_is_told_to_wait_and_the_page_stays_usable(served):
    workshop, events = served.workshop, []
    served.in_loop(workshop.loaded())
    held = asyncio.Event()

    async def writing():
        async with workshop.turn(lambda event: asyncio.sleep(0)):
            await held.wait()

    first = asyncio.run_coroutine_threadsafe(writing(), served.loop)
    while not workshop.writing.locked():
        time.sleep(0.005)
    response = served.send(served.path + "api/write", WRITE)
    assert json.loads(response.readline()) == {"event": "waiting", "ahead": 1}
    reader = threading.Thread(target=lambda: events.extend(response.read().splitlines()))
    reader.start()
    status, answer = served.api("look", {"prompt": TOPIC, "stage": "base", "text": "Meanwhile."})
    assert status == 200 and answer["look"]["text"] == "Meanwhile." and not events
    workshop.waiting += 8
    assert served.api("write", WRITE)[0] == 429
    workshop.waiting -= 8
    served.loop.call_soon_threadsafe(held.set)
    first.result(10)
    reader.join(10)
    assert json.loads(events[0])["event"] == "begin" and workshop.waiting == 0


def test_a_text_is_looked_at_between_two_tokens_and_a_page_that_leaves_stops_its_own(served):
    response = served.send(served.path + "api/write", WRITE | {"best_of": 32})
    response.readline()
    status, answer = served.api("look", {"prompt": TOPIC, "stage": "base", "text": "Meanwhile."})
    assert status == 200 and answer["look"]["text"] == "Meanwhile."
    assert served.workshop.writing.locked()  # 64 texts take longer
    response.close()
    deadline = time.monotonic() + 10
    while served.workshop.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert served.workshop.waiting == 0 and not served.workshop.writing.locked()


@pytest.mark.parametrize("text", [NASTY, "x" * 1000, "\ud83d half", "", "\x00\r\n"])
def test_any_text_can_be_looked_at_and_judged(served, text):
    status, answer = served.api("look", {"prompt": NASTY, "stage": "tuned", "text": text})
    assert status == 200 and answer["look"]["tokens"]
    assert all(token["text"].isprintable() for token in answer["look"]["tokens"])
    status, answer = served.api("judge", {"prompt": TOPIC, "text": text})
    assert status == 200 and 0 <= answer["judge"] <= 1
    status, answer = served.api("judge", {"prompt": "another", "text": text})
    assert answer == {"judge": None, "reasons": ["the judge knows only the prompts of its task"]}


def test_curves_hold_the_log_and_the_samples(served):
    status, answer = served.api("curves")
    points = {curve["name"]: curve["points"] for curve in answer["curves"]}
    assert status == 200 and list(points) == ["reward", "judge", "kl_nats", "length_tokens"]
    assert points["kl_nats"][0] == [1, 0.5] and points["length_tokens"][-1] == [8, 28]
    assert [row["step"] for row in answer["samples"]] == [1, 5]


# Rating -------------------------------------------------------------------------------------------


def test_ratings_are_added_as_rate_writes_them(served):
    folder = served.workshop.path
    status, answer = served.api("rate", RATE)
    assert (status, answer) == (200, {"file": "ratings.jsonl", "answers": 1})
    assert json.loads((folder / "ratings.jsonl").read_text(encoding="utf-8")) == {
        "topic": TOPIC,
        "text": "A text.",
        "score": 4,
        "ratings": [4],
        "provenance": "people",
        "rater": "me",
        "repeat": False,
        "model": "after",
    }
    assert served.api("rate", RATE) == (400, {"error": "rating: you have rated this already"})
    pair = {"prompt": TOPIC, "texts": ["A.", "B."], "writers": ["base", "edited"], "key": "2"}
    assert served.api("rate", pair) == (200, {"file": "comparisons.jsonl", "answers": 1})
    row = json.loads((folder / "comparisons.jsonl").read_text(encoding="utf-8"))
    assert (row["better"], row["worse"], row["first"]) == ("B.", "A.", "worse")
    assert row["models"] == ["edited", "before"] and not row["tie"]
    assert [one.score for one in read_triples(folder / "ratings.jsonl", (1, 5))] == [0.75]


@pytest.mark.parametrize(
    "stages, names",
    [
        (("base", "tuned"), {"base": "before", "tuned": "after"}),
        (("base", "sft", "tuned"), {"base": "base", "sft": "before", "tuned": "after"}),
    ],
)
def test_models_are_named_as_in_rate(stages, names):
    """Before fine-tuning is the model that feedback tunes: the one after SFT, if there is one."""
    assert rated_names(stages) == names | {"edited": "edited", "sample": "sample"}


def test_a_file_that_is_not_ours_is_never_changed(served):
    path = served.workshop.path / "ratings.jsonl"
    kept = path.read_bytes() if path.exists() else b""
    foreign = b'{"name": "somebody else\'s"}\n'
    path.write_bytes(foreign)
    status, answer = served.api("rate", RATE | {"texts": ["Another."]})
    assert status == 400 and "ratings.jsonl: line 1" in answer["error"]
    assert path.read_bytes() == foreign
    path.write_bytes(kept)


# The command --------------------------------------------------------------------------------------


def test_the_command_ends_with_one_line(served, monkeypatch, capsys):
    addresses = []

    def interrupt(address: str) -> None:
        addresses.append(address)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "announce", interrupt)
    folder = served.workshop.path
    words = ["play", "--run", folder.name, "--runs", str(folder.parent), "--no-browser"]
    main([*words, "--device", "cpu"])
    assert capsys.readouterr().out == "\nClosed.\n"
    assert addresses[0].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "words, told",
    [
        (["--run", "none"], "no run here (no config.json)"),
        (["--port", "0"], "--port"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, capsys, words, told):
    with pytest.raises(SystemExit) as stopped:
        main(["play", "--no-browser", "--runs", str(tmp_path), *words])
    assert stopped.value.code == 2 and told in "".join(capsys.readouterr())


def test_a_port_in_use_and_a_run_without_models_are_told(served, monkeypatch, capsys, tmp_path):
    folder = served.workshop.path
    port = served.host.partition(":")[2]
    words = ["play", "--no-browser", "--runs", str(folder.parent), "--run", folder.name]
    with pytest.raises(SystemExit):
        main([*words, "--port", port])
    assert f"error: --port {port}: cannot be used" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(SystemExit):
        main(["play", "--no-browser", "--runs", str(tmp_path), "--run", "empty"])
    assert "no model here yet; run: python -m minirlhf pretrain" in capsys.readouterr().err


def test_a_missing_tornado_is_one_line(served, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("minirlhf.play.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tornado.httpserver", None)
    with pytest.raises(SystemExit):
        main(["play", "--runs", str(served.workshop.path.parent), "--run", "r"])
    assert capsys.readouterr().err == (
        "error: play: expected the package tornado, found none; run: pip install tornado\n"
    )
