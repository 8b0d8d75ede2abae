"""The page of messages quotes what the code says."""

import ast
import re
from functools import cache

import pytest

from tests.places import REPOSITORY

PAGE = (REPOSITORY / "docs" / "errors.md").read_text("utf-8")
ANY = "…"
MESSAGES = [
    quoted
    for row in PAGE.splitlines()
    if row.startswith("| `")
    for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0])
]


@cache
def texts() -> list[str]:
    """Every text of the package, whole, with ``…`` for what is filled in."""
    found = []
    for path in sorted((REPOSITORY / "sdlora").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [
                    each.value if isinstance(each, ast.Constant) else ANY for each in node.values
                ]
                found.append("".join(map(str, parts)))
    return found


def is_said(message: str) -> bool:
    """Whether some text of the code has all constant parts of a quoted message, in order.

    What fills a text in may be a text itself, so the first part alone may stand elsewhere.
    """
    parts = [part.strip(" \n") for part in message.split(ANY)]
    pattern = re.compile(".*".join(re.escape(part) for part in parts if len(part) > 2), re.DOTALL)
    return any(pattern.search(text) for text in texts())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    assert is_said(message), message


def test_the_page_is_read_and_a_changed_message_would_be_seen() -> None:
    assert len(MESSAGES) > 30
    assert not is_said("…: this message is nowhere")
    assert max(map(len, MESSAGES)) > 60
