"""The report, its charts, and the loggers."""

from __future__ import annotations

import importlib
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from segnets.errors import TrainingError
from segnets.training.charts import Series, bars, heat_map, line_chart, number, ticks
from segnets.training.config import TrainingConfig
from segnets.training.evaluation import Evaluation, Example, ImageScore
from segnets.training.loggers import ReportLogger, TensorBoardLogger, loggers_of
from segnets.training.metrics import ConfusionMatrix
from segnets.training.report import History, read_history, report_html, write_report

HOSTILE = '<script>alert("&")</script>'
LOG = """step,epoch,loss,lr,mean_iou,pixel_accuracy,seconds,images_per_second
10,1,2.5,0.01,,,1.0,
20,1,1.5,0.005,,,2.0,
20,1,,,0.25,0.5,2.5,
40,2,,,0.75,0.875,5.0,
"""


@pytest.fixture
def evaluation() -> Evaluation:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    truth = random.integers(0, 2, (20, 30), dtype=np.uint8)
    truth[0] = 255
    prediction = np.where(random.random((20, 30)) < 0.8, truth % 2, 1).astype(np.uint8)
    counts = ConfusionMatrix(3)
    counts.update(truth, prediction)
    of_image = np.stack([counts.hits, counts.truth, counts.predicted])
    score = ImageScore(HOSTILE, "a.png", of_image, 570, counts.pixel_accuracy, counts.iou, counts.mean_iou)
    example = Example(score, image, truth, prediction)
    return Evaluation(
        data="data/roads",
        split="val",
        classes=("sky", HOSTILE, "car"),
        palette=((70, 130, 180), (128, 64, 128), (0, 60, 200)),
        ignored_ids=(255,),
        counts=counts,
        ignored_pixels=30,
        images=(score,),
        examples=1,
        worst=(example,),
        best=(replace(example, score=replace(score, name="b")),),
    )


