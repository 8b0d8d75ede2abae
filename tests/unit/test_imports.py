"""One way down (the design's rule 1), and what else the files show without being run."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.places import REPOSITORY

PACKAGE = REPOSITORY / "sdlora"

ROOMS = (
    "runtime",
    "config",
    "cli",
    "diffusion",
    "weights",
    "models",
    "adapters",
    "world",
    "data",
    "captioning",
    "sampling",
    "evaluation",
    "runs",
    "sweep",
    "training",
    "export",
    "reports",
    "assembly",
    "commands",
    "__main__",
)
"""From the ground up: a file imports from its own room and from those before it."""

ROOMS_OF_DATA = (
    "pictures",
    "captions",
    "sources",
    "selection",
    "cache",
    "batches",
    "sheet",
)
"""Of ``data/``, in the same way: in the order in which a picture passes them."""

COMPOSES = ("config", "cli", "assembly", "commands")
"""Rooms that know Hydra or OmegaConf; the others take typed configs."""

NAMELESS = {"utils", "util", "helpers", "helper", "misc", "common", "src"}


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FILES = [module for module, path in MODULES.items() if path.name != "__init__.py"]


def room_of(module: str) -> str:
    """``sdlora.data.sources.scan`` -> ``data``."""
    return module.split(".")[1] if "." in module else ""


@cache
def imports_of(path: Path, for_types: bool = True) -> set[str]:
    """Every module that a file imports, at its top or inside a function, by full name.

    Args:
        path: A Python file.
        for_types: Whether those of ``if TYPE_CHECKING:`` count.
    """
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not for_types:
        tree.body = [node for node in tree.body if not is_type_checking(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = full & MODULES.keys()
            found |= submodules
            if len(submodules) < len(full):
                found.add(str(node.module))
    return found


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def project_imports(module: str, for_types: bool = True) -> set[str]:
    found = {i for i in imports_of(MODULES[module], for_types) if i.split(".")[0] == "sdlora"}
    assert found <= MODULES.keys(), f"{module} imports what is not there: {found - MODULES.keys()}"
    return found


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in FILES} == set(ROOMS)


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_from_below_or_beside(module: str) -> None:
    below = ROOMS[: ROOMS.index(room_of(module)) + 1]
    for imported in sorted(project_imports(module) - {"sdlora"}):
        assert room_of(imported) in below, f"{module} imports {imported}, which stands above it"


@pytest.mark.parametrize("module", [name for name in FILES if room_of(name) == "data"])
def test_a_picture_passes_the_rooms_of_data_in_their_order(module: str) -> None:
    own = module.split(".")[2]
    for imported in sorted(name for name in project_imports(module) if room_of(name) == "data"):
        room = imported.split(".")[2]
        assert ROOMS_OF_DATA.index(room) <= ROOMS_OF_DATA.index(own), f"{module}: {imported}"


def test_no_two_files_import_each_other() -> None:
    seen: dict[str, bool] = {}  # False while on the path from the start, True when done

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert seen.get(module) is not False, " -> ".join((*path, module))
        if module in seen:
            return
        seen[module] = False
        for imported in project_imports(module, for_types=False):
            visit(imported, (*path, module))
        seen[module] = True

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=name_of)
def test_an_init_file_re_exports_nothing(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        version = (
            path.parent == PACKAGE
            and isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == ["__version__"]
        )
        assert docstring or version, f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("module", [name for name in FILES if room_of(name) not in COMPOSES])
def test_only_the_ends_know_how_configs_are_composed(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(MODULES[module])}
    assert not roots & {"hydra", "omegaconf"}, module


@pytest.mark.parametrize("module", MODULES)
def test_the_first_line_states_the_job(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    if MODULES[module].name != "__init__.py" or text.strip():
        assert text.startswith('"""'), f"{module}: its first line states its one job"


def project_files() -> list[Path]:
    folders = ("sdlora", "tests", "conf", "benchmarks", "docs", ".ci")
    found = [path for path in REPOSITORY.iterdir() if path.is_file()]
    found += [p for folder in folders for p in (REPOSITORY / folder).rglob("*") if p.is_file()]
    return [path for path in sorted(found) if "__pycache__" not in path.parts]


def test_no_file_is_named_for_nothing() -> None:
    named = [path for path in project_files() if NAMELESS & {path.stem, *path.parent.parts[-1:]}]
    assert not named, f"name them for what they do: {named}"


def test_no_file_names_a_place_outside_the_repository() -> None:
    roots = "|".join(("home", "root", "work", "tmp", "Users", "mnt", "opt"))
    absolute = re.compile(rf"""(?:^|[\s"'=(`])(?:/(?:{roots})/|[A-Z]:\\)\w""", re.MULTILINE)
    texts = {".py", ".yaml", ".json", ".toml", ".md", ".txt", ""}
    for path in project_files():
        if path.suffix in texts and path.name != ".git":
            text = path.read_text(encoding="utf-8")
            hit = absolute.search(text)
            assert hit is None, f"{path}: {text[hit.start() : hit.end() + 40]!r}"
