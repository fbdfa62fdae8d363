"""Bytes of a header: both languages write the same bytes, and refuse bad ones with the same message."""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from segnets import FrameRing, FrameRingError

# Header of 480x640 RGB frames with rows of 2048 bytes, three slots and CRC-32. It must never change, so that old and
# new processes work together. Only nonzero bytes are listed.
GOLDEN = {
    0: b"\x89segring",
    8: bytes.fromhex("01000000 00100000 01000000 03000000"),
    24: bytes.fromhex("e001000000000000 8002000000000000 0300000000000000"),
    88: bytes.fromhex("0008000000000000 0300000000000000 0100000000000000"),
    152: bytes.fromhex("0300000000000000 80ff0e0000000000 c0ff0e0000000000"),
    176: bytes.fromhex("01000000 f0e2539a"),
    328: b"\x01",  # the consumer opened the ring
}
SIZE = 4096 + 3 * 0xEFFC0

TYPES = ["uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64"]


def golden() -> bytes:
    header = bytearray(4096)
    for offset, contents in GOLDEN.items():
        header[offset : offset + len(contents)] = contents
    return bytes(header)


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_python_writes_the_golden_header(tmp_path: Path) -> None:
    ring = FrameRing.create(
        tmp_path / "r", (480, 640, 3), slots=3, strides=(2048, 3, 1), checksum=True, role="consumer"
    )
    with ring:
        contents = (tmp_path / "r").read_bytes()
        assert contents[:4096] == golden()
        assert contents[4096:] == bytes(SIZE - 4096)
    assert (tmp_path / "r").read_bytes()[328] == 2  # closed


