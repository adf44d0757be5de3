"""The charts of runs as Vega-Lite specifications: plain data, drawn by the page and by `pictures.py` alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.evaluation.run import EarlierScores
from retrieva_pretrain.report.history import RunHistory
from retrieva_pretrain.report.jglue import scores_chart
from retrieva_pretrain.report.thinning import envelope
from retrieva_pretrain.report.vega_lite import (
    Chart,
    Spec,
    band,
    evenly,
    lines,
    series_encoding,
    short,
    tooltip,
    whole,
)

MOST_POINTS = 1000
"""Of one figure over all runs of a page."""

_UNITS = ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens"), (1.0, "tokens"))
_MOST_EVENTS = 200


def make_charts(runs: Sequence[RunHistory], labels: Sequence[str], scores: EarlierScores) -> list[Chart]:
    """Return the charts that the runs have figures for.

    Args:
        runs: one or more.
        labels: how each is called, all different.
        scores: JGLUE.
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
        scores_chart(scores, (scale, unit), draw.most),
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
        rows = evenly(rows, 3 * MOST_POINTS)
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
        return evenly([
            self._row(name if len(self.runs) == 1 else f"{label}: {name}", some[0].tokens / self.scale,
                      sum(getattr(e, figure) * e.scored_tokens for e in some) / sum(e.scored_tokens for e in some))
            for _, some in sorted(by_step.items())
        ], MOST_POINTS)  # fmt: skip

    def _row(
        self, series: str, x: float, y: float, lo: float | None = None, hi: float | None = None, n: int = 1
    ) -> Spec:
        row: Spec = {"s": series, "x": short(x), "y": short(y)}
        if n > 1 and lo is not None and hi is not None:
            row |= {"lo": short(lo), "hi": short(hi)}
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
            **series_encoding(series),
            "tooltip": tooltip(self.unit, y_title, axis_format),
        }  # fmt: skip
        tops = self._stages() if name in ("loss", "learning_rate", "seq_length", "masked_accuracy") else []
        layers: list[Spec] = [*tops, *self._events(name)]
        if any("lo" in row for row in curves):
            layers.append(band(encoding))
        layers += lines(curves, marked, encoding, step=step)
        return Chart(name, title, note, whole(layers, curves, marked))

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
            # No room for a word, or for a number, where a stage is narrower than that.
            share = (row["to"] - row["from"]) / rows[-1]["to"]
            row["label"] = f"length {row['label']}" if share > 0.25 else row["label"] if share > 0.06 else ""
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
                {"x": short(e.tokens / self.scale), "event": f"{e.kind}, step {e.step:,}", "reason": e.reason[:200], "run": label}
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
            layers.append({"data": {"values": evenly(rows, _MOST_EVENTS)}, "mark": mark, "name": f"{kind}s",
                           "encoding": {"x": {"field": "x", "type": "quantitative"}, "tooltip": tooltip}})  # fmt: skip
        return layers
