"""Shards of noise, and a server of them."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.data.common import image_of, mask_of
from tests.weights_tools.server import KeepAlive, Reply, Request, Server, running

DESCRIPTION = 'classes = ["sky", "road", "car"]\n'


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def members(*seeds: int, mask: str = "mask.png") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for seed in seeds:
        found |= {f"{seed:06}.png": png(image_of(seed)), f"{seed:06}.{mask}": png(mask_of(seed))}
        found[f"{seed:06}.json"] = b"{}"
    return found


def write_index(archive: Path) -> str:
    """Return the index of a shard as wds2idx writes it."""
    samples: dict[str, list[str]] = {}
    with tarfile.open(archive) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            key, _, kind = member.name.partition(".")
            samples.setdefault(key, []).append(f"{kind} {member.offset_data} {member.size} {member.name}")
    return f"v1.2 {len(samples)}\n" + "".join(" ".join(each) + "\n" for each in samples.values())


def files(contents: Mapping[str, bytes]) -> Reply:
    """Reply with files by path, with support for ranges and an ETag that follows the contents."""

    def reply(request: Request) -> None:
        body = contents.get(urlsplit(request.path).path.removeprefix("/"))
        if body is None:
            request.start(404, Content_Length=0)
            return
        headers: dict[str, object] = {"ETag": f'"{zlib.crc32(body)}"'}
        wanted, status = request.headers["Range"], 200
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            status, part = 206, body[int(first) : int(last) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
            body = part
        request.start(status, Content_Length=len(body), **headers)
        request.wfile.write(body)

    return reply


class Remote:
    """A data set of two training shards and one for validation, in a folder and at a server.

    Attributes:
        local: Folder with the shards.
        remote: Folder with a `dataset.toml` that lists the addresses.
        server: The server. Replies in front of the last one of its script come first.
        contents: Files of the server by path.
    """

    def __init__(self, folder: Path, server: Server) -> None:
        self.local, self.remote, self.server = folder / "local", folder / "remote", server
        write_shard(self.local / "train-000000.tar", members(3, 1, 5, 6))
        write_shard(self.local / "train-000001.tar", members(2, 4, 7))
        write_shard(self.local / "val-000000.tar", members(9, 8))
        (self.local / "dataset.toml").write_text(DESCRIPTION)
        self.contents = {path.name: path.read_bytes() for path in self.local.glob("*.tar")}
        server.script[:] = [files(self.contents)]
        self.describe(train=f"{server.url}/train-{{000000..000001}}.tar", val=f"{server.url}/val-000000.tar")

    def describe(self, **shards: str | list[str]) -> None:
        """List other shards."""
        self.remote.mkdir(exist_ok=True)
        listed = "".join(f"{split} = {texts!r}\n" for split, texts in shards.items())
        (self.remote / "dataset.toml").write_text(f"{DESCRIPTION}[shards]\n{listed}")

    def first(self, *replies: Reply) -> None:
        """Answer the next requests otherwise, and forget the earlier ones."""
        self.server.script[:-1] = replies
        self.server.seen.clear()

    def requests(self) -> list[tuple[str, str | None]]:
        """Return path and range of the requests since the last call."""
        found = [(path, headers["Range"]) for path, headers in self.server.seen]
        self.server.seen.clear()
        return found


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr("segnets.web.PAUSES", (0.0,) * 4)
    with running(KeepAlive) as server:
        yield Remote(tmp_path, server)
