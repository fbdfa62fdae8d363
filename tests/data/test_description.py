"""`dataset.toml`, and the options that stand in for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from braceexpand import braceexpand

from segnets.data import open_data
from segnets.data.braces import expand_braces
from segnets.errors import DataError
from tests.data.common import write_folder

CLASSES = 'classes = ["sky", "road", "car"]\n'
PALETTE = "palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\n"


def test_options_stand_in_for_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, description=CLASSES + PALETTE + "ignore = [3]\nlicence = 'CC0'\n")
    data = open_data(folder)
    assert (data.classes, data.ignore, data.licence) == (("sky", "road", "car"), (3,), "CC0")
    assert data.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    renamed = open_data(folder, classes=["a", "b", "c"], ignore=[])
    assert (renamed.classes, renamed.ignore, renamed.palette) == (("a", "b", "c"), (), data.palette)
    assert open_data(folder, classes=["a", "b"]).palette == ()


def test_colours_of_ignored_values_follow_those_of_the_classes(tmp_path: Path) -> None:
    colours = "palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]]\n"
    data = open_data(write_folder(tmp_path, description=CLASSES + colours + "ignore = [3]"))
    assert len(data.palette) == 3
    with pytest.raises(DataError, match="the colour number 3 is not ignored"):
        open_data(write_folder(tmp_path, description=CLASSES + colours))


@pytest.mark.parametrize(
    "text",
    [
        "a.tar",
        "{000000..000099}.tar",
        "t-{8..11}.tar",
        "t-{08..11}.tar",
        "t-{3..1}.tar",
        "t-{0..9..3}.tar",
        "t-{9..0..3}.tar",
        "t-{-1..1}.tar",
        "{a,b,}.tar",
        "https://{a,b}.org/{train,val-{0..2}}-{00..01}.tar?x=1",
    ],
)
def test_braces_are_expanded_as_by_the_library(text: str) -> None:
    assert expand_braces(text) == list(braceexpand(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('clases = ["a"]', r"dataset\.toml: unknown key 'clases'. Did you mean classes\? Allowed: classes, palette"),
        ("whatever = 1", r"unknown key 'whatever'. Allowed"),
        ("classes = " + "[" * 100_000, r"dataset\.toml: can't be read: .*Correct the file"),
        ("classes = [", r"dataset\.toml: can't be read: .*Correct the file"),
        ('classes = "sky"', r"""classes = 'sky'. Expected a list: classes = \["road", "car"\]"""),
        ("classes = [1]", "classes: 1 is not a printable name"),
        ('classes = ["a", ""]', "classes: '' is not a printable name"),
        ('classes = ["a", "a"]', "classes: 'a' occurs twice"),
        ("licence = 4", r"licence = 4. Expected text"),
        (CLASSES + "palette = [[1, 2, 3]]", "palette: 1 colours for 3 classes. Give one per class"),
        (CLASSES + "palette = [[1, 2], [1, 2, 3], [300, 0, 0]]", r"palette: \(1, 2\) is not a colour"),
        (CLASSES + "palette = [1, 2, 3]", "palette: 1 is not a colour"),
        (CLASSES + "ignore = 11", "ignore = 11. Expected a list"),
        (CLASSES + 'ignore = ["x"]', "ignore: 'x' is not a mask value"),
        (CLASSES + "ignore = [-1]", "ignore: -1 is not a mask value. Expected whole numbers 0..65535"),
        (CLASSES + "ids = [1, 2]", "ids: 2 values for 3 classes"),
        (CLASSES + "ids = [1, 2, 2]", "ids: a value occurs twice"),
        (CLASSES + "ids = [1, 2, true]", "ids: True is not a mask value"),
        (CLASSES + "channels = 17", "channels: 17. Expected a whole number 1..16"),
        (CLASSES + 'channels = "3"', "channels: '3'. Expected a whole number"),
        (CLASSES + 'masks = "palette"', 'masks = .palette.. Allowed: "ids", "colours", "planes"'),
        ("shards = 1", "shards: expected a table of splits"),
        ("[shards]", "shards: expected a table of splits"),
        ("[shards]\ntrain = 1", "shards: train: expected a path or address of shards, or a list"),
        ("[shards]\ntrain = []", "shards: train: expected a path"),
        ('[shards]\n" " = "a.tar"', "shards: ' ' is not a split name"),
        (
            '[shards]\ntrain = "s3://key:secret@b/{0..1}.tar"',
            "train: s3: addresses are not supported. Use an ht",
        ),
        (
            '[shards]\ntrain = ["a.tar", "pipe:cat a.tar"]',
            "train: pipe: addresses are not supported. .* or mount the storage",
        ),
        ('[shards]\ntrain = "file:///a.tar"', "train: file: addresses are not supported"),
        ('[shards]\nval = "val-{a}.tar"', "shards: val: a name has a brace with neither a range"),
        ('[shards]\nval = "val-{0..9.tar"', "a name has a brace without a partner"),
        ('[shards]\nval = "val-{0..9}{0..99999}.tar"', "a name stands for more than 100,000 names"),
        ('[shards]\nval = ["a-{0..99999}.tar", "b.tar"]', "val: more than 100,000 shards. Make larger ones"),
        (f'[shards]\nval = "{"{a," * 3000}b{"}" * 3000}"', "a name has more than 100 braces"),
        (f'[shards]\nval = "{"x" * 100_000}{{0..2000}}"', "a name stands for more than 100,000 names"),
        ('[shard]\nval = "a.tar"', "unknown key 'shard'. Did you mean shards?"),
        (CLASSES + 'masks = "colours"', 'masks = "colours" needs palette'),
        (CLASSES + PALETTE + 'ids = [1, 2, 3]\nmasks = "colours"', "are mutually exclusive"),
        (f"classes = {[str(number) for number in range(256)]}", "has 256 classes; at most 255 are supported"),
    ],
)
def test_refusals(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_data(write_folder(tmp_path, train=1, val=0, description=text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (write_folder(tmp_path, train=1) / "dataset.toml").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"dataset\.toml: can't be read"):
        open_data(tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (write_folder(tmp_path, train=1) / "dataset.toml").write_bytes(b"\xef\xbb\xbf" + CLASSES.encode())
    assert len(open_data(tmp_path).classes) == 3
