"""Shards on a server."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segnets.cli import main
from segnets.data import DataSet, open_data
from segnets.data.augment import training_augmentation
from segnets.data.check import check_data
from segnets.data.loader import Batches, TrainSet
from segnets.errors import DataError
from segnets.training import TrainingConfig
from segnets.training.batches import load_batches
from tests.data.common import image_of, mask_of
from tests.data.shards import Remote, files, members, remote, write_index, write_shard
from tests.weights_tools.server import Request

__all__ = ["remote"]


def check_same_samples(one: DataSet, other: DataSet) -> None:
    assert {name: len(samples) for name, samples in one.splits.items()} == {"train": 7, "val": 2}
    for split, samples in one.splits.items():
        assert [sample.name for sample in samples] == [sample.name for sample in other.samples(split)]
        for sample, twin in zip(samples, other.samples(split), strict=True):
            pair, same = one.read(sample), other.read(twin)
            assert (pair.image == same.image).all()
            assert (pair.mask == same.mask).all()


def sizes_of(requests: list[tuple[str, str | None]]) -> set[int | None]:
    """Return the numbers of bytes that were requested, None for whole files."""
    places = [[int(end) for end in place[6:].split("-")] if place else None for _, place in requests]
    return {None if place is None else place[1] + 1 - place[0] for place in places}


def test_the_samples_are_those_of_the_folder(remote: Remote) -> None:
    data = open_data(remote.remote)
    check_same_samples(pickle.loads(pickle.dumps(data)), open_data(remote.local))
    assert str(data.samples("val")[0].image) == f"{remote.server.url}/val-000000.tar/000008.png"


def test_one_request_reads_an_image_and_its_mask(remote: Remote) -> None:
    data = open_data(remote.remote)
    remote.requests()
    for sample in data.samples("train"):
        data.read(sample)
        data.reader.stored_palette(sample)
    assert len(remote.requests()) == 7
    data.read_values(data.samples("val")[0])
    assert sizes_of(remote.requests()) == {512 + len(members(8)["000008.mask.png"])}


def test_an_image_and_a_mask_far_apart_take_two_requests(remote: Remote) -> None:
    found = members(1)
    far = {"000001.png": found["000001.png"], "000001.npy": bytes(200_000), "000001.mask.png": found["000001.mask.png"]}
    write_shard(remote.local / "far.tar", far)
    remote.contents["far.tar"] = (remote.local / "far.tar").read_bytes()
    remote.describe(train=f"{remote.server.url}/far.tar")
    data = open_data(remote.remote)
    remote.requests()
    assert (data.read(data.samples("train")[0]).mask == mask_of(1)).all()
    assert len(remote.requests()) == 2


def test_paths_and_addresses_mix(remote: Remote) -> None:
    train = ["../local/train-000000.tar", f"{remote.server.url}/train-000001.tar"]
    remote.describe(train=train, val="../local/val-{000000..000000}.tar")
    check_same_samples(open_data(remote.remote), open_data(remote.local))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the server is a thread
@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_are_those_of_the_folder(workers: int, remote: Remote) -> None:
    config = TrainingConfig(model="lraspp_mobilenet_v3_small", recipe="light", crop=24)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processes are forked
    ports: list[int] = []

    def noted(request: Request) -> None:
        ports.append(request.client_address[1])
        files(remote.contents)(request)

    batches = []
    for folder, count in ((remote.remote, workers), (remote.local, 0)):
        train = TrainSet(open_data(folder), "train", training_augmentation(config), 5)
        if workers:
            train.pair(0)  # makes a connection that the workers must not use
            remote.server.script[:] = [noted]
            train.pair(1)
        batches.append([*load_batches(train, Batches(7, 2, 5, start=1, stop=5), workers=count)])
    torch.set_num_threads(threads)
    assert ports.count(ports[0]) == 1 if workers else not ports
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_connections_are_kept(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(remote.remote)
    data.read(data.samples("train")[0])
    monkeypatch.setattr(remote.server, "get_request", lambda: pytest.fail("another connection"))
    for sample in data.samples("train"):
        data.read(sample)


def test_the_index_is_kept(remote: Remote) -> None:
    open_data(remote.remote)
    remote.requests()
    data = open_data(remote.remote)
    assert sorted(remote.requests()) == [(f"/{name}", "bytes=0-511") for name in sorted(remote.contents)]
    check_same_samples(data, open_data(remote.local))
    write_shard(remote.local / "val-000000.tar", members(9, 8, 10))
    remote.contents["val-000000.tar"] = (remote.local / "val-000000.tar").read_bytes()
    assert len(open_data(remote.remote).samples("val")) == 3


def test_an_index_beside_the_shard_is_used(remote: Remote) -> None:
    for path in remote.local.glob("*.tar"):
        remote.contents[path.with_suffix(".idx").name] = write_index(path).encode()
    data = open_data(remote.remote)
    assert sizes_of(remote.requests()) == {None, 512}  # no headers of all members
    check_same_samples(data, open_data(remote.local))


def test_names_with_spaces_in_an_index(remote: Remote) -> None:
    spaced = {name.replace("00000", "no 5 6 "): content for name, content in members(1, 2).items()}
    write_shard(remote.local / "val-000000.tar", spaced)
    remote.contents["val-000000.tar"] = (remote.local / "val-000000.tar").read_bytes()
    remote.contents["val-000000.idx"] = write_index(remote.local / "val-000000.tar").encode()
    data = open_data(remote.remote)
    assert [sample.name for sample in data.samples("val")] == ["no 5 6 1", "no 5 6 2"]
    assert (data.read(data.samples("val")[1]).image == image_of(2)).all()


@pytest.mark.parametrize("start", ["./", "/", "a/b/", "a" * 90 + "/" + "b" * 90 + "/"])
def test_names_in_folders(start: str, remote: Remote) -> None:
    hidden = {f"{start}.000001.png": b"of another program"}
    write_shard(remote.local / "val-000000.tar", hidden | {start + name: data for name, data in members(1).items()})
    remote.contents["val-000000.tar"] = (remote.local / "val-000000.tar").read_bytes()
    local, data = open_data(remote.local), open_data(remote.remote)
    assert [each.name for each in data.samples("val")] == [each.name for each in local.samples("val")]
    assert (data.read(data.samples("val")[0]).mask == mask_of(1)).all()
    assert not data.problems


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("v1.2 2", "v1.2 3"),
        lambda text: text.replace(" 512 ", " 51200000 "),
        lambda text: text.replace(" 512 ", " 513 "),
        lambda text: text.replace("png 512", "jpg 512"),
        lambda text: f"v1.2 1\n{text.splitlines()[1][:-20]}",
        lambda text: text.replace("v1.2", "v1.1"),
        lambda text: "v1.2 0\n"[: len(text)],
        lambda text: f"v1.2 1\n{text.splitlines()[1]}\n",  # made before the second sample was added
        lambda text: text.replace(" 512 ", f" {'9' * 5000} "),
        lambda text: f"v1.2 1\n{'x' * 100_000 or text}",  # would take a minute if each letter could begin a member
        lambda text: text.replace(" 512 ", " 1024 "),  # in front of a pax header
        lambda text: text.replace("000009.mask", "00000\\071.mask"),  # as tar writes letters that are not ASCII
    ],
)
def test_an_index_that_does_not_fit_is_not_used(damage: Callable[[str], str], remote: Remote) -> None:
    text = write_index(remote.local / "val-000000.tar")
    assert damage(text) != text
    remote.contents["val-000000.idx"] = damage(text).encode()
    data = open_data(remote.remote)
    headers = sizes_of([each for each in remote.requests() if each[0] == "/val-000000.tar"]) - {512}
    assert headers, "the headers were not read"
    check_same_samples(data, open_data(remote.local))


def test_an_index_of_an_archive_with_a_folder(remote: Remote) -> None:
    path = remote.local / "val-000000.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("./", *members(8)):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name == "./" else tarfile.REGTYPE
            member.size = len(members(8).get(name, b""))
            tar.addfile(member, io.BytesIO(members(8).get(name, b"")))
    remote.contents |= {"val-000000.tar": path.read_bytes(), "val-000000.idx": write_index(path).encode()}
    open_data(remote.remote)
    assert sizes_of([each for each in remote.requests() if each[0].startswith("/val")]) == {None, 512}


def test_an_index_of_other_members_is_refused_and_forgotten(remote: Remote) -> None:
    """The first and the last member, which are verified at once, are the right ones."""
    text = write_index(remote.local / "train-000000.tar")
    remote.contents["train-000000.idx"] = text.replace("000005", "000009").encode()
    data = open_data(remote.remote)
    wrong = data.samples("train")[-1]
    with pytest.raises(DataError, match=r"train-000000\.tar: 000009\.png isn't where the index of the shard puts it"):
        data.read(wrong)
    del remote.contents["train-000000.idx"]
    check_same_samples(open_data(remote.remote), open_data(remote.local))


def test_the_cache_may_be_read_only(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write_index(remote.local / "train-000000.tar")
    remote.contents["train-000000.idx"] = text.replace("000005", "000009").encode()
    data = open_data(remote.remote)

    def refuse(*_: object, **_options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match="isn't where the index of the shard puts it"):
        data.read(data.samples("train")[-1])


def test_headers_without_end_are_not_read(remote: Remote) -> None:
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.XHDTYPE, 1 << 40
    remote.contents["val-000000.tar"] = long.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with pytest.raises(DataError, match=r"can't be read as a tar archive \(a header has 1,099,511,627,776 bytes\)"):
        open_data(remote.remote)


def test_a_shard_that_is_no_archive(remote: Remote) -> None:
    remote.contents["val-000000.tar"] = b"nothing" * 300
    with pytest.raises(DataError, match=r"val-000000\.tar: can't be read as a tar archive"):
        open_data(remote.remote)
    remote.contents["val-000000.tar"] = (remote.local / "val-000000.tar").read_bytes()[:-12_000]
    with pytest.raises(DataError, match=r"val-000000\.tar: can't be read as a tar archive \(unexpected end of data"):
        open_data(remote.remote)


def test_addresses_that_differ_in_the_query_only(remote: Remote) -> None:
    def by_query(request: Request) -> None:
        request.path = "/" + request.path.partition("?file=")[2]
        files(remote.contents)(request)

    remote.server.script[:] = [by_query]
    url = f"{remote.server.url}/get"
    remote.describe(train=f"{url}?file=train-{{000000..000001}}.tar", val=f"{url}?file=val-000000.tar")
    check_same_samples(open_data(remote.remote), open_data(remote.local))


def test_some_samples_are_checked(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segnets.data.check.MOST_REMOTE", 3)
    report = check_data(open_data(remote.remote))
    assert report.ok
    assert [(split.images, split.checked) for split in report.splits.values()] == [(7, 3), (2, 2)]
    assert f"evenly spread: 3 of 7 (train). `segnets check-data {remote.remote} --all`" in report.note
    assert report.summary() == f"{remote.remote}: 9 images (5 read), no errors, no warnings"
    assert report.note in report.lines()
    other = open_data(remote.remote, classes=["sky", "road", "car", "bus"], ignore=[77])
    first, second, third, *_ = check_data(other).warnings
    assert "class 'bus' (3) has no pixel in the 3 checked images of the split 'train'" in first
    assert "class 'bus' (3) has no pixel in the split 'val'" in second
    assert "the ignored value 77 is in no checked mask" in third
    assert main(["check-data", str(remote.remote), "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["checked"] == 7
    assert not check_data(open_data(remote.local)).note


def test_a_set_beyond_the_limit_is_not_pulled_into_memory(remote: Remote) -> None:
    train = TrainSet(open_data(remote.remote), "train", lambda _pair: (torch.zeros(1), torch.zeros(1)), 0)
    remote.requests()
    assert not train.keep_in_memory(20_000)
    assert len(remote.requests()) == 1
    assert train.keep_in_memory(100_000)
