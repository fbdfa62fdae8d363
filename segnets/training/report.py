"""Report of a training run or an evaluation: one self-contained HTML file without scripts."""

from __future__ import annotations

import base64
import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets import __version__
from segnets.console import counted
from segnets.files import atomic_write
from segnets.training.charts import Series, bars, heat_map, line_chart
from segnets.training.config import TrainingConfig, describe_options
from segnets.training.evaluation import Evaluation, Example
from segnets.training.metrics import ConfusionMatrix
from segnets.training.pictures import draw_panels
from segnets.training.recipes import recipe_values

_SIDE = 400  # longest side of a picture, in pixels
_QUALITY = 82
_CURVES = ("step", "epoch", "loss", "lr", "mean_iou", "pixel_accuracy")
_PANELS = ("image", "truth", "prediction", "correct in gray, wrong in red, ignored in blue")


@dataclass(frozen=True)
class History:
    """Losses, learning rates and scores that a run has logged so far.

    Attributes:
        losses: Step and mean loss of each logged row.
        rates: Step and learning rate of each logged row.
        mean_iou: Step and mean IoU of each validation.
        accuracy: Step and pixel accuracy of each validation.
        steps_per_epoch: Number of steps per epoch; 0 before the first validation.
    """

    losses: Sequence[tuple[int, float]] = ()
    rates: Sequence[tuple[int, float]] = ()
    mean_iou: Sequence[tuple[int, float]] = ()
    accuracy: Sequence[tuple[int, float]] = ()
    steps_per_epoch: float = 0.0


def read_history(log: str | os.PathLike[str]) -> History:
    """Read `log.csv`.

    Returns:
        The logged curves; an empty history if the file does not exist.
    """
    path = Path(log)
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if _is_complete(row)]
    validations = [row for row in rows if row.get("mean_iou")]
    per_epoch = next((int(row["step"]) / int(row["epoch"]) for row in validations if int(row.get("epoch") or 0)), 0.0)
    return History(
        _column(rows, "loss"),
        _column(rows, "lr"),
        _column(validations, "mean_iou"),
        _column(validations, "pixel_accuracy"),
        per_epoch,
    )


def _column(rows: Iterable[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]


def _is_complete(row: dict[str, Any]) -> bool:
    """Return whether a row is complete and numeric. A killed process may leave part of a line."""
    try:
        return None not in row.values() and all(math.isfinite(float(row[name])) for name in _CURVES if row.get(name))
    except ValueError:
        return False


def write_report(
    path: str | os.PathLike[str],
    evaluation: Evaluation | None,
    *,
    history: History | None = None,
    config: TrainingConfig | None = None,
    title: str = "",
) -> None:
    """Write a report atomically, replacing an older one.

    Args:
        path: Path of the HTML file.
        evaluation: Evaluation to show, with its examples; None for a run without validation, which shows only `config`
            and `history`.
        history: Curves of the run.
        config: Configuration of the run.
        title: Heading. Empty derives one from the evaluation and the configuration.

    Raises:
        OutputError: If the file can't be written.
    """
    content = report_html(evaluation, history=history, config=config, title=title).encode("utf-8", "replace")
    with atomic_write(path) as file:
        file.write(content)


def report_html(
    evaluation: Evaluation | None,
    *,
    history: History | None = None,
    config: TrainingConfig | None = None,
    title: str = "",
) -> str:
    """Return the report as HTML. Takes the arguments of `write_report`."""
    title = title or _title(evaluation, config)
    scores = [] if evaluation is None else [_tiles(evaluation, history)]
    details = (
        []
        if evaluation is None
        else [
            _classes(evaluation),
            _examples("Worst images", evaluation, evaluation.worst),
            _examples("Best images", evaluation, _best(evaluation)),
        ]
    )
    curves = "" if history is None else _curves(history)
    sections = [*scores, curves, *details, "" if config is None else _configuration(config)]
    subtitle = escape(_subtitle(evaluation, history, config))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1><p class="faint">{subtitle}</p></header>\n'
        + "\n".join(section for section in sections if section)
        + f'\n<footer class="faint">segnets {escape(__version__)}</footer>\n</body>\n</html>\n'
    )


def _title(evaluation: Evaluation | None, config: TrainingConfig | None) -> str:
    if config is not None:
        return f"Training of {config.model} on {Path(config.data).name}"
    return "Training" if evaluation is None else f"Evaluation on {Path(evaluation.data).name}"


