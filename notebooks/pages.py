"""Notebooks as web pages; the output under a question is folded until the reader clicks on it.

python notebooks/pages.py FOLDER            all of them
python notebooks/pages.py FOLDER 04 01      these two
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat
import run_all
from jinja2 import DictLoader
from nbconvert import HTMLExporter

# Jupyter Lab folds such an output; nbconvert alone would show it.
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{% block output_group %}
{%- if cell.metadata.get('jupyter', {}).get('outputs_hidden') -%}
<details class="folded-output"><summary>Output (predict first)</summary>
{{ super() }}
</details>
{%- else -%}
{{ super() }}
{%- endif -%}
{% endblock output_group %}
"""
# Source shown by show_source is code: nbconvert would set it in proportional letters. And it would
# break a long line of output within a word.
STYLE = """<style>
details.folded-output > summary { cursor: pointer; margin: 0.4em 0 0.4em 4.5em; }
.jp-RenderedMarkdown pre, .jp-RenderedMarkdown pre code { font-family: monospace !important; }
.jp-OutputArea-output pre { word-break: normal; overflow-wrap: anywhere; }
</style>
"""


def page(path: Path) -> str:
    """The notebook as one HTML page; links to other notebooks lead to their pages."""
    exporter = HTMLExporter(
        template_file="folded.html.j2", extra_loaders=[DictLoader({"folded.html.j2": TEMPLATE})]
    )
    html, _ = exporter.from_notebook_node(nbformat.read(path, as_version=4))
    return html.replace("</head>", STYLE + "</head>", 1).replace('.ipynb"', '.html"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the pages")
    parser.add_argument("names", nargs="*", help="starts of file names, such as 04; all if none")
    arguments = parser.parse_args()
    try:
        paths = run_all.notebooks(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (arguments.folder / f"{path.stem}.html").write_text(page(path), encoding="utf-8")


if __name__ == "__main__":
    main()
