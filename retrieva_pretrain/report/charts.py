"""The charts of runs as Vega-Lite specifications: plain data, drawn by the page and by `pictures.py` alike.

Nothing is told by colour alone: every series has its own dashes too. Colours are Okabe and Ito's, of which those that
are read badly on white or on black are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.report.history import RunHistory
from retrieva_pretrain.report.thinning import envelope

Spec = dict[str, Any]
MOST_POINTS = 1000
"""Of one figure over all runs of a page."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#A0522D")
DASHES = ([1, 0], [8, 3], [2, 2], [8, 3, 2, 3], [14, 4], [4, 4], [12, 3, 2, 3, 2, 3], [1, 3])
_UNITS = ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens"), (1.0, "tokens"))
_MOST_EVENTS = 200
_MOST_DOTS = 60
"""Of one line; more run together."""
CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, 'Hiragino Sans', 'Noto Sans CJK JP', 'Noto Sans JP', 'Yu Gothic', Meiryo, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridOpacity": 0.5},
    "legend": {"labelFontSize": 12, "title": None, "orient": "top", "symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 3, "symbolOpacity": 1,
               "labelLimit": 280, "columns": 3, "direction": "horizontal", "titleLimit": 0},
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """One chart of the page."""

    name: str
    """Of its place in the page and of its files."""

    title: str
    note: str
    spec: Spec


def make_charts(runs: Sequence[RunHistory], labels: Sequence[str], scores: Mapping[str, Any]) -> list[Chart]:
    """Return the charts that the runs have figures for.

    Args:
        runs: one or more.
        labels: how each is called, all different.
        scores: JGLUE, `{"scores": encoder -> task -> metric -> value, "tokens": encoder -> positions}`.
    """
    scale, unit = token_unit(runs)
    draw = _Drawing(runs, labels, scale, unit)
    made = [
        draw.loss(),
        draw.line("learning_rate", "Learning rate", "learning rate", axis_format=".1e"),
        draw.line("seq_length", "Sequence length", "tokens a sample", step=True),
        draw.line("tokens_per_second", "Throughput", "tokens/s", axis_format="~s"),
        draw.line("mfu", "Model FLOPs utilisation (MFU)", "share of the device's peak", axis_format=".0%"),
        draw.line("grad_norm", "Gradient norm, before clipping", "L2 norm", log=True),
        draw.held_out("loss", "Held-out loss of each corpus", "loss (nats)"),
        draw.accuracy(),
        draw.held_out("masked_accuracy", "Held-out masked accuracy of each corpus", "share predicted right", ".0%"),
        _jglue(scores, scale, unit),
    ]  # fmt: skip
    return [chart for chart in made if chart is not None]


def token_unit(runs: Sequence[RunHistory]) -> tuple[float, str]:
    """Return the unit in which tokens are shown: its size and its name."""
    most = max((run.tokens for run in runs), default=0)
    return next((pair for pair in _UNITS if most >= pair[0]), _UNITS[-1])


