"""The command `fetch`: one line per failure; kills, full disks and other processes lose no downloaded bytes."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segnets
from segnets import catalog
from segnets.registry import build
from tests.test_files import in_a_small_file_system
from tests.tiers import full_but
from tests.weights_tools.server import (
    BODY,
    DIGEST,
    ROW,
    Request,
    Server,
    check_fetched,
    cut,
    get,
    good,
    plain,
    row_for,
    stalled,
)
from weights_tools import FetchReport, fetch
from weights_tools.cli import main
from weights_tools.fetching._bar import Bar

ROOT = Path(__file__).parents[2]
COMMAND = """
import signal, sys
from segnets import catalog
from tests.weights_tools.server import ROW
from weights_tools.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start its background jobs without it
catalog.CATALOG = (ROW,)
sys.exit(main(["fetch", "fcn_resnet50", *sys.argv[1:]]))
"""


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore SIGTERM: a command handles it for its process, which here is pytest."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def started(server: Server, folder: Path) -> subprocess.Popen[str]:
    """Start a process that has 60,000 bytes of the file and waits for the rest."""
    server.script[:] = [stalled(60_000)]
    command = [sys.executable, "-c", COMMAND, "--from", server.url, "--to", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = folder / f"{ROW.file}.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size == 60_000):
        time.sleep(0.01)
    return process


def test_a_killed_process_loses_nothing(server: Server, tmp_path: Path) -> None:
    with started(server, tmp_path) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    report = get(server, tmp_path, good())
    check_fetched(report, tmp_path)
    assert report.resumed_from == 60_000


@pytest.mark.parametrize("number", full_but([signal.SIGINT], [signal.SIGINT, signal.SIGTERM]))
def test_an_interrupted_process_prints_how_to_resume(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    with started(server, tmp_path) as process:
        process.send_signal(number)
        out, complaint = process.communicate()
    assert (process.returncode, out) == (130, "")
    part = tmp_path / f"{ROW.file}.part"
    assert complaint == (f"weights-tools: interrupted. 60,000 bytes are kept in {part}. Repeat the call to resume.\n")
    assert get(server, tmp_path, good()).resumed_from == 60_000


FULL = """
import os, sys
from pathlib import Path
from segnets import catalog
from tests.weights_tools.server import ROW
from weights_tools.cli import main
catalog.CATALOG = (ROW,)
disk = Path(sys.argv[1])
def run():
    print("exit", main(["fetch", "fcn_resnet50", "--from", sys.argv[2], "--to", str(disk)]), flush=True)
    print("left", *sorted(os.listdir(disk)), flush=True)
with open(disk / "filler", "wb", buffering=0) as filler:
    filler.write(bytes((1 << 20) - 65536))
run()
(disk / "filler").unlink()
run()
(disk / ROW.file).unlink()
os.system(f"mount -o remount,ro '{disk}'")
run()
"""


def test_a_full_disk_and_one_that_is_read_only(server: Server, tmp_path: Path) -> None:
    probe = subprocess.run([*in_a_small_file_system("true"), str(tmp_path)], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("this system does not let us mount a small file system")
    server.script[:] = [good()]
    command = [*in_a_small_file_system('"$2" -c "$3" "$1" "$4" 2>&1'), str(tmp_path), sys.executable, FULL, server.url]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert "the disk is full; free some space" in lines[0], lines
    assert "bytes are kept in" in lines[0]
    assert lines[1:3] == ["exit 1", f"left {ROW.file}.part {ROW.file}.part.json filler"]
    end = lines.index("exit 0")
    assert ", resumed after " in "".join(lines[3:end])
    assert lines[end + 1] == f"left {ROW.file}"
    assert "the file system is read-only; choose another location" in lines[end + 2]
    assert lines[end + 3 :] == ["exit 1", "left"]


def both(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[FetchReport | Exception]:
    """Return the outcomes of two calls; the second begins during the first one's download."""
    outcomes: dict[int, FetchReport | Exception] = {}

    def note(_: Bar, text: str) -> None:
        if "waiting" in text:  # so says the second call
            server.released.set()

    monkeypatch.setattr(Bar, "note", note)

    def call(number: int) -> None:
        try:
            outcomes[number] = fetch("fcn_resnet50", url=server.url, folder=folder)
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    threads[0].start()
    while not server.seen:
        time.sleep(0.01)
    threads[1].start()
    for thread in threads:
        thread.join()
    return [outcomes[0], outcomes[1]]


