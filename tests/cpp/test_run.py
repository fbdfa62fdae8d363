"""segnets-run gives the mask of Python, pixel for pixel, and answers bad input in one line."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from segnets.export import export, load_exported
from segnets.preprocess import Preprocessing
from tests.export.common import SMALL, random_image, random_model, rewrite


def run(build: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(build / "segnets-run"), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)  # type: ignore[call-overload,no-any-return]


def fails(build: Path, message: str, *arguments: object, code: int = 1) -> None:
    result = run(build, *arguments)
    assert (result.returncode, result.stdout) == (code, ""), result
    assert message in result.stderr.splitlines()[0], result.stderr
    assert code == 2 or result.stderr.count("\n") == 1  # one line, no stack trace


def write_ppm(path: Path, image: torch.Tensor) -> Path:
    _, height, width, _ = image.shape
    path.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (width, height) + image.numpy().tobytes())
    return path


def read_pnm(path: Path) -> np.ndarray:
    kind, size, maximum, pixels = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    dtype = np.dtype(">u2") if maximum == b"65535" else np.dtype(np.uint8)
    return np.frombuffer(pixels, dtype).reshape((height, width, 3) if kind == b"P6" else (height, width))


SIZES = [(64, 80), (65, 97), (33, 130), (1, 1), (1, 300), (300, 1), (200, 301)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_mask_is_that_of_python(height: int, width: int, build: Path, small: Path, tmp_path: Path) -> None:
    image = random_image(height, width)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    result = run(build, small, ppm, tmp_path / "m.pgm", "--overlay", tmp_path / "o.ppm")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{height}x{width} (height x width), 5 classes" in result.stdout
    exported = load_exported(small)
    mask = exported.segment(image)[0].numpy()
    assert np.array_equal(read_pnm(tmp_path / "m.pgm"), mask)
    colours = np.array(exported.contract.palette)[mask]
    blended = (image[0].numpy().astype(int) + colours + 1) // 2
    expected = np.where((colours == 0).all(-1, keepdims=True), image[0].numpy(), blended)
    assert np.array_equal(read_pnm(tmp_path / "o.ppm"), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.ppm", "m.pgm", "o.ppm"]


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(size=100),
        Preprocessing(resize="none", channel_order="BGR"),
        Preprocessing(resize="fixed", size=(50, 60), interpolation="bicubic", mean=(0.4, 0.5, 0.6)),
    ],
)
def test_every_preprocessing_is_that_of_python(preprocessing: Preprocessing, build: Path, tmp_path: Path) -> None:
    export(random_model(num_classes=300), tmp_path / "m.ts", preprocessing=preprocessing, output="dict")
    image = random_image(65, 97, seed=3)
    result = run(build, tmp_path / "m.ts", write_ppm(tmp_path / "i.ppm", image), tmp_path / "m.pgm")
    assert result.returncode == 0, result.stderr
    expected = load_exported(tmp_path / "m.ts").segment(image)[0].numpy()
    assert np.array_equal(read_pnm(tmp_path / "m.pgm"), expected)  # 16 bit: more than 256 classes
    assert run(build, "--self-test", tmp_path / "m.ts").returncode == 0


def test_self_test_passes_and_fails(build: Path, small: Path, tmp_path: Path) -> None:
    result = run(build, "--self-test", small)
    assert (result.returncode, result.stderr) == (0, "")
    assert "classes of 0 of 3072 pixels differ" in result.stdout
    assert result.stdout.endswith("passed\n")

    def other_logits(name: str, contents: bytes) -> bytes:
        if not name.endswith("golden.safetensors"):
            return contents
        header = json.loads(contents[8 : 8 + struct.unpack("<Q", contents[:8])[0]])
        data = bytearray(contents)
        at = 8 + struct.unpack("<Q", contents[:8])[0] + header["logits"]["data_offsets"][0]
        data[at : at + 4] = struct.pack("<f", 1e9)
        return bytes(data)

    result = run(build, "--self-test", rewrite(small, tmp_path / "t.ts", other_logits))
    assert result.returncode == 1
    assert "FAILED" in result.stdout
    assert "computes something else than the model that was exported" in result.stderr


def test_repeat_and_threads(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
    result = run(build, small, small_ppm, tmp_path / "m.pgm", "--repeat", 7, "--threads", 1)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:6]] == [*(f"call {i}" for i in range(1, 6)), "median of 7 calls"]
    assert read_pnm(tmp_path / "m.pgm").shape == (2, 3)


def test_two_threads_give_what_two_threads_give_in_python(build: Path, small: Path, tmp_path: Path) -> None:
    image = random_image(97, 131)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    assert run(build, small, ppm, tmp_path / "m.pgm", "--threads", 2).returncode == 0
    torch.set_num_threads(2)
    assert np.array_equal(read_pnm(tmp_path / "m.pgm"), load_exported(small).segment(image)[0].numpy())


@pytest.mark.parametrize("output", ["tensor", "dict"])
def test_logits_are_those_of_python(output: str, build: Path, tmp_path: Path) -> None:
    export(random_model(num_classes=5), tmp_path / "m.ts", preprocessing=Preprocessing(size=50), output=output)
    image = random_image(65, 97, seed=4)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    result = run(build, tmp_path / "m.ts", ppm, tmp_path / "m.pgm", "--logits", tmp_path / "l.npy", "--threads", 1)
    assert result.returncode == 0, result.stderr
    exported = load_exported(tmp_path / "m.ts")
    logits = np.load(tmp_path / "l.npy")
    assert logits.shape == (1, 5, 50, 74)
    assert np.array_equal(logits, exported.logits(exported.preprocess(image)).numpy())


def test_many_threads_share_one_model(build: Path, small: Path) -> None:
    result = subprocess.run(
        [build / "segnets-test-threads", small, "4", "6"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "4 threads, 6 calls each: 0 wrong masks, 0 failures" in result.stdout


def test_wrong_calls(build: Path) -> None:
    fails(build, "expected MODEL IMAGE OUT, got 0 names", code=2)
    fails(build, "--colour: unknown option", "--colour", code=2)
    fails(build, "--repeat x: expected a whole number, 1..1000000", "a", "b", "c", "--repeat", "x", code=2)
    fails(build, "--threads 0: expected a whole number, 1..1024", "a", "b", "c", "--threads", "0", code=2)
    fails(build, "--overlay: expected a value", "a", "b", "c", "--overlay", code=2)
    fails(build, "--self-test takes --threads alone", "--self-test", "a", "--repeat", "2", code=2)
    assert "usage: segnets-run MODEL IMAGE OUT" in run(build, "--help").stdout


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"nonsense", "is not an image that this build reads"),
        (b"\xff\xd8\xff\xe0 not really a JPEG", "JPEG"),
        (b"P5 1 1 255\n\0", "PGM"),
        (b"P6", "its PPM header has no white space"),
        (b"P6 x", "its PPM header has no width"),
        (b"P6 2", "its PPM header has no white space"),
        (b"P6 99999999999999999999 1 255\n", "a width above 65535"),
        (b"P6 65535 65535 255\n", "that is cut off: 0 bytes of pixels, expected 12884508675"),
        (b"P6 -1 1 255\n", "no width"),
        (b"P6 0 1 255\n", "is a PPM of 0x1, without pixels"),
        (b"P6 1 1 65535\n" + bytes(6), "with values up to 65535, expected 255"),
        (b"P6 1 1 255", "does not end in white space"),
        (b"P6 # no end", "has no width"),
        (b"P6 2 1 255\n\0\0\0\0\0", "5 bytes of pixels, expected 6"),
        (b"P6 1 1 255\n\0\0\0\0", "with something behind it"),
    ],
)
def test_bad_images(contents: bytes, message: str, build: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "i.ppm").write_bytes(contents)
    if contents[:2] != b"P6" and contents and "This build has OpenCV" in run(build, "--help").stdout:
        if contents[:2] == b"P5":
            pytest.skip("OpenCV reads PGM, so this is a good image here")
        is_jpeg = contents[:2] == b"\xff\xd8"
        message = "is a JPEG image that ends too early" if is_jpeg else "is not an image, or a damaged one"
    fails(build, message, small, tmp_path / "i.ppm", tmp_path / "m.pgm")
    assert [p.name for p in tmp_path.iterdir()] == ["i.ppm"]


def test_images_that_are_no_files(build: Path, small: Path, tmp_path: Path) -> None:
    fails(build, "none.ppm: does not exist", small, tmp_path / "none.ppm", tmp_path / "m.pgm")
    fails(build, "is a folder, not a file", small, tmp_path, tmp_path / "m.pgm")
    os.mkfifo(tmp_path / "pipe")
    fails(build, "is a device, pipe or socket", small, tmp_path / "pipe", tmp_path / "m.pgm")


def test_an_image_too_long_to_segment_is_refused_before_memory_runs_out(build: Path, tmp_path: Path) -> None:
    export(random_model(num_classes=2), tmp_path / "m.ts", preprocessing=Preprocessing(size=520))
    ppm = write_ppm(tmp_path / "i.ppm", random_image(1, 300))
    fails(build, "i.ppm: image: 1x300 with its short side", tmp_path / "m.ts", ppm, tmp_path / "m.pgm")


def change_contract(**changes: object) -> Callable[[str, bytes], bytes]:
    def change(name: str, contents: bytes) -> bytes:
        if not name.endswith("extra/segnets.json"):
            return contents
        return json.dumps({**json.loads(contents), **changes}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, c: None if n.endswith("segnets.json") else c, "it was not made by segnets.export"),
        (lambda n, c: b"{" if n.endswith("segnets.json") else c, "segnets.json: not JSON: it ends too early"),
        (lambda n, c: c + b"x" if n.endswith("segnets.json") else c, "not JSON: text after the end"),
        (lambda n, c: b"[" * 9999 if n.endswith("segnets.json") else c, "not JSON: nested too deeply"),
        (lambda n, c: b'{"a":1,"a":1}' if n.endswith("segnets.json") else c, "a key appears twice"),
        (change_contract(format_version=2), "it has version 2, this program reads 1"),
        (change_contract(format="x"), "it is not a contract of segnets"),
        (change_contract(num_classes=0), "num_classes is outside 1..32767"),
        (change_contract(num_classes="5"), "segnets.json.num_classes is not a number"),
        (change_contract(classes=["a"]), "classes has a wrong length"),
        (change_contract(palette=[[0, 0, 999]]), "a colour is outside 0..255"),
        (change_contract(golden={}), "segnets.json.golden.tolerance is missing"),
        (lambda n, c: b"junk" if n.endswith("constants.pkl") else c, "LibTorch can't load it"),
    ],
)
def test_tampered_models(change, message: str, build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = rewrite(small, tmp_path / "t.ts", change)
    fails(build, message, model, small_ppm, tmp_path / "m.pgm")
    assert [p.name for p in tmp_path.iterdir()] == ["t.ts"]


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        (None, "carries no golden pair"),
        (b"junk", "golden.safetensors: is too short"),
        (b"\xff" * 16, "has an impossible header"),
        (b"\x02\0\0\0\0\0\0\0{}", "has no 'image'"),
        (b'{"image":{"dtype":"U8","shape":[9007199254740992,8],"data_offsets":[0,4]}}', "an impossible shape"),
        (b'{"image":{"dtype":"U8","shape":[4],"data_offsets":[0,9]}}', "offsets don't fit its shape"),
        (b'{"image":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}', "offsets don't fit its shape"),
        (b'{"image":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}', "of type F64, expected U8, I16 or F32"),
    ],
)
def test_tampered_golden_pairs(golden: bytes | None, message: str, build: Path, small: Path, tmp_path: Path) -> None:
    if golden is not None and golden.startswith(b"{"):
        golden = struct.pack("<Q", len(golden)) + golden + bytes(4)
    model = rewrite(small, tmp_path / "t.ts", lambda n, c: golden if n.endswith("golden.safetensors") else c)
    fails(build, message, "--self-test", model)


def test_models_that_are_none(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.pgm"
    torch.save(random_model(num_classes=3).state_dict(), tmp_path / "w.pth")
    fails(build, "is a Python checkpoint (torch.save)", tmp_path / "w.pth", small_ppm, out)
    whole = small.read_bytes()
    model = tmp_path / "t.ts"
    for size in (4, 1000, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        model.write_bytes(whole[:size])
        fails(build, "t.ts: is truncated or damaged", model, small_ppm, out)
    model.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    fails(build, "is damaged: the checksum of", model, small_ppm, out)
    model.write_bytes(b"")
    fails(build, "t.ts: is empty", model, small_ppm, out)
    fails(build, "none.ts: does not exist", tmp_path / "none.ts", small_ppm, out)
    fails(build, "is not a TorchScript archive", small_ppm, small_ppm, out)


def test_outputs_that_are_no_files(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
    (tmp_path / "real.pgm").write_bytes(b"old")
    (tmp_path / "link.pgm").symlink_to(tmp_path / "real.pgm")
    fails(build, "is a symbolic link", small, small_ppm, tmp_path / "link.pgm")
    (tmp_path / "folder.pgm").mkdir()
    fails(build, "is a folder", small, small_ppm, tmp_path / "folder.pgm")
    os.mkfifo(tmp_path / "pipe.pgm")
    fails(build, "device, pipe or socket", small, small_ppm, tmp_path / "pipe.pgm")
    fails(build, "does not exist; create it first", small, small_ppm, tmp_path / "no" / "m.pgm")
    fails(build, "expected a name that ends in .pgm or .png", small, small_ppm, tmp_path / "m.jpg")
    fails(build, "is named twice", small, small_ppm, tmp_path / "m.pgm", "--overlay", small_ppm)
    fails(
        build,
        "is named twice",
        small,
        small_ppm,
        tmp_path / "m.pgm",
        "--overlay",
        tmp_path / "l.npy",
        "--logits",
        tmp_path / "l.npy",
    )
    fails(build, "written as .npy", small, small_ppm, tmp_path / "m.pgm", "--logits", tmp_path / "logits.txt")
    assert (tmp_path / "real.pgm").read_bytes() == b"old"


def test_a_file_size_limit_keeps_the_old_mask(build: Path, small: Path, tmp_path: Path) -> None:
    ppm = write_ppm(tmp_path / "i.ppm", random_image(100, 100))
    (tmp_path / "m.pgm").write_bytes(b"old")
    result = run(
        build,
        small,
        ppm,
        tmp_path / "m.pgm",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert result.returncode == 1
    assert "can't be written: File too large" in result.stderr
    assert (tmp_path / "m.pgm").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.ppm", "m.pgm"]


def test_the_contract_of_the_default_preprocessing(build: Path, tmp_path: Path) -> None:
    """Nobody named classes or colours: the VOC colour map fills in."""
    export(random_model(num_classes=21, seed=4), tmp_path / "m.ts", preprocessing=SMALL)
    image = random_image(40, 50)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    assert run(build, tmp_path / "m.ts", ppm, tmp_path / "m.pgm", "--overlay", tmp_path / "o.ppm").returncode == 0
    voc = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)])
    mask = read_pnm(tmp_path / "m.pgm")
    overlay = read_pnm(tmp_path / "o.ppm").astype(int)
    for identity in range(1, len(voc)):
        here = mask == identity
        assert np.array_equal(overlay[here], (image[0].numpy()[here].astype(int) + voc[identity] + 1) // 2)
