"""WebDataset shards."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from segnets.data import open_data
from segnets.data.check import check_data
from segnets.errors import DataError
from tests.data.common import image_of, mask_of
from tests.data.shards import DESCRIPTION, members, png, write_shard


def test_shards_of_two_splits(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(DESCRIPTION)
    write_shard(tmp_path / "val-000000.tar", members(9, mask="seg.png"))
    write_shard(tmp_path / "train-000000.tar", members(3, 1))
    write_shard(tmp_path / "train-000001.tar", members(2))
    data = open_data(tmp_path)
    assert list(data.splits) == ["train", "val"]
    assert [sample.name for sample in data.samples("train")] == ["000001", "000002", "000003"]
    for seed, sample in zip((1, 2, 3), data.samples("train"), strict=True):
        pair = pickle.loads(pickle.dumps(data)).read(sample)
        assert (pair.image == image_of(seed)).all()
        assert (pair.mask == mask_of(seed)).all()
    assert check_data(data).ok


def test_shards_in_folders_and_masks_that_are_the_only_png(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(DESCRIPTION)
    jpeg = io.BytesIO()
    Image.fromarray(image_of(1)).save(jpeg, "JPEG")
    write_shard(tmp_path / "train/0.tar", {"a/1.jpg": jpeg.getvalue(), "a/1.png": png(mask_of(1))})
    data = open_data(tmp_path)
    assert [sample.name for sample in data.samples("train")] == ["a/1"]
    assert (data.read(data.samples("train")[0]).mask == mask_of(1)).all()


def test_what_the_library_writes(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(DESCRIPTION)
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=2, verbose=0) as writer:
        for seed in range(3):
            writer.write({"__key__": f"{seed:03}", "jpg": image_of(seed), "mask.png": mask_of(seed)})
    data = open_data(tmp_path)
    assert len({sample.image.parent for sample in data.samples("train")}) == 2
    assert (data.read(data.samples("train")[2]).mask == mask_of(2)).all()


def test_problems_are_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(DESCRIPTION)
    lonely = {"000007.png": png(image_of(7)), "000008.mask.png": png(mask_of(8)), "000006.json": b"{}"}
    write_shard(tmp_path / "train-0.tar", {**members(1), **lonely, "000009.jpg": b"x", "000009.png": png(mask_of(9))})
    write_shard(tmp_path / "train-1.tar", members(1))
    errors = check_data(open_data(tmp_path)).errors
    text = "\n".join(errors)
    for expected in (
        "train-0.tar: has no image for the key '000008'",
        "train-1.tar: has the key '000001' again",
        f"{tmp_path}/train-0.tar/000009.jpg: not an image that Pillow can read",
    ):
        assert expected in text


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", members(1))
    data = open_data(tmp_path, classes=["sky", "road", "car"])
    path = tmp_path / "train-0.tar"
    content = path.read_bytes()
    path.write_bytes(content[:600])
    with pytest.raises(DataError, match=r"train-0\.tar: is truncated. Copy the shard again"):
        data.read(data.samples("train")[0])
    path.unlink()
    with pytest.raises(DataError, match=r"train-0\.tar: can't be read: No such file"):
        data.read(data.samples("train")[0])
    path.write_bytes(b"nothing" * 200)
    with pytest.raises(DataError, match=r"train-0\.tar: can't be read as a tar archive"):
        open_data(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="has no shards"):
        open_data(tmp_path, format="shards")
    (tmp_path / "dataset.toml").write_text('shards = {train = ["train-*.tar"]}')
    with pytest.raises(
        DataError, match=r"train-\*\.tar: does not exist.*Wildcards are not expanded; write \{000000\.\."
    ):
        open_data(tmp_path)


def _header(size: int, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> bytes:
    member = tarfile.TarInfo("a.png")
    member.type, member.size, member.pax_headers = kind, max(size, 0), pax or {}
    header = bytearray(member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT))
    if size < 0:
        header[124:136] = b"\xff" + (256**11 + size).to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


_FIRST = _header(3) + bytes(512)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_FIRST + _header(-512), "the size of 'a.png' is negative"),  # tarfile would read it for ever
        (_FIRST + _header(-512, tarfile.XHDTYPE), "read length must be non-negative"),
        (_FIRST + _header(1 << 70), "a tar archive"),
        ((_header(4, tarfile.GNUTYPE_LONGNAME) + b"abc" + bytes(509)) * 1100 + _FIRST, "maximum recursion depth"),
        (_header(3, pax={"GNU.sparse.map": "0,x"}) + bytes(512), "invalid literal"),
        (
            _header(3, pax={"GNU.sparse.map": "0,3", "GNU.sparse.size": "5"}) + bytes(512),
            "'a.png' is stored as a sparse",
        ),
    ],
)
def test_archives_of_attackers(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(content + bytes(1024))
    with pytest.raises(DataError, match=rf"^{tmp_path}/train-0\.tar: .*{message}") as raised:
        open_data(tmp_path)
    assert str(raised.value).count("train-0.tar") == 1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-0.tar")
    with pytest.raises(DataError, match=r"can't be read as a tar archive \(not a file\)"):
        open_data(tmp_path)


def test_the_same_name_twice_in_a_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", {**members(1), "000001.PNG": members(2)["000002.png"]})
    (problem,) = open_data(tmp_path).problems
    assert (problem.kind, problem.what) == ("same name", "has '000001.PNG' again")