class Elements(HTMLParser):
    """The elements of a page, and those that are open at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img") and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.fixture
def history(tmp_path: Path) -> History:
    (tmp_path / "log.csv").write_text(LOG)
    return read_history(tmp_path / "log.csv")


def test_the_report_needs_nothing_else(evaluation: Evaluation, history: History) -> None:
    config = TrainingConfig(model="fcn_resnet50", data="data/roads", lr=0.5, out=HOSTILE)
    page = report_html(evaluation, history=history, config=config)
    elements = Elements(page)
    assert elements.open == []
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe"}
    sources = [value for _, attributes in elements.found for name in ("src", "href") if (value := attributes.get(name))]
    assert len(sources) == 8  # four pictures of one worst and one best image
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    for text in (
        "Training of fcn_resnet50 on roads",
        "epoch 2 of 100",
        "Confusion matrix",
        "Worst images",
        "Best images",
    ):
        assert text in elements.text
    assert elements.text.count("alert") >= 4  # as text


def test_an_image_is_shown_once(evaluation: Evaluation) -> None:
    page = report_html(replace(evaluation, best=(*evaluation.best, *evaluation.worst)))
    assert page.count('<div class="example">') == 2
    assert "Best images" not in report_html(replace(evaluation, best=evaluation.worst))


def test_the_report_shows_the_scores(evaluation: Evaluation) -> None:
    text = Elements(report_html(evaluation)).text
    assert f"{evaluation.mean_iou:.4f}" in text
    assert f"{evaluation.counts.pixel_accuracy:.4f}" in text
    assert "over 2 of 3 classes" in text
    assert f"{evaluation.counts.iou[0]:.3f}" in text
    assert "absent" in text
    assert "Evaluation on roads" in text
    assert "5.0 % ignored (values 255)" in text
    assert "Configuration" not in text


def test_the_most_confused_classes_are_named(evaluation: Evaluation) -> None:
    counts = ConfusionMatrix(3)
    counts.counts[:] = [[90, 1, 3], [0, 5, 0], [4, 0, 1]]
    page = report_html(replace(evaluation, counts=counts, classes=("sky", "road", "car")))
    found = re.findall(r"<tr><th>(\w+)</th><td>as (\w+)</td><td>([\d.]+) %</td></tr>", page)
    assert found == [("car", "sky", "50.0"), ("sky", "car", "37.5"), ("sky", "road", "12.5")]
    counts.counts[:] = np.diag([1, 1, 1])
    assert "Largest confusions" not in report_html(replace(evaluation, counts=counts))


def test_chosen_options_are_in_bold(evaluation: Evaluation) -> None:
    config = TrainingConfig(model="fcn_resnet50", recipe="torchvision", lr=0.5, crop=240)
    page = report_html(evaluation, config=config)
    assert re.findall(r'<tr class="chosen"><th>(\w+)</th>', page) == ["model", "lr", "crop"]


def test_the_report_is_replaced(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", evaluation, title="first")
    write_report(tmp_path / "report.html", evaluation, title="second")
    assert "<title>second</title>" in (tmp_path / "report.html").read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_report_without_pixels(evaluation: Evaluation) -> None:
    empty = replace(evaluation, counts=ConfusionMatrix(3), worst=(), best=())
    text = Elements(report_html(empty, history=History())).text
    assert "nothing recorded yet" in text
    assert "over 0 of 3 classes" in text


def test_the_log_becomes_curves(history: History, tmp_path: Path) -> None:
    assert history.losses == [(10, 2.5), (20, 1.5)]
    assert history.rates == [(10, 0.01), (20, 0.005)]
    assert history.mean_iou == [(20, 0.25), (40, 0.75)]
    assert history.accuracy == [(20, 0.5), (40, 0.875)]
    assert history.steps_per_epoch == 20
    (tmp_path / "log.csv").write_text(LOG + "60,3,0.5\n60,3,1.2e\n\n,,\nx,3,1,1,,,1.0,\n")  # after a crash
    assert read_history(tmp_path / "log.csv") == history
    assert read_history(tmp_path / "no.csv") == History([], [], [], [])


def points_of(chart: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(chart.split("</svg>")[0] + "</svg>")
    line = next(each for each in root.iter("path") if "line" in each.attrib["class"])
    return [(float(x), float(y)) for x, y in (point.split() for point in line.attrib["d"][1:].split("L"))]


def test_a_line_is_where_its_values_are() -> None:
    points = points_of(line_chart([Series("a", [(0, 0), (5, 1), (10, 0.5)])], "epoch"))
    assert points_of(line_chart([Series("a", [(0, 7), (5, 8), (10, 7.5)])], "epoch")) == points  # ticks from 7 to 8
    (left, bottom), (middle, top), (right, half) = points
    assert middle == pytest.approx((left + right) / 2)
    assert half == pytest.approx((bottom + top) / 2)
    assert top < bottom


def test_values_that_are_not_finite_are_left_out_and_long_lines_are_averaged() -> None:
    assert len(points_of(line_chart([Series("a", [(0, 1), (1, math.nan), (2, math.inf), (3, 2)])], "step"))) == 2
    points = points_of(line_chart([Series("a", [(step, step % 2) for step in range(8_000)])], "step"))
    assert len(points) == 400
    assert len({y for _, y in points[:-1]}) == 1
    assert line_chart([Series("a", [(1, math.nan)])], "step") == '<p class="faint">nothing recorded yet</p>'


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 2.3, [0, 1, 2, 3]),
        (0.31, 0.52, [0.3, 0.4, 0.5, 0.6]),
        (-3, 12, [-5, 0, 5, 10, 15]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
        (0, 9200, [0, 2500, 5000, 7500, 10000]),
        (2e-5, 9e-5, [2e-5, 4e-5, 6e-5, 8e-5, 10e-5]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_of_one_value() -> None:
    found = ticks(0.7, 0.7)
    assert found[0] < 0.7 < found[-1]


def test_numbers_are_short() -> None:
    values = [0.0, 0.25, 12500.0, 0.00075, 2e-5, 1234.5, 0.01]
    assert [number(each) for each in values] == ["0", "0.25", "12,500", "7.5e-4", "2e-5", "1,234", "0.01"]


@pytest.mark.parametrize("count", [3, 20, 40])
def test_a_confusion_matrix_of_any_size(count: int) -> None:
    counts = np.eye(count, dtype=int) * 3
    counts[0, 1] = 1
    counts[2] = 0
    root = ElementTree.fromstring(heat_map([f"class {i}" for i in range(count)], counts.tolist()))
    cells = [*root.iter("rect")]
    assert len(cells) == count * count
    titles = [title.text for title in root.iter("title")]
    assert titles[0] == "class 0 predicted as class 0: 75.00 % (3 pixels)"
    assert titles[1] == "class 0 predicted as class 1: 25.00 % (1 pixel)"
    assert [cell.attrib["class"] for cell in cells[:2]] == ["hit", "miss"]


def test_bars_have_the_length_of_their_value() -> None:
    table = bars(["a", "b"], [0.5, math.nan], [(0, 0, 0), (1, 2, 3)], ["", "note"])
    assert re.findall(r"width:([\d.]+)%", table) == ["50.00", "0.00"]
    assert "rgb(1,2,3)" in table
    assert "absent" in table


def test_the_report_logger_writes_curves_without_a_validation(evaluation: Evaluation, tmp_path: Path) -> None:
    """After each epoch and at the end; not over a report with scores."""
    log, report = tmp_path / "log.csv", tmp_path / "report.html"
    losses = "".join(line for line in LOG.splitlines(keepends=True) if not line.startswith(("20,", "40,")))
    logger = ReportLogger(report, log, TrainingConfig(model="m"))
    log.write_text(losses)
    logger.write({"step": 10, "epoch": 1, "loss": 1.0})
    assert not report.exists()
    logger.write({"step": 30, "epoch": 2, "loss": 1.0})
    assert "no validation so far" in report.read_text()
    report.unlink()
    logger.close()
    assert report.exists()
    log.write_text(LOG)
    logger.validated(40, evaluation)
    logger.write({"step": 50, "epoch": 3, "loss": 1.0})
    logger.close()
    assert "no validation so far" not in report.read_text()


def test_the_report_logger_writes_after_each_validation(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    config = TrainingConfig(model="m")
    (logger,) = loggers_of(config, tmp_path, log=tmp_path / "log.csv", report=tmp_path / "report.html")
    assert isinstance(logger, ReportLogger)
    logger.write({"step": 40, "epoch": 2, "mean_iou": 0.75})
    assert not (tmp_path / "report.html").exists()
    logger.validated(40, evaluation)
    logger.close()
    assert "after step 40, epoch 2 of 100" in (tmp_path / "report.html").read_text()


class FakeWriter:
    """Stands for TensorBoard's writer, whose import takes seconds."""

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.images: list[tuple[str, Any, int]] = []
        self.closed = False
        FakeWriter.last = self

    last: FakeWriter

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def add_image(self, name: str, image: Any, step: int, *, dataformats: str) -> None:
        self.images.append((name, f"{dataformats} {image.ndim}", step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_the_tensorboard_logger(evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))
    paths = {"log": tmp_path / "log.csv", "report": tmp_path / "report.html"}
    _, logger = loggers_of(TrainingConfig(tensorboard=True), tmp_path, **paths, step=3)
    logger.write({"step": 4, "epoch": 1, "loss": 0.5, "lr": 0.1})
    logger.write({"step": 4, "epoch": 1, "mean_iou": 0.25, "pixel_accuracy": math.nan})
    logger.validated(4, evaluation)
    logger.close()
    writer = FakeWriter.last
    assert (writer.folder, writer.purge_step, writer.closed) == (str(tmp_path / "tensorboard"), 4, True)
    assert writer.scalars[:3] == [("training/loss", 0.5, 4), ("training/lr", 0.1, 4), ("validation/mean_iou", 0.25, 4)]
    assert [name for name, _, _ in writer.scalars[3:]] == ["iou/sky", f"iou/{HOSTILE}"]
    assert writer.images == [("worst/1", "HWC 3", 4)]


def test_tensorboard_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(TrainingError, match=r"tensorboard=true needs .* pip install 'segnets\[tensorboard\]'"):
        TensorBoardLogger(tmp_path)


@pytest.mark.full  # importing TensorBoard takes seconds
def test_tensorboard_reads_the_log(evaluation: Evaluation, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.write({"step": 4, "epoch": 1, "loss": 0.5, "lr": 0.125})
    logger.validated(4, evaluation)
    logger.close()
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("training/lr")] == [(4, 0.125)]
    assert events.Tags()["images"] == ["worst/1"]
