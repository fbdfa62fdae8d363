"""Compare loading, importing and converting with torchvision and with a plain copy: `make bench`.

The command prints a table, and writes it to benchmarks/results/core.md with a description of the machine.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from pathlib import Path

import torch

import segnets
from benchmarks.measure import machine, median, take_turns
from tests.oracle import randomise_, torchvision

RESULTS = Path(__file__).parent / "results" / "core.md"
NAME = "deeplabv3_resnet101"


def make_files(folder: Path) -> tuple[Path, Path]:
    """Save the same random weights with torchvision (233 MB, like the published file) and with segnets."""
    theirs = torchvision.models.segmentation.deeplabv3_resnet101(weights=None, weights_backbone=None, aux_loss=True)
    randomise_(theirs)
    torch.save(theirs.state_dict(), folder / "w.pth")
    segnets.save(segnets.create_model(NAME, weights=theirs.state_dict()), folder / "w.safetensors")
    return folder / "w.pth", folder / "w.safetensors"


def loading(pth: Path, safetensors: Path, rounds: int) -> list[str]:
    theirs = (
        "import torch; from segnets.torchvision_compat import torchvision",
        f"m = torchvision.models.segmentation.{NAME}(weights=None, weights_backbone=None, aux_loss=True)\n"
        f"m.load_state_dict(torch.load({str(pth)!r}, weights_only=True)); m.eval()",
    )
    ours = ("import torch, segnets", f"m = segnets.load({str(safetensors)!r})")
    read = "\nwith torch.inference_mode():\n    m(torch.zeros(1, 3, 32, 32))"
    results = take_turns(
        {"theirs": theirs, "ours": ours, "theirs+": (theirs[0], theirs[1] + read), "ours+": (ours[0], ours[1] + read)},
        rounds,
    )
    rows = []
    for what, suffix in (("load", ""), ("load, then one 32x32 image (every weight is read)", "+")):
        a, b = median(results["theirs" + suffix]), median(results["ours" + suffix])
        rows.append(f"| {what}: {NAME} with aux, 244 MB | {a:.3f} s | {b:.3f} s | {a / b:.1f} times faster |")
    return rows


def importing(rounds: int) -> list[str]:
    results = take_turns({"torch": ("", "import torch"), "ours": ("import torch", "import segnets")}, rounds)
    a, b = median(results["torch"]), median(results["ours"])
    return [f"| `import segnets` after `import torch` | {a:.2f} s (torch) | {b:.3f} s | {b / a:.1%} of torch's |"]


def converting(pth: Path, folder: Path, rounds: int) -> list[str]:
    """Compare with the minimum that any converter does: copy the file, flush it to the disk, and hash it."""
    size = pth.stat().st_size / 2**20
    copied, converted = folder / "copy.pth", folder / "out.safetensors"
    copy = (
        "import hashlib, os, shutil",
        f"shutil.copyfile({str(pth)!r}, {str(copied)!r})\n"
        f"file = os.open({str(copied)!r}, os.O_RDWR); os.fsync(file); os.close(file)\n"
        f"with open({str(copied)!r}, 'rb') as file: hashlib.file_digest(file, 'sha256')",
    )
    # Looked up before the measurement, because the package imports its modules on first use.
    convert = (
        "import weights_tools; convert = weights_tools.convert",
        f"convert({str(pth)!r}, {str(converted)!r}, overwrite=True)",
    )
    inspect = (
        "import weights_tools; inspect = weights_tools.inspect",
        f"assert inspect({str(pth)!r}, data=False).refused is None",
    )
    results = take_turns({"copy": copy, "convert": convert, "inspect": inspect}, rounds)
    a, b, c = (median(results[name]) for name in ("copy", "convert", "inspect"))
    peak = median(results["convert"], "peak_mib")
    return [
        f"| `weights_tools.convert` of {size:.0f} MiB, against copying with fsync and hashing | {a:.2f} s | {b:.2f} s "
        f"| {b / a:.2f} times the time |",
        f"| peak memory of `convert` above the imports | {size:.0f} MiB (the file) | {peak:.0f} MiB "
        f"| {peak / size:.2f} times the file |",
        f"| `weights_tools.inspect(..., data=False)` of the same file | {a:.2f} s (copy) | {c:.3f} s "
        f"| {c / a:.2f} of the time |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="segnets-bench-"))
    try:
        pth, safetensors = make_files(folder)
        rows = loading(pth, safetensors, rounds) + importing(rounds) + converting(pth, folder, rounds)
    finally:
        shutil.rmtree(folder)
    table = "\n".join(["| what | torchvision or copy | segnets | ratio |", "|---|---|---|---|", *rows])
    text = (
        f"# Loading, importing, converting\n\n{machine()}.\nMedians of {rounds} rounds. Candidates take turns, each in "
    )
    text += f"its own process, and the disk cache is warm. `make bench` repeats the measurement.\n\n{table}\n"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
