"""The fenced blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

_EXCUSE = re.compile(r"<!-- not run: (\S.*?) -->\s*")
_TITLE = re.compile(r"\btitle=(\S+)")
_OPERATORS = set("();<>|&")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page.
        line: The line of its first fence.
        language: The first word after the fence, such as `sh`.
        title: The file that the block holds, from `title=NAME` after the language.
        text: The content.
        excuse: Why the block is not run, from `<!-- not run: REASON -->` before it.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    excuse: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    blocks, excuse = [], None
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence":
            language, _, rest = token.info.partition(" ")
            title = _TITLE.search(rest)
            line = (token.map or [0])[0] + 1
            name = title[1] if title else None
            blocks.append(Block(page, line, language, name, token.content, excuse))
        match = _EXCUSE.fullmatch(token.content) if token.type == "html_block" else None
        excuse = match[1] if match else None
    return blocks


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages, in some languages if any are given."""
    found = [block for page in PAGES for block in blocks_of(page)]
    return [block for block in found if not languages or block.language in languages]


def inline_commands(page: Path) -> list[str]:
    """Return the text in backticks on a page that begins with `dimml `, in one line each."""
    inline = [token for token in MarkdownIt().parse(page.read_text()) if token.type == "inline"]
    spans = [
        child for token in inline for child in token.children or () if child.type == "code_inline"
    ]
    return [" ".join(span.content.split()) for span in spans if span.content.startswith("dimml ")]


def commands_of(shell: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell script, without comments and redirections.

    It knows pipes, lists, quotes and lines that are continued, which is all that the documentation
    uses; it raises `ValueError` for a quote that is not closed in its line.
    """
    joined = re.sub(r"\\\n\s*|(?<=\|)\n\s*", " ", shell)
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        redirects = False
        for word in lexer:
            if set(word) <= _OPERATORS:
                redirects = bool(set(word) & {"<", ">"})
                if not redirects and words:
                    yield words
                    words = []
            elif redirects:
                redirects = False
            elif words or not re.fullmatch(r"\w+=.*", word):
                words.append(word)
        if words:
            yield words
