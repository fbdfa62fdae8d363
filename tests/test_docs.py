"""Code in `docs/` runs, and the files and names that the pages mention exist."""

from __future__ import annotations

import ast
import re
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import segnets
from segnets.deploy.formats import network_for_cpu
from segnets.training import RECIPES
from tests.blocks import blocks_of
from tests.data.common import make_data_set
from tests.inference.common import random_image, small_model
from tests.tiers import full_but

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PYTHON = {
    path: [code for language, code in blocks_of(path.read_text()) if language == "python"]
    for path in DOCS
    # These run in tests/cpp/test_deploy_cpp.py, which builds C++, and tests/weights/test_register_model.py.
    if path.name not in ("deploy_cpp.md", "adding_a_model.md")
}


def _is_slow(code: str) -> bool:
    """Return whether a block takes ten seconds. tests/deploy/test_onnx_join.py makes the same calls every time."""
    return "join_onnx" in code


def _page_id(value: object) -> str:
    return value.name if isinstance(value, Path) else "slow" if value else "quick"


PAGES = [(path, slow) for path, found in PYTHON.items() for slow in sorted({_is_slow(code) for code in found})]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("path", "slow"), full_but([case for case in PAGES if not case[1]], PAGES), ids=_page_id)
def test_python(path: Path, slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page, each with its own names and in a folder of its own."""
    # The same small network is behind every block about prediction: it is rewritten once.
    monkeypatch.setattr("segnets.inference.networks.network_for_cpu", cache_of_one(network_for_cpu))
    for i, code in enumerate(PYTHON[path]):
        if _is_slow(code) != slow:
            continue
        block = tmp_path / str(i) / f"{path.stem}_{i}.py"
        block.parent.mkdir()
        _prepare(path.name, block.parent)
        block.write_text(code)
        monkeypatch.chdir(block.parent)
        runpy.run_path(str(block), run_name=block.stem)


def cache_of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls another one the first time only."""
    results: list[Any] = []

    def cached(*arguments: Any) -> Any:
        if not results:
            results.append(function(*arguments))
        return results[0]

    return cached


def _prepare(page: str, folder: Path) -> None:
    """Put the files into a folder that the readers of a page have."""
    if page == "inference.md":
        segnets.save(small_model(), folder / "weights.safetensors")
        Image.fromarray(random_image()).save(folder / "photo.jpg")
    if page == "training.md":
        make_data_set(folder / "DATA")


def test_recipes_are_those_of_the_page() -> None:
    blocks = [code for language, code in blocks_of((ROOT / "docs" / "training.md").read_text()) if language == "toml"]
    written = {code.split("\n")[0].removeprefix("# recipe "): tomllib.loads(code) for code in blocks}
    assert written == {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in recipe.items()}
        for name, recipe in RECIPES.items()
    }


@pytest.mark.parametrize("path", [*DOCS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"`((?:segnets|weights_tools|tests|benchmarks|docs|cpp|examples)/[\w/.]*)`", path.read_text())
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if "://" not in link]
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in links if not (path.parent / link).exists()]
    assert not missing


def test_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [
        path.name for path in DOCS if path.name != "index.md" and f"- [{path.name}]({path.name}): " not in index
    ] == []


def names_defined_in(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """Return the functions, classes, methods and variables of a module, with dots for members of a class."""
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            names |= names_defined_in(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_names_that_link_to_code_exist(path: Path) -> None:
    """Links such as [`Builder.resolve`](../segnets/builders.py) name something that the module defines, or offers."""
    links = re.findall(r"\[`([\w.]+)`\]\(([^)]+\.py)\)", path.read_text())
    missing = []
    for name, file in links:
        tree = ast.parse((path.parent / file).read_text())
        imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        if name not in names_defined_in(tree.body) | imported:
            missing.append(f"{file}: {name}")
    assert missing == []
