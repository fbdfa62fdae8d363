"""Jobs over folders: `segnets predict` as users run it."""

from __future__ import annotations

import io
import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

import segnets
from segnets.inference.job import Summary
from segnets.inference.video import open_video
from tests.inference.common import image_folder, outputs_in, predict, random_image


def test_a_folder_gives_masks_and_overlays(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(weights, photos, "--out", out) == 0
    assert sorted(outputs_in(out)) == sorted([f"{n}{end}" for n in range(5) for end in (".png", ".overlay.jpg")])
    with Image.open(out / "3.png") as mask:
        assert mask.mode == "P"
        expected = segnets.segment(segnets.load(weights), photos / "3.png")
        np.testing.assert_array_equal(np.asarray(mask), expected)
    captured = capsys.readouterr()
    assert captured.out.startswith("5 images, 0 failed, ")
    assert captured.out.endswith(f": {out}\n")
    assert not captured.err  # no line in a log within the first half minute


def test_a_log_gets_lines_and_a_terminal_a_bar(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "z.png").write_bytes(b"")
    monkeypatch.setattr("segnets.commands._progress._LOG_SECONDS", 0)
    assert predict(weights, photos, "--out", tmp_path / "log") == 1
    *lines, message, last = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"segnets: 3 of 6 images, \d+\.\d\d images/s, 0:\d\d:\d\d left", lines[2])
    assert message == f"segnets: {photos / 'z.png'}: is empty (0 bytes)"
    assert last.endswith("0:00:00 left")

    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert predict(weights, photos, "--out", tmp_path / "bar") == 1
    assert "100%|" in terminal.getvalue()
    assert "| 6 of 6 images, " in terminal.getvalue()
    assert predict(weights, photos / "0.png", "--out", tmp_path / "single", "--tile", 256) == 0
    assert re.search(r"100%\|.*\| tile (\d+) of \1, 00:00 left", terminal.getvalue())


@pytest.mark.parametrize(
    ("new", "seconds", "end"),
    [(5, 2.0, ", 2.5 images/s"), (1, 0.0, ""), (1, 130.0, ", 0.008 images/s"), (0, 2.0, "")],
)
def test_the_closing_line_has_a_rate_if_anything_was_new(new: int, seconds: float, end: str) -> None:
    summary = Summary(Path("out"), images=7, kept=7 - new, new=new, seconds=seconds)
    assert str(summary) == f"7 images, {7 - new} already done, 0 failed{end}: out"