class _Drawing:
    def __init__(self, runs: Sequence[RunHistory], labels: Sequence[str], scale: float, unit: str) -> None:
        self.runs, self.labels, self.scale, self.unit = runs, labels, scale, unit
        self.points = max(50, MOST_POINTS // len(runs))
        self.most = max((run.tokens for run in runs), default=0) / scale or 1.0

    def loss(self) -> Chart | None:
        rows = self._train_rows("loss", "training")
        held_out = [row for run, label in zip(self.runs, self.labels, strict=True)
                    for row in self._together(run, label, "loss")]  # fmt: skip
        return self._chart("loss", "Loss over tokens", "masked-LM loss (nats)", rows, held_out,
                           note="Shaded: the curriculum's stages, with their sequence lengths.")  # fmt: skip

    def accuracy(self) -> Chart | None:
        rows = self._train_rows("masked_accuracy", "training")
        held_out = [row for run, label in zip(self.runs, self.labels, strict=True)
                    for row in self._together(run, label, "masked_accuracy")]  # fmt: skip
        return self._chart("masked_accuracy", "Masked accuracy", "share of masked tokens predicted right",
                           rows, held_out, axis_format=".0%")  # fmt: skip

    def line(self, figure: str, title: str, unit: str, **options: Any) -> Chart | None:
        return self._chart(
            figure, title, unit, self._train_rows(figure, None, options.get("log", False)), [], **options
        )

    def held_out(self, figure: str, title: str, unit: str, axis_format: str = "") -> Chart | None:
        rows = []
        for run, label in zip(self.runs, self.labels, strict=True):
            longest = max((e.seq_length for e in run.evaluations), default=0)
            for e in run.evaluations:
                value = getattr(e, figure)
                if e.seq_length == longest and np.isfinite(value):
                    name = e.corpus if len(self.runs) == 1 else f"{label}: {e.corpus}"
                    rows.append(self._row(name, e.tokens / self.scale, value))
        rows = _evenly(rows, 3 * MOST_POINTS)
        return self._chart(f"held_out_{figure}", title, unit, [], rows, axis_format=axis_format,
                           note="At the longest length that was scored.")  # fmt: skip

    def _train_rows(self, figure: str, suffix: str | None, positive: bool = False) -> list[Spec]:
        rows = []
        for run, label in zip(self.runs, self.labels, strict=True):
            x, y = run.figures["consumed_tokens"] / self.scale, run.figures[figure]
            if positive:  # a logarithm has no place for 0
                y = np.where(y > 0, y, np.nan)
            if figure == "seq_length":  # a mean of two lengths is the length of no sample
                ends = np.flatnonzero(np.diff(y, append=np.nan) != 0)
                ends = np.union1d(ends, np.flatnonzero(np.diff(y, prepend=np.nan) != 0))
                x, y = x[ends], y[ends]
            name = label if suffix is None else suffix if len(self.runs) == 1 else f"{label}: {suffix}"
            rows += [
                self._row(name, p["x"], p["y"], p["lo"], p["hi"], int(p["n"]))
                for p in envelope(x, y, self.points)
            ]
        return rows

    def _together(self, run: RunHistory, label: str, figure: str) -> list[Spec]:
        """All corpora at the longest length, weighted by their scored tokens."""
        longest = max((e.seq_length for e in run.evaluations), default=0)
        by_step: dict[int, list[Any]] = {}
        for e in run.evaluations:
            if e.seq_length == longest and e.scored_tokens and np.isfinite(getattr(e, figure)):
                by_step.setdefault(e.step, []).append(e)
        name = f"held-out (length {longest:,})"
        return _evenly([
            self._row(name if len(self.runs) == 1 else f"{label}: {name}", some[0].tokens / self.scale,
                      sum(getattr(e, figure) * e.scored_tokens for e in some) / sum(e.scored_tokens for e in some))
            for _, some in sorted(by_step.items())
        ], MOST_POINTS)  # fmt: skip

    def _row(
        self, series: str, x: float, y: float, lo: float | None = None, hi: float | None = None, n: int = 1
    ) -> Spec:
        row: Spec = {"s": series, "x": _short(x), "y": _short(y)}
        if n > 1 and lo is not None and hi is not None:
            row |= {"lo": _short(lo), "hi": _short(hi)}
        return row

    def _chart(
        self,
        name: str,
        title: str,
        y_title: str,
        curves: list[Spec],
        marked: list[Spec],
        *,
        note: str = "",
        axis_format: str = "",
        log: bool = False,
        step: bool = False,
    ) -> Chart | None:
        if not curves and not marked:
            return None
        series = list(dict.fromkeys(row["s"] for row in [*curves, *marked]))
        axis: Spec = {"title": y_title} | ({"format": axis_format} if axis_format else {})
        scale: Spec = {"type": "log", "nice": False} if log else {"zero": False, "nice": True}
        if step:
            lengths = sorted({row["y"] for row in curves})
            scale, axis = {"type": "log", "base": 2}, {**axis, "values": lengths, "format": ",d"}
        encoding: Spec = {
            "x": {"field": "x", "type": "quantitative", "axis": {"title": self.unit, "grid": False, "tickCount": 6},
                  "scale": {"domain": [0, self.most], "nice": False}},
            "y": {"field": "y", "type": "quantitative", "axis": axis, "scale": scale},
            **_series_encoding(series),
            "tooltip": _tooltip(self.unit, y_title, axis_format),
        }  # fmt: skip
        tops = self._stages() if name in ("loss", "learning_rate", "seq_length", "masked_accuracy") else []
        layers: list[Spec] = [*tops, *self._events(name)]
        if any("lo" in row for row in curves):
            layers.append(_band(encoding))
            note = f"{note} A band runs from the lowest to the highest value of the steps that a point stands for, the line is their mean.".strip()
        layers += _lines(curves, marked, encoding, step=step)
        return Chart(name, title, note, _spec(layers, curves, marked))

    def _stages(self) -> list[Spec]:
        """The stages of the first run with a recipe, as far as it has come."""
        run = next((run for run in self.runs if run.recipe is not None and len(run.steps)), None)
        if run is None or run.recipe is None:
            return []
        curriculum = Curriculum(run.recipe)
        rows: list[Spec] = []
        for index, stage in enumerate(run.recipe.curriculum):
            start, end = (curriculum.consumed_tokens(step) for step in curriculum.stage_steps(index))
            if start < run.tokens:
                rows.append({"from": start / self.scale, "to": min(end, run.tokens) / self.scale,
                             "label": f"{stage.seq_length:,}", "odd": index % 2})  # fmt: skip
        for row in rows:
            # No room for a number where a stage is narrower than the number.
            row["label"] = row["label"] if row["to"] - row["from"] > 0.06 * rows[-1]["to"] else ""
            row["middle"] = (row["from"] + row["to"]) / 2
        x = {"field": "from", "type": "quantitative"}
        return [
            {"data": {"values": rows}, "mark": {"type": "rect", "color": "#808080"},
             "encoding": {"x": x, "x2": {"field": "to"}, "opacity": {"field": "odd", "type": "quantitative", "legend": None,
                          "scale": {"domain": [0, 1], "range": [0.06, 0.18]}}}},
            {"data": {"values": rows}, "mark": {"type": "text", "y": -7, "fontSize": 11},
             "encoding": {"x": {"field": "middle", "type": "quantitative"}, "text": {"field": "label"}}},
        ]  # fmt: skip

    def _events(self, name: str) -> list[Spec]:
        if name not in ("loss", "grad_norm", "tokens_per_second"):
            return []
        layers: list[Spec] = []
        for kind, shape, colour in (("restart", "stroke", "#8C8C8C"), ("skipped", "cross", "#D55E00")):
            rows = [
                {"x": _short(e.tokens / self.scale), "event": f"{e.kind}, step {e.step:,}", "reason": e.reason[:200], "run": label}
                for run, label in zip(self.runs, self.labels, strict=True) for e in run.events if e.kind == kind
            ]  # fmt: skip
            if not rows:
                continue
            tooltip = [
                {"field": field} for field in ("event", "reason", *(["run"] if len(self.runs) > 1 else []))
            ]
            mark: Spec = {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.3, "color": colour}
            if kind == "skipped":
                mark = {
                    "type": "point",
                    "shape": shape,
                    "filled": True,
                    "size": 70,
                    "angle": 45,
                    "y": {"expr": "height - 6"},
                    "color": colour,
                }
            layers.append({"data": {"values": _evenly(rows, _MOST_EVENTS)}, "mark": mark, "name": f"{kind}s",
                           "encoding": {"x": {"field": "x", "type": "quantitative"}, "tooltip": tooltip}})  # fmt: skip
        return layers


def _series_encoding(series: Sequence[str]) -> Spec:
    """Colours and dashes, one legend for both; where there is one series alone, no legend."""
    legend = (
        {"legend": None}
        if len(series) == 1
        else {
            "legend": {"columns": 1 if max(map(len, series)) > 24 else 2 if max(map(len, series)) > 14 else 3}
        }
    )
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(series))]
    # Past the last colour, the same colours come again with other dashes.
    dashes = [DASHES[(n + n // len(COLOURS)) % len(DASHES)] for n in range(len(series))]
    return {
        "color": {
            "field": "s",
            "type": "nominal",
            "scale": {"domain": list(series), "range": colours},
            **legend,
        },
        "strokeDash": {
            "field": "s",
            "type": "nominal",
            "scale": {"domain": list(series), "range": dashes},
            **legend,
        },
    }


def _tooltip(x_title: str, y_title: str, axis_format: str) -> list[Spec]:
    value: Spec = {"type": "quantitative", "format": axis_format.replace(".0%", ".2%") or ",.4~g"}
    return [
        {"field": "s", "title": "series"},
        {"field": "x", "type": "quantitative", "title": x_title, "format": ",.4~g"},
        {"field": "y", "title": y_title, **value},
        {"field": "lo", "title": "lowest", **value},
        {"field": "hi", "title": "highest", **value},
    ]


# `shown` holds the series that are drawn: a click in the legend takes one out or puts it back.
def _opacity(full: float) -> Spec:
    return {"condition": {"param": "shown", "empty": False, "value": full}, "value": 0}


def _band(encoding: Spec) -> Spec:
    y = {**encoding["y"], "field": "lo"}
    return {
        **_rows("isValid(datum.lo)"),
        "mark": {"type": "area"},
        "encoding": {
            **{"x": encoding["x"], "y": y, "y2": {"field": "hi"}},
            "color": encoding["color"],
            "opacity": _opacity(0.28),
        },
    }


def _lines(curves: list[Spec], marked: list[Spec], encoding: Spec, *, step: bool) -> list[Spec]:
    """The curves, the lines with a mark at every point, and what shows the figures under the pointer."""
    series = list(dict.fromkeys(row["s"] for row in [*curves, *marked]))
    shown: Spec = {
        "name": "shown",
        "select": {"type": "point", "fields": ["s"], "toggle": "true", "clear": False},
        "bind": "legend",
        "value": [{"s": name} for name in series],
    }
    plain = {key: value for key, value in encoding.items() if key != "tooltip"} | {"opacity": _opacity(1)}
    line: Spec = {"type": "line", "strokeWidth": 1.6} | ({"interpolate": "step-before"} if step else {})
    layers: list[Spec] = []
    for rows, of, mark in ((curves, "!datum.m", line), (marked, "datum.m", {**line, "strokeWidth": 2})):
        if rows:
            layers.append({**_rows(of), "mark": mark, "encoding": plain})
    if marked and len(marked) <= _MOST_DOTS * len({row["s"] for row in marked}):
        dots = {key: value for key, value in plain.items() if key != "strokeDash"}
        layers.append({**_rows("datum.m"), "mark": {"type": "point", "filled": True, "size": 28}, "encoding": dots})  # fmt: skip
    layers[0]["params"] = [shown]
    hover: Spec = {
        "name": "hover",
        "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"},
    }
    under = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0}
    layers.append({
        "data": {"name": "rows"}, "params": [hover], "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": {**{key: encoding[key] for key in ("x", "y", "color", "tooltip")}, "opacity": under},
    })  # fmt: skip
    return layers


def _rows(condition: str) -> Spec:
    return {"data": {"name": "rows"}, "transform": [{"filter": condition}]}


def _spec(layers: list[Spec], curves: list[Spec], marked: list[Spec]) -> Spec:
    """Return the whole chart; its rows stand in it once, those with a mark at every point have `m`."""
    rows = [*curves, *({**row, "m": 1} for row in marked)]
    return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "width": "container", "height": 280,
            "autosize": {"type": "fit-x", "contains": "padding"}, "config": CONFIG, "datasets": {"rows": rows},
            "layer": layers}  # fmt: skip


