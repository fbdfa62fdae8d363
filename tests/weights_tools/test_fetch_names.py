"""Arguments of `fetch` (names, addresses, folders) and its progress bar."""

from __future__ import annotations

import base64
import io
import pwd
import re
import sys
from pathlib import Path

import pytest
import torch

from segnets import catalog
from segnets.catalog import CATALOG
from segnets.errors import OutputError, WeightsError
from segnets.web import next_url
from tests.oracle import torchvision
from tests.weights_tools.server import BODY, DIGEST, ROW, Server, good, names, running
from weights_tools import fetch
from weights_tools.fetching import _download
from weights_tools.fetching._bar import Bar
from weights_tools.fetching.find import cache_folder, choose_url, find_row, make_cache_folder

PUBLISHED = "https://download.pytorch.org/models/fcn_resnet50_coco-1167a1af.pth"


def test_every_published_file_has_its_names() -> None:
    for row in CATALOG:
        assert find_row(row.file) is row
        assert find_row(f"{row.model}:{row.name}") is row
        assert find_row(row.model) is catalog.published_for(row.model)[-1]
        assert choose_url(row, None) == row.url
    assert find_row("resnet50:DEFAULT").name == "IMAGENET1K_V2"


def test_every_published_size_is_within_the_bounds() -> None:
    for row in CATALOG:
        size = torchvision.models.get_model_weights(row.model)[row.name].meta["_file_size"] * 2**20
        fewest, most = _download._bounds(row)
        assert 1.5 * fewest < size < most / 1.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fcn_resnet5", "no published file 'fcn_resnet5'. Did you mean fcn_resnet50. .*--list"),
        ("fcn_resnet50_coco-1167a1ae.pth", "Did you mean fcn_resnet50_coco-1167a1af.pth"),
        (
            "fcn_resnet50:V2",
            "no published file 'fcn_resnet50:V2'. fcn_resnet50 has fcn_resnet50:COCO_WITH_VOC",
        ),
        ("fcn_resnet50:", "fcn_resnet50 has"),
        ("", "no published file ''. `weights-tools fetch --list` lists all"),
        ("../../etc/passwd", "no published file '../../etc/passwd'"),
        ("\x1b[2J", r"no published file '\\x1b\[2J'"),
        (None, "name has type NoneType: expected a string"),
    ],
)
def test_names_of_no_published_file(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        fetch(name, folder=tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("https://mirror.example", f"https://mirror.example/{ROW.file}"),
        ("https://mirror.example/v1.0/", f"https://mirror.example/v1.0/{ROW.file}"),
        ("HTTP://mirror.example/a b/ä#here", f"http://mirror.example/a%20b/%C3%A4/{ROW.file}"),
        ("https://mirror.example:8443/mine.pth", "https://mirror.example:8443/mine.pth"),
        ("https://mirror.example/download?id=3", "https://mirror.example/download?id=3"),
    ],
)
def test_a_mirror_is_a_folder_or_the_file(given: str, asked: str) -> None:
    assert choose_url(ROW, given) == asked


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "the address does not begin with https:// or http://"),
        ("ftp://mirror.example/", "the address does not begin"),
        ("mirror.example/models", "the address does not begin"),
        ("", "the address does not begin"),
        ("https:///models", "the address does not begin"),
        ("http://mirror.example:port/", "the address is invalid"),
        ("http://[::1/", "the address is invalid"),
        ("http://mirror.example/\r\nHost: x", "unprintable characters"),
        ("http://me:secret@mirror.example/", "^http://mirror.example/: a user name or password"),
    ],
)
def test_addresses_that_are_not_requested(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        fetch("fcn_resnet50", url=url, folder=tmp_path)
    assert "secret" not in str(error.value)


def test_https_stays_https() -> None:
    with pytest.raises(WeightsError, match=r"redirects from https to http://mirror.example/x, which is unsafe"):
        next_url("https://mirror.example/y", "http://mirror.example/x?key=secret")
    assert next_url("https://mirror.example/y/z", "x") == "https://mirror.example/y/x"
    assert next_url("http://mirror.example/y", "https://other.example/") == "https://other.example/"


def test_no_network(tmp_path: Path) -> None:
    """Ask for a name under .invalid (RFC 2606), then for a port without a server."""
    with pytest.raises(
        WeightsError, match=r"http://nowhere.invalid/fcn.*pth: the server can't be reached: .*\. Use --from URL"
    ):
        fetch("fcn_resnet50", url="http://nowhere.invalid", folder=tmp_path)
    with running() as server:
        url = server.url
    with pytest.raises(WeightsError, match=r"the connection was refused\. Use --from URL"):
        fetch("fcn_resnet50", url=url, folder=tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_invalid_timeouts(timeout: float, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"timeout=.*: expected a positive number of seconds"):
        fetch("fcn_resnet50", folder=tmp_path, timeout=timeout)


def test_invalid_folders(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"the folder .*missing does not exist; create it first"):
        fetch("fcn_resnet50", url=server.url, folder=tmp_path / "missing")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(
        OutputError, match=r"part of the path is not a folder\. Set TORCH_HOME, or choose a folder with --to"
    ):
        fetch("fcn_resnet50", url=server.url)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "new" / "folder"))
    assert make_cache_folder() == cache_folder() == tmp_path / "new" / "folder" / "hub" / "checkpoints"
    assert cache_folder().is_dir()


