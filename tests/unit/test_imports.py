"""One way down (the design's rule 1), and what else the files show without being run."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "sdlora"

LEVELS = {
    "sdlora": 0,  # the version
    "sdlora.config": 0,
    "sdlora.config_captions": 0,
    "sdlora.config_data": 0,
    "sdlora.config_evaluation": 0,
    "sdlora.config_lora": 0,
    "sdlora.config_model": 0,
    "sdlora.config_objective": 0,
    "sdlora.config_rules": 0,
    "sdlora.config_training": 0,
    "sdlora.config_sweep": 0,
    "sdlora.files": 0,
    "sdlora.lenient": 0,
    "sdlora.randomness": 0,
    "sdlora.transfer": 0,
    "sdlora.program": 0,
    "sdlora.progress": 0,
    "sdlora.diffusion.*": 1,
    "sdlora.data.samples": 1,
    "sdlora.data.captions": 1,
    "sdlora.data.caption_check": 1,
    "sdlora.data.buckets": 1,
    "sdlora.data.batches": 1,
    "sdlora.world.*": 1,
    "sdlora.data.*": 2,
    "sdlora.models.*": 2,
    "sdlora.adapters.*": 2,
    "sdlora.optim": 2,
    "sdlora.metrics.scores": 2,
    "sdlora.metrics.selection": 2,
    "sdlora.module": 3,
    "sdlora.step_cost": 4,
    "sdlora.metrics.*": 3,  # beside the module: whatever draws and scores stands on both
    "sdlora.callbacks.*": 5,
    "sdlora.evaluator": 4,
    "sdlora.samplers": 4,
    "sdlora.pixels": 4,
    "sdlora.generate": 4,
    "sdlora.report": 3,
    "sdlora.run_folder": 4,
    "sdlora.sweep.*": 4,
    "sdlora.export.__main__": 6,  # its commands take base models by the names of the config
    "sdlora.export.*": 4,
    "sdlora.model_card": 4,
    "sdlora.html_report": 5,
    "sdlora.html_report.*": 5,
    "sdlora.best": 3,
    "sdlora.grid": 4,
    "sdlora.validation": 4,
    "sdlora.checkpoint": 4,
    "sdlora.assembly": 6,
    "sdlora.assembly.*": 6,
    "sdlora.command_line": 6,
    "sdlora.composition_errors": 6,
    "sdlora.processes": 6,
    "sdlora.assets.*": 6,
}
SEES_CONFIG = (
    "sdlora.config",
    "sdlora.config_captions",
    "sdlora.config_data",
    "sdlora.config_evaluation",
    "sdlora.config_lora",
    "sdlora.config_model",
    "sdlora.config_objective",
    "sdlora.config_rules",
    "sdlora.config_training",
    "sdlora.config_sweep",
    "sdlora.command_line",
    "sdlora.composition_errors",
    "sdlora.processes",
    "sdlora.assembly",  # and what lies in it
)
NAMELESS = {"utils", "util", "helpers", "helper", "misc", "common", "src"}


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
LEVELLED = [module for module, path in MODULES.items() if path.name != "__init__.py"]


def level_of(module: str) -> int | None:
    """The level of a module, by its own name or by its folder's; ``None`` if it has none."""
    folder = module.rpartition(".")[0]
    for key in (module, f"{folder}.*", f"{module}.*"):
        if key in LEVELS:
            return LEVELS[key]
    return None


def folder_of(module: str) -> str:
    return name_of(MODULES[module].parent)


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


@pytest.mark.parametrize("module", LEVELLED)
def test_a_file_has_a_level(module: str) -> None:
    assert level_of(module) is not None, f"{module}: give it a level in LEVELS"


@pytest.mark.parametrize("module", LEVELLED)
def test_a_file_imports_only_from_below_or_beside(module: str) -> None:
    own = level_of(module)
    for imported in sorted(project_imports(module)):
        level = level_of(imported)
        beside = folder_of(imported) == folder_of(module)
        assert level < own or (beside and level == own), (
            f"{module} (level {own}) imports {imported} (level {level})"
        )


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


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(SEES_CONFIG)])
def test_only_the_ends_see_config_objects(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(MODULES[module])}
    assert not roots & {"hydra", "omegaconf"}, module
    if "sdlora.config" in imports_of(MODULES[module]):
        names = {
            alias.name
            for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module == "sdlora.config"
            for alias in node.names
        }
        assert names == {"ConfigError"}, f"{module} takes {names} from sdlora.config"


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