def test_a_second_process_waits_for_the_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.script[:] = [stalled(60_000)]
    first, second = both(server, tmp_path, monkeypatch)
    assert isinstance(first, FetchReport)
    assert isinstance(second, FetchReport)
    check_fetched(first, tmp_path)
    assert (first.already_there, second.already_there, len(server.seen)) == (False, True, 1)


@pytest.mark.parametrize("came", [60_000, 0])
def test_a_second_process_resumes_where_the_first_failed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, came: int
) -> None:
    """Let the first call fail without data: it removes the partial file that the second waits for."""

    def halted(request: Request) -> None:
        server.released.wait(60)
        cut(came)(request)

    server.script[:] = [halted, plain(b"", 404), good()]
    first, second = both(server, tmp_path, monkeypatch)
    assert "404" in str(first)
    assert isinstance(second, FetchReport)
    check_fetched(second, tmp_path)
    assert second.resumed_from == came


def test_the_command(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["fetch", "fcn_resnet50", "--from", server.url, "--to", str(tmp_path)]
    server.script[:] = [plain(b"", 404), good()]
    assert main(call) == 1
    complaint = capsys.readouterr()
    assert complaint.out == ""
    assert complaint.err == (
        f"weights-tools: {server.url}/{ROW.file}: the server has no such file (404 Not Found). Check the address.\n"
    )
    assert main([*call, "--json"]) == 0
    answer, progress = capsys.readouterr()
    assert (json.loads(answer)["sha256"], json.loads(answer)["already_there"], progress) == (DIGEST, False, "")
    assert main(call) == 0
    assert "found      fcn_resnet50:COCO_WITH_VOC_LABELS_V1\n" in capsys.readouterr().out
    (tmp_path / ROW.file).write_bytes(b"mine")
    assert main(call) == 1
    assert "replace it with --force" in capsys.readouterr().err
    assert main([*call, "--force", "--timeout", "20"]) == 0
    assert f"how        from {server.url}/{ROW.file}\n" in capsys.readouterr().out


def test_the_list(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--list", "--to", str(tmp_path)]) == 0
    line = "fcn_resnet50:COCO_WITH_VOC_LABELS_V1       25,001 parameters  " + ROW.file
    assert capsys.readouterr().out == line + "\n"
    (tmp_path / ROW.file).write_bytes(BODY)
    assert main(["fetch", "--list", "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out == line + "  (present)\n"
    assert main(["fetch", "--list", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["name"], row["url"], row["file"]) == ("fcn_resnet50:COCO_WITH_VOC_LABELS_V1", ROW.url, ROW.file)


@pytest.mark.parametrize("call", [[], ["a", "b"], ["a", "--list"], ["a", "--timeout", "0"], ["a", "--timeout", "soon"]])
def test_wrong_calls(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fetch", *call])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: weights-tools")


def test_the_next_steps_work(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    """Follow the message about a missing file: fetch it, then build the network by name and by path."""
    backbone = build("mobilenet_v3_small", {"num_classes": 1000}).state_dict()
    bodies = {"lraspp_mobilenet_v3_large": _saved(state), "mobilenet_v3_small": _saved(backbone)}
    segmentation, classifier = (row_for(body, model) for model, body in bodies.items())
    classifier = replace(classifier, name="IMAGENET1K_V1", classes=())
    monkeypatch.setattr(catalog, "CATALOG", (segmentation, classifier))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder: Path | None
    for row, body in zip((segmentation, classifier), bodies.values(), strict=True):
        server.script[:] = [good(body)]
        name = f"{row.model}:{row.name}"
        user = row.model if row.classes else f"fcn_{row.model}"
        source: dict[str, Any] = {"weights" if row.classes else "weights_backbone": row.name}
        with pytest.raises(segnets.WeightsError, match=f"run `weights-tools fetch {name}`"):
            segnets.create_model(user, **source)
        for folder in (None, tmp_path):
            report = fetch(name, url=server.url, folder=folder)
            network, *convert = report.next_steps
            assert (repr(row.name) in network) == (folder is None)
            built = eval(network, {"segnets": segnets}).state_dict()
            wanted = state if row.classes else {f"backbone.{k.partition('.')[2]}": v for k, v in backbone.items()}
            common = built.keys() & wanted.keys()
            assert len(common) > 200
            assert all(torch.equal(built[key], wanted[key]) for key in common)
    assert convert == []
    assert main(shlex.split(fetch(segmentation.model, url=server.url).next_steps[1])[1:]) == 0
    assert Path("lraspp_mobilenet_v3_large.safetensors").is_file()


def _saved(state: dict[str, Tensor]) -> bytes:
    file = BytesIO()
    torch.save(state, file)
    return file.getvalue()