def test_cpp_writes_the_golden_header(program: Path, tmp_path: Path) -> None:
    done = run(program, "create", tmp_path / "r", "consumer", 1, 3, 1, "480x640x3", "2048x3x1")
    assert (done.returncode, done.stderr) == (0, "")
    contents = (tmp_path / "r").read_bytes()
    assert contents[328] == 2  # closed, for the program has ended
    assert contents[:328] + b"\x01" + contents[329:4096] == golden()
    assert contents[4096:] == bytes(SIZE - 4096)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_both_read_the_golden_header(program: Path, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(golden() + bytes(SIZE - 4096))
    with FrameRing.open(tmp_path / "r", "producer") as ring:
        layout = ring.layout
        assert (layout.shape, layout.strides, layout.dtype) == ((480, 640, 3), (2048, 3, 1), "uint8")
        assert (layout.slots, layout.checksum, layout.frame_size) == (3, True, 982912)
        assert ring.peer == "died"  # the consumer opened the ring and holds no lock
    said = run(program, "open", tmp_path / "r", "consumer").stdout
    assert said == "type 1, 982912 bytes, 3 slots, checksum 1, peer 2, waiting 0; shape 480 640 3; strides 2048 3 1\n"


@pytest.mark.parametrize("code", range(1, 9))
def test_every_type_has_one_code(code: int, program: Path, tmp_path: Path) -> None:
    assert run(program, "create", tmp_path / "r", "producer", code, 1, 0, "2x3").returncode == 0
    with FrameRing.open(tmp_path / "r") as ring:
        assert ring.layout.dtype == TYPES[code - 1]
        theirs = ring.layout
    (tmp_path / "r").unlink()
    with FrameRing.create(tmp_path / "r", (2, 3), TYPES[code - 1], slots=1) as ring:
        assert ring.layout == theirs


def patched(offset: int, form: str, *values: int) -> Callable[[bytes], bytes]:
    """Return a function that changes numbers of the header and corrects its checksum."""

    def change(contents: bytes) -> bytes:
        whole = bytearray(contents)
        struct.pack_into("<" + form, whole, offset, *values)
        struct.pack_into("<I", whole, 180, zlib.crc32(whole[:180]))
        return bytes(whole)

    return change


HUGE = 1 << 62
HOSTILE = [
    pytest.param(lambda c: c[:0], "is not a frame ring (wrong magic bytes); pass the file", id="empty"),
    pytest.param(lambda _: b"a note of mine", "is not a frame ring (wrong magic bytes); pass the file", id="not ours"),
    pytest.param(lambda c: c[:4095], "is 4095 bytes, but a frame ring has at least 4096; remove", id="short"),
    pytest.param(lambda c: c[:-1], "is 8703 bytes, but its header describes 8704; remove", id="cut off"),
    pytest.param(lambda c: c + b"x", "is 8705 bytes, but its header describes 8704; remove", id="too long"),
    pytest.param(lambda c: b"PK\3\4" + c[4:], "is not a frame ring (wrong magic bytes); pass the file", id="magic"),
    pytest.param(lambda c: c[:30] + b"x" + c[31:], "its header is damaged (wrong checksum); remove", id="checksum"),
    pytest.param(patched(8, "I", 2), "has version 2, but this program reads 1; use one version of segnets", id="newer"),
    pytest.param(
        patched(8, "I", 0), "has version 0, but this program reads 1; use one version of segnets", id="version 0"
    ),
    pytest.param(patched(12, "I", 64), "header_size=64, expected 4096; remove", id="header size"),
    pytest.param(patched(16, "I", 0), "type=0, expected 1..8; remove", id="type 0"),
    pytest.param(patched(16, "I", 9), "type=9, expected 1..8; remove", id="type 9"),
    pytest.param(patched(20, "I", 0), "ndim=0, expected 1..8; remove", id="no dimensions"),
    pytest.param(patched(20, "I", 9), "ndim=9, expected 1..8; remove", id="too many dimensions"),
    pytest.param(patched(20, "I", 2**32 - 1), "ndim=4294967295, expected 1..8; remove", id="absurd dimensions"),
    pytest.param(patched(20, "I", 2), "its shape or strides continue past ndim=2; remove", id="more shape"),
    pytest.param(patched(24, "q", 0), "shape=(0, 5, 6), expected numbers of at least 1; remove", id="shape 0"),
    pytest.param(patched(24, "q", -1), "shape=(-1, 5, 6), expected numbers of at least 1; remove", id="shape -1"),
    pytest.param(
        patched(24, "3q", HUGE, HUGE, HUGE),
        f"shape=({HUGE}, {HUGE}, {HUGE}), expected a frame of at most 1 TiB; remove",
        id="shape overflows",
    ),
    pytest.param(
        patched(24, "q", 1 << 36), f"shape=({1 << 36}, 5, 6), expected a frame of at most 1 TiB; remove", id="2 TiB"
    ),
    pytest.param(patched(24, "q", 5), "frame_size=480, but its shape and strides give 600; remove", id="shape grows"),
    pytest.param(
        patched(88, "q", 8), "strides=(8, 24, 4) for shape=(4, 5, 6) make items overlap; remove", id="overlap"
    ),
    pytest.param(
        patched(88, "q", 0), "strides=(0, 24, 4), expected multiples of the item size, 4; remove", id="stride 0"
    ),
    pytest.param(
        patched(88, "q", -120), "strides=(-120, 24, 4), expected multiples of the item size, 4; remove", id="stride -1"
    ),
    pytest.param(
        patched(88, "q", 122), "strides=(122, 24, 4), expected multiples of the item size, 4; remove", id="unaligned"
    ),
    pytest.param(
        patched(88, "q", HUGE), "shape=(4, 5, 6), expected a frame of at most 1 TiB; remove", id="stride overflows"
    ),
    pytest.param(patched(152, "q", 0), "slots=0, expected 1..1048576; remove", id="no slots"),
    pytest.param(patched(152, "q", -1), "slots=-1, expected 1..1048576; remove", id="slots -1"),
    pytest.param(patched(152, "q", HUGE), f"slots={HUGE}, expected 1..1048576; remove", id="slots overflow"),
    pytest.param(patched(152, "q", 9), "is 8704 bytes, but its header describes 9280; remove", id="more slots"),
    pytest.param(
        patched(160, "Q", 2**64 - 1),
        f"frame_size={2**64 - 1}, but its shape and strides give 480; remove",
        id="frame size",
    ),
    pytest.param(patched(168, "Q", 64), "slot_size=64, but its frame_size gives 576; remove", id="slot size"),
    pytest.param(patched(176, "I", 4), "flags=4, expected 0..3; remove", id="flags"),
    pytest.param(
        patched(256, "Q", 10),
        "its counters are invalid (10 frames written and 0 read, with ",
        id="more written than fits",
    ),
    pytest.param(
        patched(320, "Q", 1),
        "its counters are invalid (0 frames written and 1 read, with ",
        id="more read than written",
    ),
]


@pytest.mark.parametrize("role", ["consumer", "producer"])
@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_hostile_headers(
    change: Callable[[bytes], bytes], message: str, role: str, program: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r"
    with FrameRing.create(path, (4, 5, 6), "float32", slots=8):
        pass
    contents = change(path.read_bytes())
    path.write_bytes(contents)
    with pytest.raises(FrameRingError) as error:
        FrameRing.open(path, role)  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{path}: {message}")
    done = run(program, "open", path, role)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{error.value}\n"  # the same message
    assert path.read_bytes() == contents


def test_paths_that_are_not_regular_files(program: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in [
        ("none", "does not exist; start the side that creates the ring first"),
        (".", "is a folder; pass the file that the other side created"),
        ("pipe", "is a device, pipe or socket, not a frame ring"),
    ]:
        with pytest.raises(FrameRingError) as error:
            FrameRing.open(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {message}"
        assert run(program, "open", tmp_path / name, "consumer").stderr == f"{error.value}\n"


@pytest.mark.parametrize(
    ("shape", "dtype", "slots", "strides", "message"),
    [
        ((), "uint8", 4, None, "ndim=0, expected 1..8"),
        ((1,) * 9, "uint8", 4, None, "ndim=9, expected 1..8"),
        ((2, 0), "uint8", 4, None, "shape=(2, 0), expected numbers of at least 1"),
        ((2.5,), "uint8", 4, None, "shape=(2.5,), slots=4, strides=None, expected whole numbers"),
        ((HUGE, 2), "uint8", 4, None, f"shape=({HUGE}, 2), expected a frame of at most 1 TiB"),
        (
            (2, 2),
            "complex64",
            4,
            None,
            "dtype='complex64', expected one of uint8, int16, uint16, int32, int64, float16",
        ),
        ((2, 2), None, 4, None, "dtype=None, expected one of"),
        ((2, 2), ">i2", 4, None, "dtype='>i2', expected one of"),
        ((2, 2), "nonsense", 4, None, "dtype='nonsense', expected one of"),
        ((2, 2), "uint8", 0, None, "slots=0, expected 1..1048576"),
        ((2, 2), "int16", 4, (4,), "strides=(4) for shape=(2, 2), expected as many numbers"),
        ((2, 2), "int16", 4, (2, 2), "strides=(2, 2) for shape=(2, 2) make items overlap"),
        ((2, 2), "int16", 4, (4, 1), "strides=(4, 1), expected multiples of the item size, 2"),
    ],
)
def test_invalid_layouts(
    shape: tuple[int, ...],
    dtype: str | None,
    slots: int,
    strides: tuple[int, ...] | None,
    message: str,
    program: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(FrameRingError) as error:
        FrameRing.create(tmp_path / "r", shape, dtype, slots=slots, strides=strides)
    assert str(error.value).startswith(f"{tmp_path / 'r'}: {message}")
    assert list(tmp_path.iterdir()) == []
    if dtype in TYPES and all(isinstance(count, int) for count in shape) and shape:
        words = [TYPES.index(dtype) + 1, slots, 0, "x".join(map(str, shape))]
        words += [] if strides is None else ["x".join(map(str, strides))]
        assert run(program, "create", tmp_path / "r", "producer", *words).stderr == f"{error.value}\n"
        assert list(tmp_path.iterdir()) == []
