"""The floors of weights_tools look only down, and only downloads need HTTP and progress bars."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import weights_tools

PACKAGE = Path(weights_tools.__file__).parent
# From the ground up. A module may import from its own package and from the floors below it.
FLOORS = [
    {"_text"},
    {"reader"},
    {"extract", "fetching"},
    {"recognise"},
    {"edit"},
    {"check"},
    {"_convert", "_inspect", "_compare", "_export", "_reports", "_provenance"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
TOP_MODULES = FLOORS[6]  # these share one floor, and import each other
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path: Path) -> set[str]:
    """Return the packages and modules right below weights_tools that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("weights_tools") for alias in node.names), f"{path}: use from"
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "weights_tools":
                found |= {weights_tools._MODULES.get(alias.name, f"weights_tools.{alias.name}") for alias in node.names}
            elif node.module.startswith("weights_tools."):
                found.add(node.module)
    return {module.split(".")[1] for module in found}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_looks_up(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports(path) - {own}:
        together = {own, other} <= TOP_MODULES
        assert together or FLOOR_OF[other] < FLOOR_OF[own], f"{own} imports {other}"


def test_only_commands_download() -> None:
    """Nothing that reads or converts a file may open a connection."""
    users = {path.relative_to(PACKAGE).parts[0] for path in SOURCES if "fetching" in imports(path)}
    assert users <= {"commands", "fetching"}


def test_only_downloads_import_http_and_progress_bars() -> None:
    script = (
        "import sys, weights_tools as w; w.inspect; w.convert; w.compare; w.export; "
        "print(sorted({'tqdm', 'urllib3', 'http.client'} & sys.modules.keys() - before))"
    )
    script = f"import sys, torch; before = set(sys.modules); {script}"
    out = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
