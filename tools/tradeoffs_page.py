"""Put what `argosy tradeoffs` found into the documentation: its table, between markers, and its picture.

    python tools/tradeoffs_page.py build/tradeoffs      (make tradeoffs runs both)

docs/tradeoffs.md gets all rows, docs/quantization.md those about weights.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from argosy_cli.tradeoffs.report import Found, markdown

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tradeoffs: begin, written by make tradeoffs -->", "<!-- tradeoffs: end -->"
PAGES = {"docs/tradeoffs.md": ("",), "docs/quantization.md": ("fp32", "weights")}
"""Page -> beginnings of the names of its rows."""
PICTURE = "docs/pictures/tradeoffs.svg"
_LINK = "\n![The table as bars](pictures/tradeoffs.svg)\n"


def with_table(page: str, table: str) -> str:
    """A page with another table between the markers. Raises ValueError where they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def main(folder):
    """Rewrite the pages from the files in `folder`."""
    found = Found.from_json((folder / "tradeoffs.json").read_text(encoding="utf-8"))
    for name, parts in PAGES.items():
        rows = tuple(row for row in found.rows if row.name.startswith(parts))
        table = markdown(replace(found, rows=rows)) + (_LINK if parts == ("",) else "")
        page = (ROOT / name).read_text(encoding="utf-8")
        (ROOT / name).write_text(with_table(page, table), encoding="utf-8")
    shutil.copyfile(folder / "tradeoffs.svg", ROOT / PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
