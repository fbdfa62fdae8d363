"""segnets-run reports bad input in one line, and keeps existing files."""

from __future__ import annotations

import json
import os
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import segnets
from segnets.preprocessing import Preprocessing
from tests.cpp.common import export_tiny, fails, run, write_ppm
from tests.deploy.common import break_compressed, compressed, random_image, random_model, rewrite


def test_invalid_arguments(build: Path) -> None:
    fails(build, "expected MODEL IMAGE OUT, got 0 names", code=2)
    fails(build, "--colour: unknown option", "--colour", code=2)
    fails(build, "--repeat x: expected an integer, 1..1000000", "a", "b", "c", "--repeat", "x", code=2)
    fails(build, "--threads 0: expected an integer, 1..1024", "a", "b", "c", "--threads", "0", code=2)
    fails(build, "--overlay: expected a value", "a", "b", "c", "--overlay", code=2)
    fails(build, "--self-test takes --threads alone", "--self-test", "a", "--repeat", "2", code=2)
    fails(build, "--self-test takes --threads alone", "--self-test", "a", "--warm-up", code=2)
    assert "usage: segnets-run MODEL IMAGE OUT" in run(build, "--help").stdout
    assert run(build, "--version").stdout == f"segnets-run {segnets.__version__}\n"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"nonsense", "is not an image that this build reads"),
        (b"\xff\xd8\xff\xe0 not really a JPEG", "JPEG"),
        (b"P2 1 1 255\n0\n", "PGM"),
        (b"P5 1 1 255\n", "is a PGM of 1x1 (width x height) that is truncated: 0 bytes of pixels, expected 1"),
        (b"P6", "its PPM header has no white space"),
        (b"P6 x", "its PPM header has no width"),
        (b"P6 2", "its PPM header has no white space"),
        (b"P6 99999999999999999999 1 255\n", "a width above 65535"),
        (b"P6 65535 65535 255\n", "that is truncated: 0 bytes of pixels, expected 12884508675"),
        (b"P6 -1 1 255\n", "no width"),
        (b"P6 0 1 255\n", "is a PPM of 0x1, without pixels"),
        (b"P6 1 1 65535\n" + bytes(6), "with values up to 65535, expected 255"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x10\2\0\0\0", "is a PNG of 16 bits per channel, expected 8"),
        (b"P6 1 1 255", "does not end in white space"),
        (b"P6 # no end", "has no width"),
        (b"P6 2 1 255\n\0\0\0\0\0", "5 bytes of pixels, expected 6"),
        (b"P6 1 1 255\n\0\0\0\0", "with trailing bytes"),
    ],
)
def test_bad_images(contents: bytes, message: str, build: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "i.ppm").write_bytes(contents)
    by_opencv = contents and contents[:2] not in (b"P5", b"P6") and b"IHDR" not in contents
    if by_opencv and "This build has OpenCV" in run(build, "--help").stdout:
        if contents[:2] == b"P2":  # OpenCV reads text
            assert run(build, small, tmp_path / "i.ppm", tmp_path / "m.pgm").returncode == 0
            assert (tmp_path / "m.pgm").read_bytes().startswith(b"P5")
            return
        is_jpeg = contents[:2] == b"\xff\xd8"
        message = "is a JPEG image that ends too early" if is_jpeg else "is not an image, or a damaged one"
    fails(build, message, small, tmp_path / "i.ppm", tmp_path / "m.pgm")
    assert [p.name for p in tmp_path.iterdir()] == ["i.ppm"]


def test_images_that_are_not_files(build: Path, small: Path, tmp_path: Path) -> None:
    fails(build, "none.ppm: does not exist", small, tmp_path / "none.ppm", tmp_path / "m.pgm")
    fails(build, "is a folder, not a file", small, tmp_path, tmp_path / "m.pgm")
    os.mkfifo(tmp_path / "pipe")
    fails(build, "is a device, pipe or socket", small, tmp_path / "pipe", tmp_path / "m.pgm")


