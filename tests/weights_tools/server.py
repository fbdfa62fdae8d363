"""An HTTP server in a thread with scripted responses, and a made-up published file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

from segnets.catalog import VOC_CLASSES, Published
from weights_tools import FetchReport, fetch

BODY = b"PK\x03\x04" + random.Random(0).randbytes(100_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
OTHER = b"PK\x03\x04" + random.Random(1).randbytes(100_000)


def row_for(body: bytes, model: str = "fcn_resnet50", *, whole: bool = False) -> Published:
    """Make a catalog row for `body`, with the full digest if `whole`, else with its first eight digits."""
    digest = hashlib.sha256(body).hexdigest()
    return Published(
        model,
        "COCO_WITH_VOC_LABELS_V1",
        f"{model}_made_up-{digest[:8]}.pth",
        len(body) // 4,
        "nothing",
        {},
        sha256=digest if whole else None,
        classes=VOC_CLASSES,
    )


ROW = row_for(BODY)


class Request(BaseHTTPRequestHandler):
    """A handler that answers each request with the next reply of the server's script."""

    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers))
        script = self.server.script
        reply = script.pop(0) if len(script) > 1 else script[0]
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            reply(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def start(self, status: int, **headers: object) -> None:
        """Send status and headers; the keyword Content_Length becomes Content-Length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class KeepAlive(Request):
    """A handler that answers several requests of a connection, like most servers. Replies need a Content-Length."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or header and body are sent 40 ms apart

    def do_GET(self) -> None:
        super().do_GET()
        self.close_connection = self.wfile.closed


Reply: TypeAlias = Callable[[Request], None]


class Server(ThreadingHTTPServer):
    """A server with scripted replies.

    Attributes:
        script: Replies in order; the last one repeats.
        seen: Path and headers of each request.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[Request] = Request) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.script: list[Reply] = []
        self.seen: list[tuple[str, Message]] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def ranges(self) -> list[str | None]:
        return [headers["Range"] for _, headers in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


@contextlib.contextmanager
def running(handler: type[Request] = Request) -> Iterator[Server]:
    with Server(handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def good(body: bytes = BODY, **headers: object) -> Reply:
    """Reply correctly, with support for ranges; `headers` may hold an ETag."""

    def reply(request: Request) -> None:
        wanted, version = request.headers["Range"], request.headers["If-Range"]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if wanted and start >= len(body):
            request.start(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
        elif wanted and version in (None, headers.get("ETag"), headers.get("Last_Modified")):
            place = f"bytes {start}-{len(body) - 1}/{len(body)}"
            request.start(206, Content_Range=place, Content_Length=len(body) - start, **headers)
            request.wfile.write(body[start:])
        else:
            request.start(200, Content_Length=len(body), **headers)
            request.wfile.write(body)

    return reply


def plain(body: bytes, status: int = 200, **headers: Any) -> Reply:
    """Reply with the same bytes to every request: without ranges, and with Content-Length only if given."""

    def reply(request: Request) -> None:
        request.start(status, **headers)
        request.wfile.write(body)

    return reply


def cut(count: int, **headers: Any) -> Reply:
    """Announce the whole body, and close the connection after `count` bytes."""
    return plain(BODY[:count], Content_Length=len(BODY), **headers)


def reset(count: int) -> Reply:
    """Reset the connection after `count` bytes."""

    def reply(request: Request) -> None:
        cut(count)(request)
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.connection.close()

    return reply


def stalled(count: int, **headers: object) -> Reply:
    """Send `count` bytes, and the rest only after the test releases the server."""

    def reply(request: Request) -> None:
        cut(count, **headers)(request)
        request.server.released.wait(60)
        request.wfile.write(BODY[count:])

    return reply


def redirect(to: str, status: int = 302) -> Reply:
    return plain(b"", status, Location=to, Content_Length=0)


def get(server: Server, folder: Path, *script: Reply, overwrite: bool = False, timeout: float = 30.0) -> FetchReport:
    """Fetch the made-up file from a server with this script."""
    server.script[:] = script
    return fetch("fcn_resnet50", url=server.url, folder=folder, overwrite=overwrite, timeout=timeout)


def leave_part(folder: Path, content: bytes, **note: str) -> None:
    """Write a partial file and its record, as an earlier call leaves them."""
    (folder / f"{ROW.file}.part").write_bytes(content)
    if note:
        (folder / f"{ROW.file}.part.json").write_text(json.dumps(note))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def part_of(folder: Path) -> bytes:
    """Return the content of the partial file; check that only it and its record are left."""
    assert names(folder) == [f"{ROW.file}.part", f"{ROW.file}.part.json"]
    return (folder / f"{ROW.file}.part").read_bytes()


def check_fetched(report: FetchReport, folder: Path) -> None:
    assert names(folder) == [ROW.file], "other files are left"
    assert (folder / ROW.file).read_bytes() == BODY
    assert report.path == str(folder / ROW.file)
    assert (report.sha256, report.bytes) == (DIGEST, len(BODY))
