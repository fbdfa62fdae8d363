"""Servers of shards that fail, change, redirect or ask for a login."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest

from segnets.cli import main
from segnets.data import DataSet, open_data
from segnets.errors import DataError, SegnetsError
from tests.data.common import image_of
from tests.data.shards import Remote, files, remote
from tests.weights_tools.server import KeepAlive, Reply, Request, plain, redirect, running

__all__ = ["remote"]


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


def test_a_lasting_fault_is_told_once(
    remote: Remote, opened: DataSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("segnets.data.remote._warned", -1e9)
    remote.first(*[plain(b"", 503, Content_Length=0)] * 4)
    opened.read(opened.samples("val")[0])
    (warning,) = caplog.messages
    assert warning.startswith(f"{remote.server.url}/val-000000.tar: the server reports an error (503")
    assert warning.endswith("; trying again")


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
