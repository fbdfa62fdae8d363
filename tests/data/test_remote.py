"""Shards on a server."""

from __future__ import annotations

import io
import json
import pickle
import socket
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
from segnets.errors import DataError, SegnetsError
from segnets.training import TrainingConfig
from segnets.training.batches import load_batches
from tests.data.common import image_of, mask_of
from tests.data.shards import Remote, files, members, remote, write_index, write_shard
from tests.weights_tools.server import KeepAlive, Reply, Request, plain, redirect, running

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


def drop(request: Request) -> None:
    """Close the connection without an answer."""
    request.connection.shutdown(socket.SHUT_RDWR)


def other_range(request: Request) -> None:
    request.start(206, Content_Length=5, Content_Range="bytes 0-4/5", ETag="x")
    request.wfile.write(b"other")


BUSY = plain(b"", 503, Content_Length=0)


@pytest.fixture
def opened(remote: Remote) -> DataSet:
    """Return an opened data set whose validation shard is the only one left."""
    remote.describe(val=f"{remote.server.url}/val-000000.tar")
    return open_data(remote.remote)


@pytest.mark.parametrize("fault", [BUSY, drop, plain(b"", 429, Content_Length=0)])
def test_passing_faults_are_repaired(fault: Reply, remote: Remote, opened: DataSet) -> None:
    remote.first(*[fault] * 4)
    assert (opened.read(opened.samples("val")[0]).image == image_of(8)).all()
    assert len(remote.requests()) == 5


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        (BUSY, r"reports an error \(503 Service Unavailable\), 5 times. Check the network and the server", 5),
        (drop, r"the server closed the connection without a response, 5 times\.", 5),
        (plain(b"", 404, Content_Length=0), r"has no such file \(404 Not Found\)", 1),
        (plain(b"", 403, Content_Length=0), r"denies access \(403 Forbidden\).*has expired, renew it in dataset", 1),
        (
            plain(b"all of it", Content_Length=9),
            r"doesn't support range requests \(it responded with 200 instead of 206\)",
            1,
        ),
        (plain(b"", 206, Content_Length=0), "the server's response to a range request is invalid", 1),
        (other_range, "has changed on the server since it was opened", 1),
        (plain(b"", 416, Content_Length=0), "has changed on the server since it was opened", 1),
    ],
)
def test_faults_that_stay(fault: Reply, message: str, requests: int, remote: Remote, opened: DataSet) -> None:
    remote.first(*[fault] * 5)
    with pytest.raises(DataError, match=message) as raised:
        opened.read(opened.samples("val")[0])
    assert str(raised.value).startswith(f"{remote.server.url}/val-000000.tar: ")
    assert len(remote.requests()) == requests


def endless(status: int, **headers: object) -> Reply:
    def reply(request: Request) -> None:
        request.start(status, Connection="close", **headers)
        while not request.server.released.is_set():
            request.wfile.write(bytes(100_000))

    return reply


def test_bodies_without_end(remote: Remote, opened: DataSet) -> None:
    remote.first(endless(206, Content_Range="bytes 0-511/20480"))
    with pytest.raises(DataError, match=r"val-000000\.tar: the server sent more than was asked for"):
        open_data(remote.remote)
    remote.contents["val-000000.tar"] += bytes(512)  # the cache has no index of this version
    remote.first(files(remote.contents), endless(200))
    assert len(open_data(remote.remote).samples("val")) == 2
    assert remote.requests()[1][0] == "/val-000000.idx"


def test_an_answer_with_endless_numbers(remote: Remote, opened: DataSet) -> None:
    remote.first(plain(bytes(512), 206, Content_Range=f"bytes 0-511/{'9' * 5000}", Content_Length=512))
    with pytest.raises(DataError, match="the server's response to a range request is invalid"):
        opened.read(opened.samples("val")[0])


