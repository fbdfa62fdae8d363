"""The floors of the package look only down, and `import segnets` stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import segnets

PACKAGE = Path(segnets.__file__).parent
# From the ground up. A module may import from its own floor and from those below it.
FLOORS = [
    {
        *("errors", "files", "console", "card", "garbage_collection", "options", "preprocessing", "segmenter"),
        *(
            "images",
            "layers",
            "frame_ring",
            "forks",
            "interrupts",
            "memory",
            "neutral_state",
            "palettes",
            "resize_rules",
            "shipped",
            "torchvision_compat",
            "web",
        ),
    },
    {"backbones", "heads", "model"},
    {"builders"},
    {"registry", "catalog", "_cost"},
    {"weights"},
    {"deploy"},
    {"inference", "data"},
    {"training", "serving"},
    {"commands", "cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The same inside packages. Modules that are not named here are above them all.
INNER_FLOORS = {
    "segnets.deploy": [{"_reason", "contract"}, {"check"}, {"passes"}, {"formats"}],
}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The modules of segnets that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"}
            found |= names if node.module == "segnets" or node.module in INNER_FLOORS else {node.module}
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_looks_up(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__main__":
        room = "cli"
    for module in imports(path):
        if module.startswith("segnets."):
            assert FLOOR_OF[room_of(module)] <= FLOOR_OF[room], f"{room} imports {module}"
        assert not module.startswith("weights_tools"), "weights_tools imports segnets, never the reverse"
        assert not module.startswith("torchvision"), "one door only, and it uses importlib"


@pytest.mark.parametrize("package", INNER_FLOORS)
def test_nothing_looks_up_inside(package: str) -> None:
    floors = INNER_FLOORS[package]
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    folder = PACKAGE.parent / package.replace(".", "/")
    assert {path.stem for path in folder.iterdir()} >= floor_of.keys()
    for path in folder.rglob("*.py"):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        for module in imports(path):
            if module.startswith(f"{package}."):
                imported = module.removeprefix(f"{package}.").split(".")[0]
                above = len(floors)
                assert floor_of.get(imported, above) <= floor_of.get(room, above), f"{path} imports {module}"


@pytest.mark.parametrize("package", ["segnets", "weights_tools", "benchmarks", "examples"])
def test_private_modules_are_imported_in_their_package_only(package: str) -> None:
    root = PACKAGE.parent
    for path in (root / package).rglob("*.py"):
        importer = ".".join(path.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            for module in modules:
                owner = re.match(r"((?:segnets|weights_tools)(?:\.\w+)*?)\._(?!_)", module)
                if owner is not None:
                    assert importer.startswith(f"{owner[1]}."), f"{path} imports {module}"


def test_the_import_loads_nothing_heavy() -> None:
    heavy = {
        "torchvision",
        "PIL",
        "av",
        "cv2",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "segnets.torchvision_compat",
        "segnets.frame_ring",
    }
    script = f"import sys, segnets; print(sorted({heavy} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
