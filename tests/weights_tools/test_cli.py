"""The command: results on stdout, the rest on stderr, exit 0, 1 or 2, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.weights_tools.files import Bomb, saved
from weights_tools.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    path = tmp_path / "source.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    return path


def _run(command: list[str | bytes], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        timeout=120,
    )


def _shell(arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # As users run it: with a buffer that is written at the end.
    return _run(["bash", "-c", f'"$0" -m weights_tools {arguments}', sys.executable], cwd, PYTHONUNBUFFERED="")


def test_inspect_and_convert(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(source)]) == 0
    table = capsys.readouterr()
    assert "network    lraspp_mobilenet_v3_large(num_classes=21, aux_loss=False)" in table.out
    assert "prefixes   module. removed" in table.out
    assert "ignored    epoch (int)" in table.out
    assert table.err == ""
    assert main(["convert", str(source), str(tmp_path / "out.safetensors")]) == 0
    assert "read back" in capsys.readouterr().out
    assert main(["inspect", "--json", str(tmp_path / "out.safetensors")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["layout"], answer["model"], answer["refused"]) == ("segnets", "lraspp_mobilenet_v3_large", None)


def test_options_reach_the_conversion(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(21)))
    out = str(tmp_path / "out.safetensors")
    options = [
        "--key",
        "model",
        "--layout",
        "torchvision",
        "--classes",
        str(tmp_path / "names.txt"),
        "--dtype",
        "float16",
    ]
    assert main(["convert", str(source), out, "--json", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["path"], answer["cast_to"], answer["classes"][20]) == (["model"], "float16", "class 20")
    assert main(["convert", str(source), out]) == 1
    assert capsys.readouterr().err.startswith("weights-tools: ")
    assert main(["convert", str(source), out, "--force", "--allow-nonfinite"]) == 0


def test_quick_look_reads_no_tensors(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--quick", "--json", str(source)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["sha256"], answer["model"]) == (None, "lraspp_mobilenet_v3_large")
    legacy = source.with_name("legacy.pth")
    legacy.write_bytes(saved(torch.load(source, weights_only=True), _use_new_zipfile_serialization=False))
    assert main(["inspect", "--quick", "--json", str(legacy)]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == 319


def test_inspect_describes_what_can_not_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "resnet50-0676ba61.pth"
    torch.save({"a": torch.ones(3), "b": torch.ones(3)}, path)
    assert main(["inspect", str(path)]) == 1
    shown, complaint = capsys.readouterr()
    assert complaint == ""
    assert "refused    no known network has these 2 tensors" in shown
    assert "doubt      the file's name states the checksum 0676ba61, but its sha256 begins with" in shown


def test_inspect_of_an_attack_ends_with_1(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(saved({"model": state, "x": Bomb(tmp_path / "executed")}))
    assert main(["inspect", "--json", str(path)]) == 1
    assert json.loads(capsys.readouterr().out)["refused"] == "the file is probably an attack; nothing in it was run"
    with pytest.raises(SystemExit):
        main(["inspect", "--help"])
    assert "Exit status: 0 if the file can be converted, 1 if it would be refused." in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    "arguments", [[], ["explode"], ["inspect"], ["convert", "a"], ["convert", "a", "b", "--layout", "x"]]
)
def test_wrong_calls(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: weights-tools")


def test_bad_files_give_one_line_and_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "empty.pth": b"",
        "page.pth": b"<html>",
        "cut.pth": saved({"w": torch.ones(9)})[:300],
        "noise": os.urandom(500),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for name in bad:
        assert main(["convert", name, "out.safetensors"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"weights-tools: {name}: the ")
        assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(bad)


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import sys, weights_tools.cli, weights_tools; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_closed_pipe_ends_quietly(tmp_path: Path, source: Path) -> None:
    done = _shell("inspect source.pth | head -c 5; echo; echo ${PIPESTATUS[0]}", tmp_path)
    assert done.stdout == "file \n0\n"
    assert done.stderr == ""


@pytest.mark.full
def test_closed_stdout(tmp_path: Path, source: Path) -> None:
    done = _shell("inspect source.pth >&-; echo $?", tmp_path)
    assert "Traceback" not in done.stderr


def test_full_stdout(tmp_path: Path, source: Path) -> None:
    done = _shell("inspect source.pth > /dev/full; echo $?", tmp_path)
    assert done.stdout == "1\n"
    assert done.stderr == "weights-tools: [Errno 28] No space left on device\n"


def test_plain_locale_and_odd_names(tmp_path: Path, source: Path) -> None:
    name = "Käse \N{OCTOPUS}\n"
    source.rename(tmp_path / f"{name}.pth")
    code = (
        "import sys; from weights_tools.cli import main; source, target, absent = sys.argv[1:]\n"
        "assert main(['convert', source, target]) == 0; sys.exit(main(['inspect', absent]))"
    )
    done = _run(
        [sys.executable, "-c", code, f"{name}.pth", f"{name}.safetensors", b"\xff\xfe.pth"],
        tmp_path,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert done.returncode == 1
    assert (tmp_path / f"{name}.safetensors").is_file()
    assert "the file does not exist" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_name_that_begins_with_a_dash(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.rename(tmp_path / "-w.pth")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "--quick", "--", "-w.pth"]) == 0


def test_names_in_messages_are_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "\x1b[2J\n.pth"
    path.write_bytes(b"")
    assert main(["inspect", str(path)]) == 1
    assert "\x1b" not in capsys.readouterr().err
