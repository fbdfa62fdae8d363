"""One GET over HTTP with the standard library: addresses, redirects, timeouts, and errors in plain words.

`urllib` follows redirects to where it likes and turns statuses into exceptions; here a request goes through an opener
that knows http and https only, and every hop is looked at before it is taken.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from segnets.errors import WeightsError
from weights_tools._text import printable

REDIRECTS = 10
BLOCK = 1 << 18  # bytes asked for at a time; a read returns what has come
_REDIRECTING = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_REFUSED = {
    401: "the server wants a password (401); it may be the wrong address",
    403: "the server refuses to give it (403 Forbidden); it may be the wrong address",
    404: "the server has no such file (404 Not Found); check the address",
    410: "the server no longer has the file (410 Gone)",
}


class UnreachableError(WeightsError):
    """No connection came about."""


class BrokenError(WeightsError):
    """The connection broke or stalled, or the server was busy: the next try may work."""


@dataclass(frozen=True)
class Answer:
    """A server's answer with its body still to come.

    length: how many bytes the body has, or None if the server doesn't say. where: what messages call the address.
    """

    where: str
    status: int
    headers: Message
    length: int | None
    _response: HTTPResponse
    _timeout: float

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes in. It ends early, without an error, if the server closes the connection early.

        Raises BrokenError if the connection is reset, or if nothing comes for the length of the timeout.
        """
        while True:
            try:
                # read1, because read waits for a whole block and a timeout would lose what had come of it
                block = self._response.read1(BLOCK)
            except IncompleteRead:
                return
            except (OSError, HTTPException) as error:
                raise _explained(self.where, error, self._timeout) from None
            if not block:
                return
            yield block


def check_url(url: str) -> str:
    """Return an http(s) address in the form in which it is sent. Raises WeightsError for any other."""
    if not url.isprintable():
        raise WeightsError(f"{url[:80]!r}: is no address; it holds characters that can't be printed")
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise WeightsError(f"{url[:80]!r}: is no address ({error})") from None
    if scheme not in ("http", "https") or not host:
        raise WeightsError(f"{url[:200]}: only addresses that begin with https:// or http:// are fetched")
    if "@" in parts.netloc:
        raise WeightsError(f"{shown_url(url)}: a user name or password in the address is not supported")
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return urlunsplit(parts._replace(path=path, query=query, fragment=""))


def shown_url(url: str) -> str:
    """The address for a message: without the query and the user, where secrets stand."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextlib.contextmanager
def get(url: str, headers: Mapping[str, str], *, timeout: float) -> Iterator[Answer]:
    """Ask for an address that `check_url` returned, and follow at most REDIRECTS redirects.

    timeout: seconds to connect, and to wait for the next bytes. The answer may have any status but a redirect.

    Raises UnreachableError or BrokenError, and WeightsError for redirects that are not followed.
    """
    where = shown_url(url)
    for _ in range(REDIRECTS + 1):
        response = _open(url, headers, timeout)
        if response.status not in _REDIRECTING:
            break
        response.close()
        url = next_url(url, response.headers.get("Location"))
    else:
        raise WeightsError(f"{where}: redirects more than {REDIRECTS} times, in a circle perhaps; check the address")
    with contextlib.closing(response):
        yield Answer(where, response.status, response.headers, response.length, response, timeout)


def refuse_status(answer: Answer) -> WeightsError:
    """The error for an answer that brings no file: BrokenError if another try may help."""
    status = answer.status
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown to HTTP"
    if status in _MAY_PASS:
        return BrokenError(f"{answer.where}: the server has trouble ({status} {phrase})")
    return WeightsError(f"{answer.where}: {_REFUSED.get(status, f'the server answers {status} ({phrase}), no file')}")


def next_url(url: str, location: str | None) -> str:
    """Where a redirect from `url` leads. Raises WeightsError where it should not be followed."""
    if not location:
        raise WeightsError(f"{shown_url(url)}: redirects, and does not say where to")
    try:
        # Header bytes come as latin-1; quoted so, they are sent back as they came.
        target = check_url(urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1")))
    except WeightsError as error:
        raise WeightsError(f"{shown_url(url)}: redirects to what is not followed: {error}") from None
    if url.startswith("https:") and not target.startswith("https:"):
        raise WeightsError(f"{shown_url(url)}: redirects from https to {shown_url(target)}, which is not safe; refused")
    return target


def _open(url: str, headers: Mapping[str, str], timeout: float) -> HTTPResponse:
    opener = OpenerDirector()  # build_opener would add file:, ftp: and data:
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    opener.addheaders = []
    # identity: a compressed body could not be resumed
    sent = {"User-Agent": "weights-tools", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    try:
        response = opener.open(Request(url, headers=sent), timeout=timeout)
    except (OSError, HTTPException, ValueError) as error:
        raise _explained(shown_url(url), error, timeout) from None
    if response is None:  # nobody feels responsible
        raise UnreachableError(f"{shown_url(url)}: the proxy that the environment names is no http proxy")
    assert isinstance(response, HTTPResponse)
    return response


def _explained(where: str, error: Exception, timeout: float) -> WeightsError:
    """What went wrong, and whether it was before or after a connection came about."""
    kind: type[WeightsError] = UnreachableError if isinstance(error, URLError) else BrokenError
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return kind(f"{where}: nothing came for {timeout:g} seconds")
    if isinstance(reason, socket.gaierror):
        host = urlsplit(where).hostname
        return UnreachableError(f"{where}: can't be reached: the name {host} is not known here (no network?)")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return UnreachableError(f"{where}: the server's certificate is not trusted ({reason.verify_message})")
    if isinstance(reason, RemoteDisconnected):  # before the others: it is a ConnectionResetError, too
        return BrokenError(f"{where}: the server closed the connection without an answer")
    if isinstance(reason, ConnectionRefusedError):
        return UnreachableError(f"{where}: can't be reached: nothing answers there (connection refused)")
    if isinstance(reason, ConnectionError):
        return kind(f"{where}: the connection broke ({reason.strerror or type(reason).__name__})")
    if isinstance(reason, HTTPException):
        return BrokenError(
            f"{where}: the answer is not HTTP ({type(reason).__name__}: {printable(str(reason).strip())})"
        )
    return kind(f"{where}: can't be reached ({printable(str(reason), quote=False)})")
