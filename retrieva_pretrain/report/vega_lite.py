"""What all charts of a page are made of, as parts of Vega-Lite specifications.

Nothing is told by colour alone: every series has its own dashes too. Colours are Okabe and Ito's, of which those that
are read badly on white or on black are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Spec = dict[str, Any]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#A0522D")
DASHES = ([1, 0], [8, 3], [2, 2], [8, 3, 2, 3], [14, 4], [4, 4], [12, 3, 2, 3, 2, 3], [1, 3])
_MOST_DOTS = 60
"""Of one line; more run together."""
CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, 'Hiragino Sans', 'Noto Sans CJK JP', 'Noto Sans JP', 'Yu Gothic', Meiryo, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridOpacity": 0.5},
    "legend": {"labelFontSize": 12, "title": None, "orient": "top", "symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 3, "symbolOpacity": 1,
               "labelLimit": 340, "columns": 3, "direction": "horizontal", "titleLimit": 0},
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """One chart of the page."""

    name: str
    """Of its place in the page and of its files."""

    title: str
    note: str
    spec: Spec


def series_encoding(series: Sequence[str]) -> Spec:
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


def tooltip(x_title: str, y_title: str, axis_format: str) -> list[Spec]:
    """Return what the pointer shows of a point."""
    value: Spec = {"type": "quantitative", "format": axis_format.replace(".0%", ".2%") or ",.4~g"}
    return [
        {"field": "s", "title": "series"},
        {"field": "x", "type": "quantitative", "title": x_title, "format": ",.4~g"},
        {"field": "y", "title": y_title, **value},
        {"field": "lo", "title": "lowest", **value},
        {"field": "hi", "title": "highest", **value},
    ]


def band(encoding: Spec) -> Spec:
    """Return the layer from the lowest to the highest value of the steps that a point stands for."""
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


def lines(curves: list[Spec], marked: list[Spec], encoding: Spec, *, step: bool) -> list[Spec]:
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


def whole(layers: list[Spec], curves: list[Spec], marked: list[Spec]) -> Spec:
    """Return the whole chart; its rows stand in it once, those with a mark at every point have `m`."""
    rows = [*curves, *({**row, "m": 1} for row in marked)]
    return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "width": "container", "height": 280,
            "autosize": {"type": "fit-x", "contains": "padding"}, "config": CONFIG, "datasets": {"rows": rows},
            "layer": layers}  # fmt: skip


def evenly(rows: list[Spec], most: int) -> list[Spec]:
    """Return at most so many rows, evenly chosen, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[n] for n in np.linspace(0, len(rows) - 1, most).astype(int)]


def short(value: float) -> float:
    """Five digits: more are not seen, and a page of them is twice as large."""
    return float(f"{value:.5g}")


# `shown` holds the series that are drawn: a click in the legend takes one out or puts it back.
def _opacity(full: float) -> Spec:
    return {"condition": {"param": "shown", "empty": False, "value": full}, "value": 0}


def _rows(condition: str) -> Spec:
    return {"data": {"name": "rows"}, "transform": [{"filter": condition}]}
