"""Send one GET request over HTTP with urllib3.

Downloads of weights and shards on servers share it. Redirects are followed here and not by urllib3, so that every
address is checked before it is requested. Connections are kept open and reused, by all threads of a process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import ssl
import string
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPException, RemoteDisconnected
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError, ProxyError, ReadTimeoutError

from segnets.console import escape_controls
from segnets.errors import DataError, WeightsError

REDIRECTS = 10
BLOCK = 1 << 18  # bytes asked for at a time; a read returns what has arrived
TIMEOUT = 30.0  # seconds without data
_SLOWEST = 100  # bytes a second; a server that sends less keeps a process waiting for hours
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each retry
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_CONNECTIONS = 16  # kept open per server
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_REFUSED = {
    401: "the server asks for a password (401). Check the address.",
    403: "the server denies access (403 Forbidden). Check the address.",
    404: "the server has no such file (404 Not Found). Check the address.",
    410: "the server no longer has the file (410 Gone)",
}


class WebError(WeightsError, DataError):
    """An address that can't be read. Weights and data sets both accept addresses, so this derives from both errors."""


class UnreachableError(WebError):
    """A server that can't be reached."""


class BrokenError(WebError):
    """A connection that broke or stalled, or a busy server. A retry may succeed."""


class Answer:
    """A server's response, with its body still to be read.

    Attributes:
        where: The address, as shown in messages.
        url: Address of the response, after redirects.
        status: HTTP status code, never a redirect.
        headers: Response headers; names are case-insensitive.
        length: Size of the body in bytes, or None if the server does not state it.
    """

    def __init__(self, where: str, url: str, response: urllib3.BaseHTTPResponse, timeout: float) -> None:
        self.where, self.url = where, url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.length = response.length_remaining
        self._response = response
        self._timeout = timeout

    def blocks(self) -> Iterator[bytes]:
        """Yield the body as it arrives.

        The body ends early, without an error, if the server closes the connection before `length` bytes.

        Raises:
            BrokenError: If the connection is reset, or (almost) nothing arrives for the length of the timeout.
        """
        began, count = time.monotonic(), 0
        while True:
            try:
                # read1, because read waits for a whole block: a timeout would lose the part that had arrived.
                block = self._response.read1(BLOCK, decode_content=False)
            except HTTPError as error:
                raise _explain(self.where, error, self._timeout) from None
            if not block:
                return
            count += len(block)
            if time.monotonic() - began > self._timeout:
                if count < _SLOWEST * self._timeout:
                    raise BrokenError(f"{self.where}: only {count:,} bytes arrived in {self._timeout:g} seconds")
                began, count = time.monotonic(), 0
            yield block


def check_url(url: str) -> str:
    """Return an http or https address, quoted as it is sent.

    Raises:
        WebError: If `url` is any other address, or holds a user name or password.
    """
    if not url.isprintable():
        raise WebError(f"{redact_url(url)[:80]!r}: the address has unprintable characters")
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise WebError(f"{redact_url(url)[:80]!r}: the address is invalid ({error})") from None
    if scheme not in ("http", "https") or not host:
        raise WebError(f"{redact_url(url)[:200]}: the address does not begin with https:// or http://")
    if "@" in parts.netloc:
        raise WebError(f"{redact_url(url)}: a user name or password in the address is not supported")
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return urlunsplit(parts._replace(path=path, query=query, fragment=""))


def redact_url(url: str) -> str:
    """Return the address for messages, without user and query, which may be secret."""
    return re.sub(r"(?<=//)[^/?#]*@", "", re.split("[?#]", url, maxsplit=1)[0])


@contextlib.contextmanager
def get(url: str, headers: Mapping[str, str], *, timeout: float, login: str = "") -> Iterator[Answer]:
    """Request an address and follow at most REDIRECTS redirects.

    Args:
        url: An address that `check_url` returned.
        headers: Request headers, in addition to the usual ones.
        timeout: Seconds to wait for a connection, and for the next bytes.
        login: Value of the header Authorization, or "". Only the server of `url` receives it, not those of redirects.

    Yields:
        The response, with any status but a redirect.

    Raises:
        UnreachableError: If no connection can be made.
        BrokenError: If the connection breaks or stalls before the response begins.
        WebError: If a redirect must not be followed.
    """
    where, server = redact_url(url), urlsplit(url)[:2]
    for _ in range(REDIRECTS + 1):
        sent = {**headers, "Authorization": login} if login and urlsplit(url)[:2] == server else headers
        response = _request(url, sent, timeout)
        location = response.get_redirect_location()
        if location is False:
            break
        response.close()
        url = next_url(url, location)
    else:
        raise WebError(
            f"{where}: the server redirects more than {REDIRECTS} times, perhaps in a loop. Check the address."
        )
    with contextlib.closing(response):
        yield Answer(where, url, response, timeout)


