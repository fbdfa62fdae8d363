"""Fill a partial file from a server; handle ranges, changed or truncated files, error pages and retries."""

from __future__ import annotations

import time
from collections.abc import Iterator

from segnets.catalog import Published
from segnets.errors import WeightsError
from segnets.web import CONTENT_RANGE, PAUSES, Answer, BrokenError, UnreachableError, get, redact_url, refuse_status
from weights_tools.fetching._bar import Bar
from weights_tools.fetching._partial import Partial, if_range
from weights_tools.reader.identify import HEAD_BYTES, identify

_MIRROR = "Use --from URL for a mirror."


def download(row: Published, url: str, part: Partial, bar: Bar, timeout: float) -> int:
    """Fill a partial file, starting at its current end.

    Args:
        row: The published file.
        url: The address, as `check_url` returned it.
        part: The partial file. After an error it keeps the bytes that arrived, except for bytes of a different file.
        bar: Progress bar.
        timeout: Seconds to wait for a connection, and for the next bytes.

    Returns:
        The number of reconnections.

    Raises:
        WeightsError: If the server lacks the file, sends a different one, or the connection breaks too often.
        OutputError: If the partial file can't be written.
    """
    size_before = part.size
    retries = 0
    while True:
        try:
            while not _attempt(row, url, part, bar, timeout):
                pass  # the partial file did not fit and was emptied: start from zero
            return retries
        except (BrokenError, UnreachableError) as error:
            never_connected = isinstance(error, UnreachableError) and part.size == size_before
            if never_connected or retries == len(PAUSES):
                tries = f", {retries + 1} times" if retries else ""
                raise WeightsError(f"{error}{tries}.{part.advice()} {_MIRROR}") from None
            bar.note(f"{error}; trying again in {PAUSES[retries]:g} s")
            time.sleep(PAUSES[retries])
            retries += 1


def _attempt(row: Published, url: str, part: Partial, bar: Bar, timeout: float) -> bool:
    """Send one request and store its body; return False if `part` did not match the server's file and was emptied."""
    validators = part.validators(redact_url(url)) if part.size else {}
    with get(url, _range_headers(part, validators), timeout=timeout) as answer:
        if part.size and not _fits(answer, part, validators):
            part.clear()
            return False
        if answer.status != (206 if part.size else 200) and answer.status != 200:
            raise refuse_status(answer)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise WeightsError(f"{answer.where}: the body is compressed, although the request excluded that. {_MIRROR}")
        blocks = answer.blocks()
        if answer.status == 200:  # the whole file; some servers ignore ranges
            total = answer.length
            head = _read_head(blocks, answer)
            _check_size(row, answer.where, total)
            part.begin(redact_url(url), answer.headers)
            part.write(head)
        else:
            total = _total_size(answer)
            _check_size(row, answer.where, total)
        bar.start(part.size, total)
        _copy(row, answer.where, blocks, part, bar)
    if total is not None and part.size < total:
        raise BrokenError(f"{answer.where}: the body ended after {part.size:,} of {total:,} bytes")
    return True


def _range_headers(part: Partial, validators: dict[str, str]) -> dict[str, str]:
    if not part.size:
        return {}
    version = if_range(validators)
    return {"Range": f"bytes={part.size}-", **({"If-Range": version} if version else {})}


def _fits(answer: Answer, part: Partial, validators: dict[str, str]) -> bool:
    """Return whether the response to a range request continues the partial file."""
    if answer.status == 416:  # the partial file is at least as long as the server's, with a different hash
        return False
    if answer.status != 206:
        return True  # the whole file, or an error
    found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    # Compared here too, because some servers ignore If-Range.
    same = all(answer.headers.get(name, known) == known for name, known in validators.items())
    return found is not None and int(found[1]) == part.size and same


def _total_size(answer: Answer) -> int:
    """Return the size of the whole file, from a partial response."""
    found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    assert found is not None, "_fits has checked it"
    return int(found[2]) + 1 if found[3] == "*" else int(found[3])


def _read_head(blocks: Iterator[bytes], answer: Answer) -> bytes:
    """Return the first bytes of the body; raise WeightsError unless they begin a weights file."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= HEAD_BYTES:
            break
    if not head and answer.length:
        raise BrokenError(f"{answer.where}: the body ended after 0 of {answer.length:,} bytes")
    kind = identify(head[:HEAD_BYTES], len(head) if answer.length is None else answer.length)
    if not kind.startswith("the "):
        return head
    if "html" in answer.headers.get("Content-Type", "").lower():
        kind = "the file is a web page, perhaps an error message or a login form"
    raise WeightsError(f"{answer.where}: the server did not send a weights file: {kind}")


def _bounds(row: Published) -> tuple[int, int]:
    """Return the smallest and largest plausible size in bytes: 1 to 8 per parameter, plus 1 MiB for the rest."""
    return row.num_params, row.num_params * 8 + (1 << 20)


def _check_size(row: Published, where: str, total: int | None) -> None:
    fewest, most = _bounds(row)
    if total is not None and not fewest <= total <= most:
        raise WeightsError(
            f"{where}: the file has {total:,} bytes, but {row.file} has {row.num_params:,} parameters, so between "
            f"{fewest:,} and {most:,} bytes: the address leads to a different file"
        )


def _copy(row: Published, where: str, blocks: Iterator[bytes], part: Partial, bar: Bar) -> None:
    _, most = _bounds(row)
    for block in blocks:
        if part.size + len(block) > most:  # the server did not send a size
            part.clear()
            raise WeightsError(f"{where}: the server sends more than {most:,} bytes, the limit for {row.file}")
        part.write(block)
        bar.show(part.size)
