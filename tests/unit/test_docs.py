"""What the docs refer to exists, and every key and every room is described."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import REPOSITORY
from tests.unit.test_imports import PACKAGE, ROOMS, ROOMS_OF_DATA

PAGES = [
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "sdlora/assets/README.md")),
]
ARCHITECTURE = (REPOSITORY / "docs/architecture.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        tree = ast.parse((REPOSITORY / path).read_text("utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not test or test in functions, f"{path}::{test}"
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def names_in(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Top-level constants, functions, classes and their members, dotted."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from names_in(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


def test_every_function_of_the_walks_is_there() -> None:
    found = re.findall(r"`([\w/]+\.py):([\w.]+)`", ARCHITECTURE)
    assert len(found) > 40
    for path, name in found:
        tree = ast.parse((PACKAGE / path).read_text("utf-8"))
        assert name in set(names_in(tree.body)), f"{path}:{name}"


def test_the_map_has_every_room_in_its_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", ARCHITECTURE, re.MULTILINE)
    assert tuple(room for room, _ in rows) == ROOMS
    data = dict(rows)["data"]
    assert tuple(re.findall(r"`(\w+)`", data)) == ROOMS_OF_DATA


def test_every_cell_of_the_families_names_a_test() -> None:
    text = (REPOSITORY / "docs/families.md").read_text("utf-8")
    table = text.partition("| train | cache |")[2].partition("\n\n")[0].splitlines()[2:]
    known = set(re.findall(r"^(\d+)\. `tests/", text, re.MULTILINE))
    used: set[str] = set()
    for row in table:
        name, *cells = [cell.strip() for cell in row.strip("| ").split("|")]
        assert len(cells) == 8, name
        for cell in cells:
            assert re.search(r"\d|\(\w\)", cell), row
            used |= set(re.findall(r"\d+", cell))
    assert used == known


def test_the_page_of_keys_is_current() -> None:
    spec = importlib.util.spec_from_file_location("keys", REPOSITORY / "docs/keys.py")
    assert spec is not None
    assert spec.loader is not None
    keys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(keys)
    text = (REPOSITORY / "docs/keys.md").read_text("utf-8")
    assert text == keys.page(), "run: python docs/keys.py"
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 150
    assert not [key for key, _, _, meaning in rows if len(meaning) < 10]
