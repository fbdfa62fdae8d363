"""`fetch` against a local server that replies correctly, slowly, partly or not at all."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from segnets import catalog
from segnets.errors import OutputError, WeightsError
from tests.output_paths import LINK, REFUSED, state_of
from tests.weights_tools.server import (
    BODY,
    DIGEST,
    OTHER,
    ROW,
    Reply,
    Request,
    Server,
    check_fetched,
    cut,
    get,
    good,
    leave_part,
    names,
    part_of,
    plain,
    redirect,
    reset,
    row_for,
    stalled,
)
from weights_tools.fetching._partial import if_range


def test_a_file_is_fetched(server: Server, tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        report = get(server, tmp_path, good())
    finally:
        os.umask(previous)
    check_fetched(report, tmp_path)
    assert stat.S_IMODE((tmp_path / ROW.file).stat().st_mode) == 0o640
    assert (report.already_there, report.resumed_from, report.retries, report.known_digits) == (False, 0, 0, 8)
    [(path, headers)] = server.seen
    assert path == f"/{ROW.file}"
    assert (headers["Accept-Encoding"], headers["Range"]) == ("identity", None)
    assert json.loads(json.dumps(report.to_json()))["url"] == f"{server.url}/{ROW.file}"
    assert "correct in the 8 published digits" in str(report)


def test_an_existing_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / ROW.file).write_bytes(BODY)
    for overwrite in (False, True):
        report = get(server, tmp_path, good(), overwrite=overwrite)
        check_fetched(report, tmp_path)
        assert report.already_there
        assert "existed already" in str(report)
    assert server.seen == []


def test_a_link_to_the_right_file_is_accepted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(BODY)
    (tmp_path / ROW.file).symlink_to("store")
    assert get(server, tmp_path, good()).already_there
    assert server.seen == []


def test_another_file_with_that_name_is_only_replaced_on_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / ROW.file).write_bytes(b"mine")
    with pytest.raises(WeightsError, match=rf"is not the published one: its sha256 is \w{{64}}, not {DIGEST[:8]}.*--f"):
        get(server, tmp_path, good())
    assert (server.seen, (tmp_path / ROW.file).read_bytes()) == ([], b"mine")
    check_fetched(get(server, tmp_path, good(), overwrite=True), tmp_path)


def test_a_file_created_by_another_process_meanwhile_is_kept(server: Server, tmp_path: Path) -> None:
    def meanwhile(request: Request) -> None:
        (tmp_path / ROW.file).write_bytes(b"theirs")
        good()(request)

    with pytest.raises(OutputError, match="exists already"):
        get(server, tmp_path, meanwhile)
    assert (tmp_path / ROW.file).read_bytes() == b"theirs"


@pytest.mark.parametrize("suffix", ["", ".part", ".part.json"])
def test_links_are_never_replaced(server: Server, tmp_path: Path, suffix: str) -> None:
    REFUSED["link"][0](tmp_path / f"{ROW.file}{suffix}")
    before = state_of(tmp_path)
    with pytest.raises(OutputError, match=LINK):
        get(server, tmp_path, good(), overwrite=True)
    if suffix != ".part.json":  # else the download itself leaves or deletes its record
        assert state_of(tmp_path) == before
    assert state_of(tmp_path)["real"] == before["real"]


def test_a_folder_is_never_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / ROW.file).mkdir()
    with pytest.raises(OutputError, match="is a folder; pass a file in it"):
        get(server, tmp_path, good(), overwrite=True)


@pytest.mark.parametrize(
    "breaks", [cut(60_000), cut(0), reset(60_000), stalled(60_000), plain(b"", 503), plain(b"", 500)]
)
def test_a_broken_connection_is_retried(server: Server, tmp_path: Path, breaks: Reply) -> None:
    report = get(server, tmp_path, breaks, good(), timeout=0.5)
    check_fetched(report, tmp_path)
    assert (report.retries, report.resumed_from) == (1, 0)
    assert "1 more try" in str(report)


def test_a_truncated_file_is_kept_and_resumed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"the body ended after 60,000 of 100,004 bytes, 2 times\. 60,000 bytes are kept in .*"
    ):
        get(server, tmp_path, cut(60_000, ETag='"a"'))
    assert part_of(tmp_path) == BODY[:60_000]
    report = get(server, tmp_path, good(ETag='"a"'))
    check_fetched(report, tmp_path)
    assert report.resumed_from == 60_000
    assert (server.seen[-1][1]["Range"], server.seen[-1][1]["If-Range"]) == ("bytes=60000-", '"a"')


def test_a_stalled_server_times_out(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no data arrived for 0\.3 seconds, 2 times\. 60,000 bytes are kept"):
        get(server, tmp_path, stalled(60_000), timeout=0.3)
    assert part_of(tmp_path) == BODY[:60_000]


def test_a_slow_server_does_not_time_out(server: Server, tmp_path: Path) -> None:
    """Pause repeatedly: each pause is shorter than the timeout, their sum is longer."""

    def slow(request: Request) -> None:
        request.start(200, Content_Length=len(BODY))
        for start in range(0, len(BODY), 10_001):
            request.wfile.write(BODY[start : start + 10_001])
            request.server.released.wait(0.1)

    report = get(server, tmp_path, slow, timeout=0.9)
    check_fetched(report, tmp_path)
    assert report.retries == 0


def test_a_server_without_ranges_restarts(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY[:60_000])
    report = get(server, tmp_path, plain(BODY, Content_Length=len(BODY)))
    check_fetched(report, tmp_path)
    assert (server.ranges(), report.resumed_from) == (["bytes=60000-"], 0)


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_file_that_changed_on_the_server_is_restarted(server: Server, tmp_path: Path, header: str) -> None:
    old, new = ('"old"', '"new"') if header == "ETag" else ("Mon, 01 Jan 2024 00:00:00 GMT",) * 2
    new = new.replace("Mon, 01", "Tue, 02")
    leave_part(tmp_path, OTHER[:60_000], url=f"{server.url}/{ROW.file}", **{header: old})
    report = get(server, tmp_path, good(BODY, **{header.replace("-", "_"): new}))
    check_fetched(report, tmp_path)
    assert server.seen[0][1]["If-Range"] == old
    assert (len(server.seen), report.resumed_from) == (1, 0)


def test_a_changed_file_is_detected_if_the_server_ignores_if_range(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, OTHER[:60_000], url=f"{server.url}/{ROW.file}", ETag='"old"')

    place = "bytes 60000-100003/100004"
    careless = plain(BODY[60_000:70_000], 206, Content_Range=place, Content_Length=40_004, ETag='"new"')
    check_fetched(get(server, tmp_path, careless, good(ETag='"new"')), tmp_path)
    assert server.ranges() == ["bytes=60000-", None]


@pytest.mark.parametrize("note", [{}, {"url": "http://elsewhere/x", "ETag": '"a"'}])
def test_a_part_of_unknown_origin_is_resumed_and_hashed(server: Server, tmp_path: Path, note: dict[str, str]) -> None:
    leave_part(tmp_path, BODY[:60_000], **note)
    assert get(server, tmp_path, good(ETag='"b"')).resumed_from == 60_000
    (tmp_path / ROW.file).unlink()
    leave_part(tmp_path, OTHER[:60_000], **note)
    report = get(server, tmp_path, good(ETag='"b"'))
    check_fetched(report, tmp_path)
    assert report.resumed_from == 0
    assert server.ranges() == ["bytes=60000-", "bytes=60000-", None]
    assert {headers["If-Range"] for _, headers in server.seen} == {None}


@pytest.mark.parametrize(
    "note", ["", "[1]", "{", '{"url": 3}', '{"url": "U", "ETag": "\\"a\\r\\nX: 1\\""}', "[" * 100_000]
)
def test_a_damaged_note_is_ignored(server: Server, tmp_path: Path, note: str) -> None:
    leave_part(tmp_path, BODY[:60_000])
    (tmp_path / f"{ROW.file}.part.json").write_text(note.replace("U", f"{server.url}/{ROW.file}"))
    assert get(server, tmp_path, good()).resumed_from == 60_000


def test_weak_etags_promise_nothing() -> None:
    assert if_range({"ETag": 'W/"a"'}) is None
    assert if_range({"ETag": 'W/"a"', "Last-Modified": "then"}) == "then"


@pytest.mark.parametrize("left", [len(BODY), len(BODY) + 5])
def test_a_part_that_is_too_long_is_restarted(server: Server, tmp_path: Path, left: int) -> None:
    leave_part(tmp_path, (OTHER + OTHER)[:left])
    check_fetched(get(server, tmp_path, good()), tmp_path)
    assert server.ranges() == [f"bytes={left}-", None]


def test_a_complete_part_needs_no_server(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY)
    check_fetched(get(server, tmp_path, good()), tmp_path)
    assert server.seen == []


@pytest.mark.parametrize("place", ["bytes 50000-100003/100004", "bytes 60000-", "", "items 1-2/3"])
def test_another_range_than_requested(server: Server, tmp_path: Path, place: str) -> None:
    leave_part(tmp_path, BODY[:60_000])
    check_fetched(get(server, tmp_path, plain(BODY[60_000:], 206, Content_Range=place), good()), tmp_path)
    assert server.ranges() == ["bytes=60000-", None]


def test_a_server_that_gives_less_of_the_range(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY[:60_000])
    some = plain(BODY[60_000:70_000], 206, Content_Range="bytes 60000-69999/100004", Content_Length=10_000)
    check_fetched(get(server, tmp_path, some, good()), tmp_path)
    assert server.ranges() == ["bytes=60000-", "bytes=70000-"]


def test_a_wrong_hash_after_a_resume_is_retried_once(server: Server, tmp_path: Path) -> None:
    """Resume from a server that has another version of the file."""
    check_fetched(get(server, tmp_path, cut(60_000), good(OTHER), good()), tmp_path)
    assert server.ranges() == [None, "bytes=60000-", None]


def test_chunks_and_unknown_lengths(server: Server, tmp_path: Path) -> None:
    def chunked(request: Request, end: bytes = b"0\r\n\r\n") -> None:
        request.protocol_version = "HTTP/1.1"
        request.start(200, Transfer_Encoding="chunked")
        for start in range(0, len(BODY), 30_000):
            block = BODY[start : start + 30_000]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        request.wfile.write(end)

    check_fetched(get(server, tmp_path, chunked), tmp_path)
    (tmp_path / ROW.file).unlink()
    check_fetched(get(server, tmp_path, plain(BODY)), tmp_path)
    (tmp_path / ROW.file).unlink()
    with pytest.raises(
        WeightsError, match=r"its sha256 is .* Nothing was kept"
    ):  # without a size, truncation shows only in the hash
        get(server, tmp_path, plain(BODY[:60_000]))
    assert names(tmp_path) == []


def test_redirects_are_followed_with_the_range(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY[:60_000])
    report = get(server, tmp_path, redirect("/other place/ä?key=secret", 307), redirect(f"{server.url}/x", 301), good())
    check_fetched(report, tmp_path)
    assert [path for path, _ in server.seen] == [f"/{ROW.file}", "/other%20place/%E4?key=secret", "/x"]
    assert server.ranges() == ["bytes=60000-"] * 3


def test_the_whole_digest_is_compared_if_it_is_known(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "CATALOG", (row_for(BODY, whole=True),))
    assert get(server, tmp_path, good()).known_digits == 64
    (tmp_path / ROW.file).unlink()
    wrong = DIGEST[:8] + "0" * 56
    monkeypatch.setattr(catalog, "CATALOG", (replace(ROW, sha256=wrong),))
    with pytest.raises(WeightsError, match=rf"its sha256 is {DIGEST}, not {wrong}\. Nothing was kept"):
        get(server, tmp_path, good())
    assert names(tmp_path) == []
