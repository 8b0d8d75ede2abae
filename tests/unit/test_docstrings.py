"""Docstrings and annotations of everything public in the package."""

import ast
from collections.abc import Iterator
from functools import cache

import pytest

from tests.unit.test_imports import MODULES

Definition = ast.ClassDef | ast.FunctionDef


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition, bool]]:
    """Name, node and whether it is a method, of public definitions; nested functions are not."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node, bool(prefix)
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def definitions(module: str) -> list[tuple[str, Definition, bool]]:
    return list(public(tree_of(module).body))


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module: str) -> None:
    lacking = [name for name, node, _ in definitions(module) if not ast.get_docstring(node)]
    assert not lacking, f"{module}: without a docstring: {', '.join(lacking)}"


@pytest.mark.parametrize("module", MODULES)
def test_the_first_line_of_a_docstring_is_a_sentence_of_its_own(module: str) -> None:
    for name, node in [
        ("", tree_of(module)),
        *((name, node) for name, node, _ in definitions(module)),
    ]:
        first, _, rest = (ast.get_docstring(node) or ".").partition("\n")
        assert first.endswith((".", ":")), f"{module}.{name}: {first}"
        assert not rest or rest.startswith("\n"), f"{module}.{name}: {first}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_is_annotated(module: str) -> None:
    lacking = []
    for name, node, is_method in definitions(module):
        if isinstance(node, ast.FunctionDef):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            is_static = any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)
            named = named[1:] if is_method and not is_static else named
            named += [each for each in (given.vararg, given.kwarg) if each is not None]
            if node.returns is None or any(each.annotation is None for each in named):
                lacking.append(name)
    assert not lacking, f"{module}: without full annotations: {', '.join(lacking)}"