def refuse_status(answer: Answer) -> WebError:
    """Return the error for a response without a file: BrokenError if a retry may succeed."""
    status = answer.status
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "not an HTTP status"
    if status in _TRANSIENT:
        return BrokenError(f"{answer.where}: the server reports an error ({status} {phrase})")
    reason = _REFUSED.get(status, f"the server responded with {status} ({phrase}) and sent no file")
    return WebError(f"{answer.where}: {reason}")


def next_url(url: str, location: str | None) -> str:
    """Return the target address of a redirect from `url`.

    Raises:
        WebError: If the redirect must not be followed.
    """
    if not location:
        raise WebError(f"{redact_url(url)}: the server redirects without an address")
    try:
        # Header bytes are decoded as latin-1; quoting with the same encoding restores them.
        target = check_url(urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1")))
    except ValueError as error:  # WebError, or what urljoin raises
        raise WebError(f"{redact_url(url)}: the redirect is not followed: {error}") from None
    if url.startswith("https:") and not target.startswith("https:"):
        raise WebError(f"{redact_url(url)}: the server redirects from https to {redact_url(target)}, which is unsafe")
    return target


def _request(url: str, headers: Mapping[str, str], timeout: float) -> urllib3.BaseHTTPResponse:
    # identity: a download could not resume inside a compressed body
    sent = {"User-Agent": "segnets", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    try:
        return _manager(url).request(
            "GET",
            url,
            headers=sent,
            timeout=timeout,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            enforce_content_length=False,  # the caller keeps what arrived, and compares
        )
    except (HTTPError, ValueError) as error:
        raise _explain(redact_url(url), error, timeout) from None


def _manager(url: str) -> urllib3.PoolManager:
    """Return the pool manager for an address: direct, or through the proxy from the environment."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    return _pools("" if not proxy or proxy_bypass(parts.netloc) else proxy, os.getpid())


@functools.lru_cache(maxsize=8)
def _pools(proxy: str, _process: int) -> urllib3.PoolManager:
    """Return the connections through a proxy, or direct ones. A forked process must not use its parent's."""
    if not proxy:
        return urllib3.PoolManager(maxsize=_CONNECTIONS)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    login = urllib3.util.parse_url(proxy).auth
    if login:
        login = unquote(login, encoding="latin-1")  # make_headers encodes latin-1, which restores the bytes
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=_CONNECTIONS)


def _explain(where: str, error: Exception, timeout: float) -> WebError:
    """Convert an urllib3 error to ours, depending on whether a connection had been made."""
    kind = BrokenError if isinstance(error, ProtocolError | ReadTimeoutError) else UnreachableError
    reason = next((cause for cause in (error.__cause__, *reversed(error.args)) if isinstance(cause, Exception)), error)
    if isinstance(error, ReadTimeoutError) or isinstance(reason, TimeoutError):
        return kind(f"{where}: no data arrived for {timeout:g} seconds")
    if isinstance(error, ProxyError):
        return kind(f"{where}: the proxy set in the environment can't be used ({_printable(reason)})")
    if isinstance(reason, socket.gaierror):
        host = urlsplit(where).hostname
        return kind(f"{where}: the server can't be reached: the name {host} is unknown (no network?)")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return kind(f"{where}: the server's certificate is not trusted ({reason.verify_message})")
    if isinstance(reason, RemoteDisconnected):  # also a ConnectionResetError, so test it first
        return kind(f"{where}: the server closed the connection without a response")
    if isinstance(reason, ConnectionRefusedError):
        return kind(f"{where}: the server can't be reached: the connection was refused")
    if isinstance(reason, ConnectionError):
        return kind(f"{where}: the connection broke ({reason.strerror or type(reason).__name__})")
    if isinstance(reason, HTTPException):
        return kind(f"{where}: the response is not HTTP ({type(reason).__name__}: '{_printable(reason)}')")
    return kind(f"{where}: the server can't be reached ({_printable(reason)})")


def _printable(error: Exception) -> str:
    """Return a shortened, printable form of an error's text, which a server may have written."""
    text = escape_controls(str(error).strip()).replace("\n", "\\n")
    return text if len(text) <= 80 else f"{text[:77]}..."
