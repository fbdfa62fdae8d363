"""Filling a partial file: ranges, changed and cut-off files, bodies that are no weights, a few tries."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from segnets.catalog import Published
from segnets.errors import WeightsError
from weights_tools.fetching.bar import Bar
from weights_tools.fetching.partial import Partial, if_range
from weights_tools.fetching.web import Answer, BrokenError, UnreachableError, get, refuse_status, shown_url
from weights_tools.reader.identify import HEAD_BYTES, identify

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before another try; after that the user decides
MIRROR = "--from URL takes it from a mirror"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def download(row: Published, url: str, part: Partial, bar: Bar, timeout: float) -> int:
    """Fill `part`, from where it ends. Returns how often the connection broke and was made again.

    Raises WeightsError if the server has no such file, sends something else, or breaks off too often, and OutputError
    if the file can't be written. What had come by then stays in `part`, except for bytes of another file.
    """
    here_before = part.size
    retries = 0
    while True:
        try:
            while not _attempt(row, url, part, bar, timeout):
                pass  # what lay there was dropped; once more, from zero
            return retries
        except (BrokenError, UnreachableError) as error:
            never_connected = isinstance(error, UnreachableError) and part.size == here_before
            if never_connected or retries == len(PAUSES):
                tries = f", {retries + 1} times" if retries else ""
                raise WeightsError(f"{error}{tries}{part.advice()}; {MIRROR}") from None
            bar.note(f"{error}; trying again in {PAUSES[retries]:g} s")
            time.sleep(PAUSES[retries])
            retries += 1


def _attempt(row: Published, url: str, part: Partial, bar: Bar, timeout: float) -> bool:
    """One request. Returns False if what lay in `part` does not fit the server's file, and was dropped."""
    validators = part.validators(shown_url(url)) if part.size else {}
    with get(url, _range_headers(part, validators), timeout=timeout) as answer:
        if part.size and not _fits(answer, part, validators):
            part.clear()
            return False
        if answer.status != (206 if part.size else 200) and answer.status != 200:
            raise refuse_status(answer)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise WeightsError(f"{answer.where}: the server sends it compressed, which it was asked not to; {MIRROR}")
        blocks = answer.blocks()
        if answer.status == 200:  # from zero, also where the server doesn't know ranges
            total = answer.length
            head = _first_bytes(blocks, answer)
            _check_size(row, answer.where, total)
            part.begin(shown_url(url), answer.headers)
            part.write(head)
        else:
            total = _total(answer)
            _check_size(row, answer.where, total)
        bar.start(part.size, total)
        _copy(row, answer.where, blocks, part, bar)
    if total is not None and part.size < total:
        raise BrokenError(f"{answer.where}: ended after {part.size:,} of {total:,} bytes")
    return True


def _range_headers(part: Partial, validators: dict[str, str]) -> dict[str, str]:
    if not part.size:
        return {}
    version = if_range(validators)
    return {"Range": f"bytes={part.size}-", **({"If-Range": version} if version else {})}


def _fits(answer: Answer, part: Partial, validators: dict[str, str]) -> bool:
    """Whether the answer to a request for the rest can go on from what is there."""
    if answer.status == 416:  # no rest: what is here is as long as the server's file, or longer, and not right
        return False
    if answer.status != 206:
        return True  # the whole file, or an error
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    # A server may take If-Range lightly.
    same = all(answer.headers.get(name, known) == known for name, known in validators.items())
    return found is not None and int(found[1]) == part.size and same


def _total(answer: Answer) -> int | None:
    """The size of the whole file, of whose end `answer` brings a part."""
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    assert found is not None, "_fits looked"
    return int(found[2]) + 1 if found[3] == "*" else int(found[3])


def _first_bytes(blocks: Iterator[bytes], answer: Answer) -> bytes:
    """The beginning of a body. Raises WeightsError if it is none of a weights file, an error page say."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= HEAD_BYTES:
            break
    if not head and answer.length:
        raise BrokenError(f"{answer.where}: ended after 0 of {answer.length:,} bytes")
    kind = identify(head[:HEAD_BYTES], len(head) if answer.length is None else answer.length)
    if not kind.startswith("it "):
        return head
    if "html" in answer.headers.get_content_type():
        kind = "it is a web page, an error message or a login perhaps"
    raise WeightsError(f"{answer.where}: what the server sends is no weights file: {kind}")


def _bounds(row: Published) -> tuple[int, int]:
    """The fewest and the most bytes that such a file can have: numbers of 2 or 4 bytes, and room on both sides."""
    return row.num_params, row.num_params * 8 + (1 << 20)


def _check_size(row: Published, where: str, total: int | None) -> None:
    fewest, most = _bounds(row)
    if total is not None and not fewest <= total <= most:
        raise WeightsError(
            f"{where}: has {total:,} bytes; {row.file} has {row.num_params:,} parameters, so between {fewest:,} and "
            f"{most:,} bytes; it is another file"
        )


def _copy(row: Published, where: str, blocks: Iterator[bytes], part: Partial, bar: Bar) -> None:
    _, most = _bounds(row)
    for block in blocks:
        if part.size + len(block) > most:  # a server that doesn't say how much comes
            part.clear()
            raise WeightsError(f"{where}: sends more than {most:,} bytes, the most that {row.file} can have; refused")
        part.write(block)
        bar.show(part.size)
