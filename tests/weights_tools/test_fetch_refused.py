"""`fetch` refuses any other file with a one-line reason and leaves no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnets.errors import WeightsError
from tests.weights_tools.server import (
    BODY,
    DIGEST,
    OTHER,
    Reply,
    Request,
    Server,
    get,
    good,
    leave_part,
    names,
    plain,
    redirect,
)

PAGE = b"<!DOCTYPE html><html><title>Log in</title></html>"


def _not_http(request: Request) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH\r\n")


REFUSED: dict[str, tuple[Reply, str]] = {
    "wrong hash": (
        good(OTHER),
        rf"its sha256 is [0-9a-f]{{64}}, not {DIGEST[:8]}\.\.\.\. Nothing was kept\. .*--from URL",
    ),
    "page": (
        plain(PAGE, Content_Type="text/html", Content_Length=len(PAGE)),
        "did not send a weights file: the file is a web page",
    ),
    "odd page": (
        plain(b"oops" * 9, Content_Type="text/html"),
        "did not send a weights file: the file is a web page, perhaps an error mess",
    ),
    "page without a type": (plain(b"\n " + PAGE), "did not send a weights file: the file is a web page"),
    "JSON": (plain(b'{"message": "gone"}'), "did not send a weights file: the file is JSON text that says 'gone'"),
    "git-lfs": (
        plain(b"version https://git-lfs.github.com/spec/v1"),
        "did not send a weights file: the file is a git-LFS pointer",
    ),
    "empty": (plain(b"", Content_Length=0), "did not send a weights file: the file is empty"),
    "404": (plain(PAGE, 404), r"the server has no such file \(404 Not Found\)"),
    "403": (plain(PAGE, 403), r"denies access \(403 Forbidden\)"),
    "418": (plain(PAGE, 418), r"the server responded with 418 \(I'm a Teapot\) and sent no file"),
    "999": (plain(PAGE, 999), r"the server responded with 999 \(not an HTTP status\) and sent no file"),
    "204": (plain(b"", 204), r"the server responded with 204 \(No Content\) and sent no file"),
    "206 unasked": (plain(BODY, 206, Content_Range="bytes 0-100003/100004"), "the server responded with 206"),
    "416 unasked": (plain(b"", 416), "the server responded with 416"),
    "500 always": (
        plain(PAGE, 500),
        r"the server reports an error \(500 Internal Server Error\), 2 times\. Use --from URL",
    ),
    "gzip": (plain(BODY, Content_Encoding="gzip"), "the body is compressed, although"),
    "too long": (
        good(BODY * 13),
        r"has 1,300,052 bytes, but .* has 25,001 parameters, so between 25,001 and 1,248,584 b",
    ),
    "too short": (good(BODY[:9_000]), "the file has 9,000 bytes, but .* leads to a different file"),
    "endless": (plain(BODY * 20), "sends more than 1,248,584 bytes"),
    "no answer": (lambda _: None, "the server closed the connection without a response, 2 times"),
    "no HTTP": (_not_http, "the response is not HTTP"),
    "redirect to itself": (lambda request: redirect(request.path)(request), "redirects more than 10 times"),
    "redirect to a file": (
        redirect("file:///etc/passwd"),
        "the redirect is not followed: file:///etc/passwd: the address does not begin",
    ),
    "redirect to half an address": (redirect("http://[::1"), "the redirect is not followed: Invalid IPv6 URL"),
    "redirect to ftp": (redirect("ftp://localhost/x.pth"), "the redirect is not followed: ftp:"),
    "redirect to nowhere": (plain(b"", 302), "redirects without an address"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(server: Server, tmp_path: Path, case: str) -> None:
    reply, message = REFUSED[case]
    with pytest.raises(WeightsError, match=message) as error:
        get(server, tmp_path, reply)
    assert len(str(error.value).splitlines()) == 1
    assert server.url in str(error.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("case", ["page", "odd page", "404", "500 always", "redirect to a file", "gzip", "too long"])
def test_an_error_page_keeps_the_downloaded_part(server: Server, tmp_path: Path, case: str) -> None:
    leave_part(tmp_path, BODY[:60_000])
    with pytest.raises(WeightsError, match=REFUSED[case][1].replace(r", 2 times\. ", r", 2 times\. 60,000 .* ")):
        get(server, tmp_path, REFUSED[case][0])
    assert get(server, tmp_path, good()).resumed_from == 60_000
