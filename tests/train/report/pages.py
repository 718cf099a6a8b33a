"""What a page would make a browser load."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

LOADING = ("src", "srcset", "poster", "action", "data", "background")


class Loads(HTMLParser):
    """Collects the tags, and whatever attribute would make a browser load something else."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            inside = (value or "").startswith(("#", "data:"))
            if (name in LOADING or name.endswith("href")) and not inside:
                self.loads.append(f"{tag} {name}={value}")


def parse_page(page: str) -> Any:
    """Return the root of a page, which must be well-formed XML."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def page_text(page: str) -> str:
    """Return the text of a page, without its markup."""
    return " ".join(" ".join(parse_page(page).itertext()).split())