def test_an_image_too_long_to_segment_is_refused_before_memory_runs_out(build: Path, tmp_path: Path) -> None:
    export_tiny(tmp_path / "m.ts", 2, Preprocessing(size=520))
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
        (change_contract(format_version=3), "it has version 3, but this program reads 1 to 2"),
        (change_contract(format="x"), "it is not a contract of segnets"),
        (change_contract(format_version=99), "take the C++ program of the segnets that exported it"),
        (change_contract(device="cuda:0"), "device is 'cuda:0', but this program runs 'cpu', 'cuda'; export for"),
        (change_contract(kind="onnx"), "kind is 'onnx', but this program runs 'torchscript'"),
        (change_contract(dtype="int8"), "dtype is 'int8', but this program runs 'float32', 'bfloat16'"),
        (change_contract(mask_dtype="int16"), "mask_dtype is not uint8, the type for 5 classes"),
        (change_contract(num_classes=0), "num_classes is outside 1..32767"),
        (change_contract(num_classes="5"), "segnets.json.num_classes is not a number"),
        (change_contract(classes=["a"]), "classes has a wrong length"),
        (change_contract(palette=[[0, 0, 999]]), "a colour is outside 0..255"),
        (
            change_contract(preprocessing={"resize": "scale", "size": 0}),
            "preprocessing.size is not a factor above 0",
        ),
        (change_contract(golden={}), "segnets.json.golden.tolerance is missing"),
        (lambda n, c: b"junk" if n.endswith("constants.pkl") else c, "LibTorch can't load it"),
    ],
)
def test_tampered_models(
    change: Callable[[str, bytes], bytes | None],
    message: str,
    build: Path,
    small: Path,
    small_ppm: Path,
    tmp_path: Path,
) -> None:
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_export_for_a_gpu(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
    model = rewrite(small, tmp_path / "t.ts", change_contract(device="cuda"))
    message = "t.ts: needs a CUDA GPU, and none was found. Export with device='cpu' to run without one."
    fails(build, message, model, small_ppm, tmp_path / "m.pgm")


def test_invalid_models(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
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
    fails(build, "is not a TorchScript archive;", small_ppm, small_ppm, out)
    model.write_bytes(b"\x08\x0a\x12\x07pytorch")
    fails(build, "is not a TorchScript archive but an ONNX network", model, small_ppm, out)


def test_compressed_entries(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
    model, out = compressed(small, tmp_path / "t.ts"), tmp_path / "m.pgm"
    assert run(build, model, small_ppm, out).returncode == 0
    name = break_compressed(model, "checksum")
    fails(build, f"is damaged: the checksum of '{name}' is wrong", model, small_ppm, out)
    break_compressed(compressed(small, model), "data")
    fails(build, "damaged", model, small_ppm, out)


def test_many_compressed_entries_take_no_time(build: Path, small_ppm: Path, tmp_path: Path) -> None:
    model = tmp_path / "many.ts"
    with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("version", "constants.pkl", *(f"code/{number}.py" for number in range(4000))):
            archive.writestr(f"m/{name}", b"3\n")
    before = time.monotonic()
    fails(build, "without a contract", model, small_ppm, tmp_path / "m.pgm")
    assert time.monotonic() - before < 5  # 7 s when each entry was read by a reader of its own, 0.4 s with one for all


def test_compressed_entry_that_unpacks_to_too_much(build: Path, small_ppm: Path, tmp_path: Path) -> None:
    model = tmp_path / "bomb.ts"
    with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/version", b"3\n")
        archive.writestr("m/code/x.py", bytes((64 << 20) + 1))
    fails(build, "a damaged entry", model, small_ppm, tmp_path / "m.pgm")


def test_outputs_that_are_not_files(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
    (tmp_path / "real.pgm").write_bytes(b"old")
    (tmp_path / "link.pgm").symlink_to(tmp_path / "real.pgm")
    fails(build, "is a symbolic link", small, small_ppm, tmp_path / "link.pgm")
    (tmp_path / "folder.pgm").mkdir()
    fails(build, "is a folder", small, small_ppm, tmp_path / "folder.pgm")
    os.mkfifo(tmp_path / "pipe.pgm")
    fails(build, "device, pipe or socket", small, small_ppm, tmp_path / "pipe.pgm")
    fails(build, "does not exist; create it first", small, small_ppm, tmp_path / "no" / "m.pgm")
    fails(build, "expected a name that ends in .pgm, .npy or .png", small, small_ppm, tmp_path / "m.jpg")
    fails(build, "is given twice", small, small_ppm, tmp_path / "m.pgm", "--overlay", small_ppm)
    fails(
        build,
        "is given twice",
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