def _subtitle(evaluation: Evaluation | None, history: History | None, config: TrainingConfig | None) -> str:
    if evaluation is None:
        done = f"after step {history.losses[-1][0]:,}; " if history is not None and history.losses else ""
        return f"{done}no validation so far"
    images = counted(len(evaluation.images), "image")
    parts = [f"split {evaluation.split}: {images}, {evaluation.counts.pixels:,} pixels"]
    if evaluation.model and config is None:
        parts.insert(0, f"model {evaluation.model}")
    if evaluation.ignored_pixels:
        share = evaluation.ignored_pixels / (evaluation.ignored_pixels + evaluation.counts.pixels)
        parts.append(f"{100 * share:.1f} % ignored (values {', '.join(map(str, evaluation.ignored_ids))})")
    if config is not None and history is not None and history.mean_iou:
        step = history.mean_iou[-1][0]
        done = f"epoch {step / history.steps_per_epoch:.0f} of {config.epochs}" if history.steps_per_epoch else ""
        parts.append(f"after step {step:,}{f', {done}' if done else ''}")
    return "; ".join(parts)


def _tiles(evaluation: Evaluation, history: History | None) -> str:
    counts = evaluation.counts
    present = len(evaluation.classes) - len(evaluation.absent)
    tiles = [("mean IoU", counts.mean_iou, f"over {present} of {len(evaluation.classes)} classes")]
    if history is not None and history.mean_iou:
        step, best = max(history.mean_iou, key=lambda each: each[1])
        epoch = f"epoch {step / history.steps_per_epoch:.0f}" if history.steps_per_epoch else f"step {step}"
        tiles.append(("best mean IoU so far", best, epoch))
    tiles += [
        ("pixel accuracy", counts.pixel_accuracy, "all pixels"),
        ("mean accuracy", counts.mean_accuracy, "mean of the classes"),
        ("micro IoU", counts.micro_iou, "all classes' pixels together"),
    ]
    shown = (
        f'<div class="tile"><span>{escape(name)}</span><b>{"-" if math.isnan(value) else f"{value:.4f}"}</b>'
        f'<span class="faint">{escape(note)}</span></div>'
        for name, value, note in tiles
    )
    return f'<section class="tiles">{"".join(shown)}</section>'


