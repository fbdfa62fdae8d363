"""The source distribution, and the editable install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "cpp", "docs", "examples", "segnets", "tests", "weights_tools")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a source distribution and an editable wheel, built from a copy named segnets."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "segnets"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = "from setuptools.build_meta import *; build_sdist('..'); build_editable('..')"
    subprocess.run([sys.executable, "-c", script], cwd=copy, capture_output=True, text=True, check=True)
    return folder


def test_the_source_distribution_has_everything(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    copy = built / "segnets"
    expected = {
        str(path.relative_to(copy)) for name in FOLDERS for path in (copy / name).rglob("*") if path.is_file()
    } | {"Makefile", "constraints.txt", "pyproject.toml", "CHANGELOG.md", "LICENSE", "NOTICE", "README.md"}
    assert expected - names == set()
    assert {"cpp/CMakeLists.txt", "cpp/pyproject.toml", "cpp/include/segnets/model.h", "cpp/src/main.cpp"} <= names


def test_an_editable_install_works_in_the_folder_that_holds_the_clone(built: Path, tmp_path: Path) -> None:
    """There, the clone is a namespace package, which wins over an import hook but not over a folder on `sys.path`."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    script = f"""
import site, sys
sys.path = [path for path in sys.path if path != {str(ROOT)!r}]
site.addsitedir({str(tmp_path)!r})
import segnets, weights_tools
print(segnets.__version__, segnets.__file__)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=built, capture_output=True, text=True, check=True)
    version, _, file = done.stdout.strip().partition(" ")
    assert Path(file) == built / "segnets" / "segnets" / "__init__.py"
    assert version


def test_the_description_for_an_index() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["keywords"]
    assert "Programming Language :: Python :: 3.11" in project["classifiers"]
    assert "Programming Language :: C++" in project["classifiers"]


def test_wheels_have_all_files_and_both_licences() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["license"] == "BSD-3-Clause AND CC-BY-NC-4.0"
    assert "segnets/shipped/LICENSE" in settings["project"]["license-files"]
    packaged = settings["tool"]["setuptools"]["package-data"]
    for package, patterns in packaged.items():
        folder = ROOT / package
        files = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert files == {path for pattern in patterns for path in folder.glob(pattern)}