class _Terminal(io.StringIO):
    """Stderr on a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bad_image_is_named_counted_and_skipped(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "2.png").write_bytes(b"no image")
    manifest = tmp_path / "m.jsonl"
    assert predict(weights, photos, "--out", tmp_path / "out", "--manifest", manifest, "--json") == 1
    captured = capsys.readouterr()
    assert "2.png" in captured.err
    summary = json.loads(captured.out)
    assert (summary["images"], summary["failed"]) == (4, 1)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert all(line["networks"] == ["model, float32 on cpu"] for line in lines)
    assert [line["state"] for line in lines] == ["done", "done", "failed", "done", "done"]
    assert "2.png" in lines[2]["reason"]
    assert lines[3]["outputs"] == ["3.overlay.jpg", "3.png"]
    assert "2.png" not in outputs_in(tmp_path / "out")


def test_fail_fast_stops(weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "0.png").write_bytes(b"no image")
    assert predict(weights, photos, "--out", tmp_path / "out", "--fail-fast") == 1
    assert "stopped at the first image that failed" in capsys.readouterr().err
    assert "4.png" not in outputs_in(tmp_path / "out")


def test_a_folder_with_files_is_not_touched_without_a_word(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert predict(weights, photos, "--out", out) == 1
    assert "is not empty" in capsys.readouterr().err
    assert predict(weights, photos, "--out", out, "--resume") == 1
    assert "no record of a run" in capsys.readouterr().err
    assert outputs_in(out) == {"mine.txt": b"mine"}
    assert predict(weights, photos, "--out", out, "--force") == 0
    assert (out / "mine.txt").read_text() == "mine"


def test_results_inside_of_the_source_are_no_sources(weights: Path, photos: Path) -> None:
    out = photos / "out"
    for _ in range(2):
        assert predict(weights, photos, "--out", out, "--recursive", "--save", "mask", "--force") == 0
        assert len(outputs_in(out)) == 5


def test_no_image_is_replaced(weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = outputs_in(photos)
    link = tmp_path / "link"
    link.symlink_to(photos)
    for out in (photos, link):
        assert predict(weights, photos, "--out", out, "--force") == 1
        assert "contains the images" in capsys.readouterr().err
        assert predict(weights, *photos.iterdir(), "--out", out, "--force") == 1
        assert "is one of the images" in capsys.readouterr().err
        assert outputs_in(photos) == before
        assert not (photos / ".segnets").exists()


def test_a_manifest_replaces_manifests_only(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = outputs_in(photos), tmp_path / "out"
    for name in (photos / "0.png", weights):
        assert predict(weights, photos, "--out", out, "--force", "--manifest", name) == 1
        assert "is not a manifest" in capsys.readouterr().err
    for result in ("areas.csv", "0.png"):
        assert predict(weights, photos, "--out", out, "--save", "mask,csv", "--force", "--manifest", out / result) == 1
        assert "another result" in capsys.readouterr().err
    assert outputs_in(photos) == before
    for _ in range(2):
        arguments = ("--save", "csv", "--shard", "2/5", "--force", "--manifest", out / "log.jsonl")
        assert predict(weights, photos, "--out", out, *arguments) == 0
    assert sorted(outputs_in(out)) == ["areas.2-of-5.csv", "log.2-of-5.jsonl"]


def test_a_damaged_tiff_costs_one_line(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(random_image()).save(path)
    path.write_bytes(path.read_bytes()[:60])  # within its tags, of which Pillow warns
    assert predict(weights, path, "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err.count("a.tif") == 1
    assert [str(each.message) for each in recwarn] == []


def test_a_name_that_is_too_long_with_its_ending_fails_alone(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0.png").rename(photos / f"{'0' * 250}.png")
    assert predict(weights, photos, "--out", tmp_path / "out") == 1
    assert "too long" in capsys.readouterr().err
    assert len(outputs_in(tmp_path / "out")) == 8


@pytest.mark.parametrize("error", [None, BrokenPipeError])
def test_closed_stderr_does_not_stop_a_run(
    weights: Path, photos: Path, tmp_path: Path, error: type[OSError] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    monkeypatch.setattr(sys, "stderr", Closed() if error else None)
    assert predict(weights, photos, "--out", tmp_path / "out", "--save", "mask") == 0
    assert len(outputs_in(tmp_path / "out")) == 5


def test_no_link_leads_out_of_the_folder(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(tmp_path / "photos" / "sub", 1)
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").symlink_to(tmp_path / "elsewhere")
    assert predict(weights, tmp_path / "photos", "--recursive", "--out", out, "--force") == 1
    assert "points out of" in capsys.readouterr().err
    assert outputs_in(tmp_path / "elsewhere") == {}


def test_two_sources_with_one_stem(weights: Path, tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(random_image(seed=len(name))).save(tmp_path / name)
    Image.fromarray(random_image()).save(tmp_path / "b/x.jpg")
    assert predict(weights, tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", "--save", "mask") == 0
    assert sorted(outputs_in(tmp_path / "out")) == ["x.jpg.png", "x.png-2.png", "x.png.png"]


def test_a_list_on_stdin(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a b.png", "🙂.png"]
    for name in names:
        Image.fromarray(random_image()).save(tmp_path / name)
    text = "\n".join(str(tmp_path / name) for name in [*names, "missing.png"]) + "\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert predict(weights, "-", "--out", tmp_path / "out", "--save", "mask") == 1
    assert sorted(outputs_in(tmp_path / "out")) == sorted(names)
    assert "missing.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "mask,video"], "--save video"),
        (["--resume", "--force"], "choose one"),
        (["--min-confidence", "2"], "min_confidence"),
        (["--only", "boat"], "boat"),
        (["--resize", "0"], "resize"),
        (["--out", "missing/folder"], "missing/folder"),
    ],
)
def test_bad_options_cost_one_line(
    weights: Path,
    photos: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(weights, photos, "--out", tmp_path / "out", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_video_gives_an_overlay_video_and_on_request_files_per_frame(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "v.mp4"
    _make_video(path, 5)
    out = tmp_path / "out"
    assert predict(weights, path, "--out", out) == 0
    assert list(outputs_in(out)) == ["v.overlay.mp4"]
    assert "1 video of 5 frames, 0 failed" in capsys.readouterr().out
    frames = list(open_video(out / "v.overlay.mp4"))
    assert [frame.seconds for frame in frames] == [frame.seconds for frame in open_video(path)]
    assert predict(weights, path, "--out", out, "--resume") == 0
    assert "1 already done" in capsys.readouterr().out
    assert predict(weights, path, "--out", out, "--force", "--save", "mask,csv") == 0
    expected_names = {"v.areas.csv", "v.overlay.mp4", *(f"v/{n:06d}.png" for n in range(1, 6))}
    assert set(outputs_in(out)) == expected_names
    with Image.open(out / "v/000003.png") as mask:
        expected = segnets.segment(segnets.load(weights), list(open_video(path))[2].pixels)
        np.testing.assert_array_equal(np.asarray(mask), expected)
    assert len((out / "v.areas.csv").read_text().splitlines()) == 1 + 5 * 3


def _make_video(path: Path, count: int) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 56, 40, "yuv420p"
        for number in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(random_image(seed=number), format="rgb24")))
        file.mux(stream.encode(None))


def test_a_damaged_video_is_a_failure(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    assert predict(weights, tmp_path / "v.mp4", "--out", tmp_path / "out") == 1
    assert "v.mp4" in capsys.readouterr().err
    assert outputs_in(tmp_path / "out") == {}


def test_tiles_give_what_tile_rows_give(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = random_image(200, 300, seed=3)
    Image.fromarray(image).save(tmp_path / "big.png")
    out = tmp_path / "out"
    arguments = ("--save", "mask,csv,confidence,overlay", "--tile", "128", "--overlap", "32")
    assert predict(weights, tmp_path / "big.png", "--out", out, *arguments) == 0
    assert set(outputs_in(out)) == {"areas.csv", "big.confidence.png", "big.overlay.jpg", "big.png"}
    prediction = segnets.Predictor(weights, deterministic=True).predict(tmp_path / "big.png", tile=128, overlap=32)
    with Image.open(out / "big.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), prediction.mask)
    np.testing.assert_array_equal(prediction.image, image)
    assert predict(weights, tmp_path / "big.png", "--out", out, *arguments, "--resume") == 0
    assert "1 already done" in capsys.readouterr().out


def test_a_georeferenced_image_gets_a_georeferenced_mask(weights: Path, tmp_path: Path) -> None:
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_500_000)
    image = random_image(40, 56).transpose(2, 0, 1)
    profile = {"driver": "GTiff", "height": 40, "width": 56, "count": 3, "dtype": "uint8", "transform": place}
    with rasterio.open(tmp_path / "map.tif", "w", crs="EPSG:32633", **profile) as file:
        file.write(image)
    out = tmp_path / "out"
    assert predict(weights, tmp_path / "map.tif", "--out", out, "--save", "mask") == 0
    assert set(outputs_in(out)) == {"map.png", "map.tif"}
    with rasterio.open(out / "map.tif") as file, Image.open(out / "map.png") as mask:
        assert (file.crs.to_epsg(), file.transform) == (32633, place)
        np.testing.assert_array_equal(file.read(1), np.asarray(mask))
        expected = segnets.segment(segnets.load(weights), image.transpose(1, 2, 0))
        np.testing.assert_array_equal(file.read(1), expected)