def _curves(history: History) -> str:
    unit = history.steps_per_epoch or 1.0
    name = "epoch" if history.steps_per_epoch else "step"

    def scaled(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
        return [(step / unit, value) for step, value in points]

    scores = [
        Series("mean IoU", scaled(history.mean_iou), "first", dots=len(history.mean_iou) <= 60),
        Series("pixel accuracy", scaled(history.accuracy), "second", dots=len(history.accuracy) <= 60),
    ]
    charts = [
        ("Loss", line_chart([Series("loss", scaled(history.losses))], name, from_zero=True)),
        *([("Validation", line_chart(scores, name))] if history.mean_iou else []),
        ("Learning rate", line_chart([Series("lr", scaled(history.rates))], name, from_zero=True)),
    ]
    cards = "".join(f'<div class="card"><h2>{escape(heading)}</h2>{chart}</div>' for heading, chart in charts)
    return f'<section class="cards">{cards}</section>'


def _classes(evaluation: Evaluation) -> str:
    counts = evaluation.counts
    total = max(1, counts.truth.sum())
    notes = [f"{100 * share:.2f} %" for share in (counts.truth / total).tolist()]
    table = bars(evaluation.classes, counts.iou.tolist(), evaluation.palette, notes)
    confused = _most_confused(evaluation.classes, counts.counts) if isinstance(counts, ConfusionMatrix) else ""
    note = '<p class="faint">right: share of the true pixels</p>'
    cards = f'<div class="card"><h2>IoU by class</h2>{table}{note}{confused}</div>'
    if isinstance(counts, ConfusionMatrix):
        matrix = heat_map(evaluation.classes, counts.counts.tolist())
        note = "row: true class; column: predicted class; cell: percent of the row's pixels"
        cards += f'<div class="card"><h2>Confusion matrix</h2>{matrix}<p class="faint">{note}</p></div>'
    return f'<section class="cards wide">{cards}</section>'


def _most_confused(classes: Sequence[str], counts: npt.NDArray[np.int64], most: int = 5) -> str:
    """Return an HTML table of the class pairs with the most wrong pixels."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    largest = [divmod(int(index), len(counts)) for index in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    rows = "".join(
        f"<tr><th>{escape(classes[truth])}</th><td>as {escape(classes[predicted])}</td>"
        f"<td>{100 * wrong[truth, predicted] / wrong.sum():.1f} %</td></tr>"
        for truth, predicted in largest
        if wrong[truth, predicted]
    )
    heading = '<h2 class="more">Largest confusions, in percent of the wrong pixels</h2>'
    return f'{heading}<table class="confused">{rows}</table>' if rows else ""


def _best(evaluation: Evaluation) -> list[Example]:
    """Return the best images that are not already among the worst, as they can be in a small split."""
    shown = {example.score.name for example in evaluation.worst}
    return [example for example in evaluation.best if example.score.name not in shown]


def _examples(heading: str, evaluation: Evaluation, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    rows = []
    for example in examples:
        score = example.score
        panels = draw_panels(evaluation, example, max_side=_SIDE)
        images = "".join(
            f'<figure><img alt="{name}" src="{_data_url(panel)}"><figcaption>{name}</figcaption></figure>'
            for name, panel in zip(_PANELS, panels, strict=True)
        )
        title = f"<b>{escape(score.name)}</b> mean IoU {score.mean_iou:.3f}, pixel accuracy {score.accuracy:.3f}"
        rows.append(f'<div class="example"><p>{title}</p><div class="panels">{images}</div></div>')
    legend = "".join(
        f'<span class="entry"><span class="swatch" style="background:rgb{colour}"></span>{escape(name)}</span>'
        for name, colour in zip(evaluation.classes, evaluation.palette, strict=True)
    )
    return f'<section class="card"><h2>{escape(heading)}</h2><p class="legend">{legend}</p>{"".join(rows)}</section>'


def _data_url(picture: Any) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _configuration(config: TrainingConfig) -> str:
    own = recipe_values(config.recipe, config.model, config.crop)
    about = describe_options()
    rows = []
    for each in fields(config):
        value = getattr(config, each.name)
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        chosen = ' class="chosen"' if each.name != "recipe" and value != own.get(each.name, each.default) else ""
        cells = f'<th>{each.name}</th><td>{escape(text)}</td><td class="faint">{escape(about[each.name])}</td>'
        rows.append(f"<tr{chosen}>{cells}</tr>")
    return (
        f'<section class="card"><h2>Configuration</h2><p class="faint">recipe {escape(config.recipe)}; values in bold '
        f'differ from it</p><table class="options">{"".join(rows)}</table></section>'
    )


_STYLE = """
:root{--ink:#1d2430;--faint:#6b7585;--paper:#f4f6f9;--card:#fff;--line:#dfe4ec;--first:#2765d6;--second:#d9731a;
--miss:#c8323c}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--faint:#96a0b0;--paper:#14181f;--card:#1d232d;--line:#343c4a;
--first:#6ea0ff;--second:#f0a050;--miss:#ff6b70}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1280px;padding:24px;background:var(--paper);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:26px;margin:0 0 4px}h2{font-size:16px;margin:0 0 12px}p{margin:0 0 10px}
header{margin-bottom:20px}footer{margin:24px 0 0;font-size:13px}
.faint{color:var(--faint)}.card .faint{font-size:13px}
section{margin-bottom:18px}
.card,.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px}
.tiles{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(170px,1fr))}
.tile{display:flex;flex-direction:column}.tile b{font-size:28px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{font-size:13px}
.cards{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr))}
.wide{align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(460px,100%),1fr))}
.cards>.card{min-width:0}
.chart,.matrix{display:block;width:100%;height:auto}.matrix{margin:0 auto 8px}
svg text{fill:var(--faint);font-size:12px}
svg .y,svg .axis{text-anchor:end}svg .x,svg .value,svg .over{text-anchor:middle}
svg .value{fill:var(--ink)}svg .over{fill:#fff}
.grid{stroke:var(--line);fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.first{stroke:var(--first)}.line.second{stroke:var(--second)}
circle.first{fill:var(--first)}circle.second{fill:var(--second)}
.hit{fill:var(--first)}.miss{fill:var(--miss)}
.names{font-size:13px;margin:6px 0 0;color:var(--faint)}
.key{display:inline-block;width:14px;height:3px;margin:0 6px 3px 12px}
.key.first{background:var(--first)}.key.second{background:var(--second)}
table{border-collapse:collapse;width:100%}
th{text-align:left;font-weight:normal;white-space:nowrap}
td,th{padding:4px 10px 4px 0;vertical-align:top}
.bars td{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bars td:last-child{color:var(--faint);padding-right:0}
.bars .bar{width:60%;vertical-align:middle}
.bar div{background:var(--first);height:12px;border-radius:3px;min-width:1px}
.more{margin-top:20px}.confused{width:auto;font-size:13px}
.confused td{padding-left:10px}.confused td:last-child{color:var(--faint)}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;border:1px solid #0003;
vertical-align:-1px}
.entry{display:inline-block;margin:0 16px 4px 0;font-size:13px}
.example{border-top:1px solid var(--line);padding-top:12px;margin-top:12px}
.panels{display:grid;gap:10px;grid-template-columns:repeat(auto-fit,minmax(220px,1fr))}
figure{margin:0}img{display:block;width:100%;border-radius:5px}
figcaption{font-size:12px;color:var(--faint);padding-top:3px}
.options{font-size:13px}.options td{overflow-wrap:anywhere}.options td:nth-child(2){min-width:15em}
.options tr{border-top:1px solid var(--line)}
.chosen th,.chosen td:nth-child(2){font-weight:600}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""