def test_a_server_that_drips(remote: Remote, opened: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = remote.server.script[-1]

    def drip(request: Request) -> None:
        sent, request.wfile = request.wfile, io.BytesIO()
        whole(request)
        head, _, body = request.wfile.getvalue().partition(b"\r\n\r\n")
        request.wfile = sent
        request.wfile.write(head + b"\r\n\r\n")
        for number in range(len(body)):
            if request.server.released.wait(0.02):
                return
            request.wfile.write(body[number : number + 1])

    monkeypatch.setattr("segnets.web.TIMEOUT", 0.1)
    remote.first(drip)
    assert (opened.read(opened.samples("val")[0]).image == image_of(8)).all()
    remote.first(*[drip] * 5)
    with pytest.raises(DataError, match=r"val-000000\.tar: only \d bytes arrived in 0\.1 seconds, 5 times"):
        opened.read(opened.samples("val")[1])


def stall(request: Request) -> None:
    request.server.released.wait(60)


def test_a_server_that_stalls(remote: Remote, opened: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnets.web.TIMEOUT", 0.05)
    remote.first(stall)
    assert (opened.read(opened.samples("val")[0]).image == image_of(8)).all()
    remote.first(*[stall] * 5)
    with pytest.raises(
        DataError, match=r"val-000000\.tar: no data arrived for 0\.05 seconds, 5 times\. Check the netw"
    ):
        opened.read(opened.samples("val")[1])


def test_a_body_that_ends_early_is_read_again(remote: Remote, opened: DataSet) -> None:
    whole = remote.server.script[-1]

    def cut(request: Request) -> None:
        """Announce what the server would send, and send a part of it."""
        sent, request.wfile = request.wfile, io.BytesIO()
        whole(request)
        sent.write(request.wfile.getvalue()[:600])
        request.wfile = sent
        request.connection.shutdown(socket.SHUT_RDWR)

    remote.first(cut)
    assert (opened.read(opened.samples("val")[0]).image == image_of(8)).all()
    assert len(remote.requests()) == 2
    remote.first(*[cut] * 5)
    with pytest.raises(DataError, match=r"the body ended after [\d,]+ of [\d,]+ bytes, 5 times"):
        opened.read(opened.samples("val")[1])


def test_a_shard_that_changes_is_refused(remote: Remote, opened: DataSet) -> None:
    content = remote.contents["val-000000.tar"]
    remote.contents["val-000000.tar"] = content[:-1] + b"x"  # of the same size
    with pytest.raises(DataError, match=r"val-000000\.tar: has changed on the server"):
        opened.read(opened.samples("val")[0])


def test_a_server_that_is_not_there_is_named_at_once(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnets.web.PAUSES", (1000.0,))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        remote.describe(train=f"http://127.0.0.1:{unused.getsockname()[1]}/a.tar")
        with pytest.raises(DataError, match=r"a\.tar: the server can't be reached: the connection was refused"):
            open_data(remote.remote)


def test_the_target_of_a_redirect_is_kept(remote: Remote) -> None:
    whole = files(remote.contents)

    def reply(request: Request) -> None:
        if request.path.startswith("/old/"):
            redirect(f"{remote.server.url}{request.path.removeprefix('/old')}?signed=1")(request)
        elif request.path.endswith("?signed=expired"):
            request.start(403, Content_Length=0)
        else:
            whole(request)

    remote.server.script[:] = [reply]
    remote.describe(val=f"{remote.server.url}/old/val-000000.tar")
    data = open_data(remote.remote)
    one, two = data.samples("val")
    remote.requests()
    data.read(one)
    data.read(two)
    assert [path for path, _ in remote.requests()] == ["/val-000000.tar?signed=1"] * 2
    remote.first(plain(b"", 403, Content_Length=0))
    assert (data.read(one).image == image_of(8)).all()
    paths = [path for path, _ in remote.requests()]
    assert paths == ["/val-000000.tar?signed=1", "/old/val-000000.tar", "/val-000000.tar?signed=1"]


def test_a_login_is_not_sent_to_the_target_of_a_redirect(remote: Remote) -> None:
    with running(KeepAlive) as other:
        other.script[:] = [files(remote.contents)]
        remote.server.script[:] = [lambda request: redirect(other.url + request.path)(request)]
        remote.describe(val=f"{remote.server.url}/val-000000.tar".replace("://", "://me:hunter2@"))
        data = open_data(remote.remote)
        assert (data.read(data.samples("val")[0]).image == image_of(8)).all()
        assert all(headers["Authorization"] for _, headers in remote.server.seen)
        assert other.seen
        assert not any(headers["Authorization"] for _, headers in other.seen)


def test_secrets_are_sent_and_not_shown(remote: Remote, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    url = remote.server.url.replace("http://", "http://me:hunter%402@")
    remote.describe(train=[f"{url}/train-000000.tar?token=dragon", f"{url}/train-000001.tar?token=dragon"])
    data = open_data(remote.remote)
    assert {headers["Authorization"] for _, headers in remote.server.seen} == {"Basic bWU6aHVudGVyQDI="}
    assert all(path.endswith("?token=dragon") for path, _ in remote.requests())
    assert main(["check-data", str(remote.remote), "--json"]) == 0
    remote.first(*[plain(b"", 404, Content_Length=0)] * 20)
    assert main(["check-data", str(remote.remote)]) == 1
    remote.first(*[plain(b"", 404, Content_Length=0)] * 20)
    with pytest.raises(SegnetsError) as raised:
        data.read(data.samples("train")[0])
    kept = "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.json"))
    output = capsys.readouterr()
    shown = [output.out, output.err, str(raised.value), repr(raised.value), repr(data), kept]
    assert "train-000000.tar" in kept
    assert not [text for text in shown if "dragon" in text or "hunter" in text or "me:" in text]


@pytest.mark.parametrize(
    "bad", ["http://me:dragon@ho st/a.tar", "http://me:dragon@h:99999/a.tar", "http://me:dragon@[/a"]
)
def test_secrets_in_invalid_addresses(bad: str, remote: Remote) -> None:
    remote.describe(train=f"{bad}?dragon")
    with pytest.raises(DataError) as raised:
        open_data(remote.remote)
    assert "dragon" not in str(raised.value)


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
    assert "so only some images were read, evenly spread: 3 of 7 (train). `segnets check-data --all`" in report.note
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