def test_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without HOME and with an unknown user, as in containers."""

    def unknown(_: object) -> None:
        raise KeyError

    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for variable in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OutputError, match=r"the home folder \(HOME\) is\. Set TORCH_HOME, or choose a folder with --to"
    ):
        fetch("fcn_resnet50")
    assert names(tmp_path) == [], "no folder called ~"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    """A stream that fails like a closed terminal."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_the_bar_of_a_terminal(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    server.script[:] = [good()]
    fetch("fcn_resnet50", url=server.url, folder=tmp_path)
    written = terminal.getvalue()
    assert written.isascii()
    assert "\x1b" not in written
    assert written.endswith("\n")
    last = written.rstrip("\n").rpartition("\r")[2]
    assert re.fullmatch(rf"{ROW.file}: 100%\|#+\| 100k/100k \[.*B/s\]", last), last


@pytest.mark.parametrize("stream", [Gone(), None])
def test_a_closed_terminal_does_not_stop_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Gone | None
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    server.script[:] = [good()]
    assert fetch("fcn_resnet50", url=server.url, folder=tmp_path, progress=True).sha256 == DIGEST


@pytest.mark.parametrize("enabled", [None, False, True])
def test_a_log_gets_a_bar_only_on_request(enabled: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    log = Bar("title", enabled)
    log.start(0, len(BODY))
    for done in range(0, len(BODY) + 1, 4):
        log.show(done)
    log.close()
    written = capsys.readouterr().err
    assert written.count("\r") == (2 if enabled else 0), "the first and the last state; a line every ten seconds"
    assert ("title: 100%|##########| 100k/100k" in written) is (enabled is True)


def test_the_bar_of_an_unknown_size(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    unknown = Bar("title", None)
    unknown.start(0, None)
    unknown.show(5_000_000)
    unknown.close()
    assert "title: 5.00MB [" in terminal.getvalue()


def test_a_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://me:p%40ss%C3%BC%3A@"))
    monkeypatch.setenv("no_proxy", "direct.example")
    server.script[:] = [good()]
    assert fetch("fcn_resnet50", url="http://mirror.invalid", folder=tmp_path).sha256 == DIGEST
    [(path, headers)] = server.seen
    assert path == f"http://mirror.invalid/{ROW.file}"
    assert headers["Proxy-Authorization"] == "Basic " + base64.b64encode("me:p@ssü:".encode()).decode()


def test_a_proxy_that_does_not_respond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:
        monkeypatch.setenv("http_proxy", server.url.removeprefix("http://"))
    with pytest.raises(WeightsError, match="the proxy set in the environment can't be used"):
        fetch("fcn_resnet50", url="http://mirror.invalid", folder=tmp_path)
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(WeightsError, match="Proxy URL had unsupported scheme socks5"):
        fetch("fcn_resnet50", url="http://mirror.invalid", folder=tmp_path)
    assert names(tmp_path) == []