def _jglue(scores: Mapping[str, Any], scale: float, unit: str) -> Chart | None:
    from retrieva_pretrain.evaluation.summary import COLUMNS

    known = scores.get("tokens", {})
    order = sorted(known, key=lambda name: int(known[name]))
    rows = [
        {"s": title, "x": _short(known[name] / scale), "y": _short(value), "encoder": name}
        for task, metric, title in COLUMNS
        for name in order
        if (value := scores["scores"].get(name, {}).get(task, {}).get(metric)) is not None
    ]
    if not rows:
        return None
    series = list(dict.fromkeys(str(row["s"]) for row in rows))
    encoding: Spec = {
        "x": {"field": "x", "type": "quantitative", "axis": {"title": f"{unit} of pretraining", "grid": False}},
        "y": {"field": "y", "type": "quantitative", "axis": {"title": "score on the development set"}, "scale": {"zero": False}},
        **_series_encoding(series),
        "tooltip": [*_tooltip(unit, "score", ".3f")[:3], {"field": "encoder"}],
    }  # fmt: skip
    return Chart("jglue", "JGLUE over tokens", "", _spec(_lines([], rows, encoding, step=False), [], rows))


def _evenly(rows: list[Spec], most: int) -> list[Spec]:
    """Return at most so many rows, evenly chosen, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[n] for n in np.linspace(0, len(rows) - 1, most).astype(int)]


def _short(value: float) -> float:
    """Five digits: more are not seen, and a page of them is twice as large."""
    return float(f"{value:.5g}")
