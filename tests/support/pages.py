"""What an HTML page shows, and what it would fetch."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

__all__ = ["Page"]


class Page(HTMLParser):
    """What a page shows, and what it would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.plots = 0
        self._tag = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.plots += tag == "svg"
        self.fetched += [
            str(value) for name, value in attrs if name in {"src", "href", "xlink:href"} and value and value[0] != "#"
        ]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._tag == "h2" and data.strip():
            self.headings.append(data)
