"""The picture of a run: its loss over tokens with the stages shaded, the learning rate below."""

from __future__ import annotations

from pathlib import Path

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.evaluation.run import EarlierScores
from retrieva_pretrain.report.charts import make_charts
from retrieva_pretrain.report.history import read_run
from retrieva_pretrain.report.pictures import write_picture
from retrieva_pretrain.report.vega_lite import CONFIG, Spec


def draw_loss_curve(folder: Path, output: Path) -> None:
    """Draw the run in a folder into a picture; the file's ending chooses the format (.png, .svg).

    Raises:
        RetrievaError: the drawing library is not installed, or the run has no step to draw.
    """
    run = read_run(folder)
    charts = {chart.name: chart.spec for chart in make_charts([run], [run.name], EarlierScores())}
    if "loss" not in charts or "learning_rate" not in charts:
        raise RetrievaError(f"{folder}: there is nothing to draw: no step has been recorded")
    parts, rows = [], {}
    for name, height in (("loss", 300), ("learning_rate", 90)):
        rows[name] = charts[name]["datasets"]["rows"]
        layers = [_still(layer, name) for layer in charts[name]["layer"] if "hover" not in _parameters(layer)]
        parts.append({"layer": layers, "width": 800, "height": height})
    # One legend for two charts would mix them up.
    apart = {"scale": {"color": "independent", "strokeDash": "independent"}}
    write_picture({"config": CONFIG, "datasets": rows, "vconcat": parts, "resolve": apart}, output)


def _still(layer: Spec, rows: str) -> Spec:
    """Return a layer without what answers a pointer: two charts in one picture may not share its names."""
    kept = {key: value for key, value in layer.items() if key != "params"}
    kept["encoding"] = {
        channel: value for channel, value in layer["encoding"].items() if not _asks_for_a_pointer(value)
    }
    if "name" in layer["data"]:
        kept["data"] = {"name": rows}
    if layer["mark"]["type"] == "area":
        kept["mark"] = {**layer["mark"], "opacity": 0.28}
    return kept


def _parameters(layer: Spec) -> set[str]:
    return {parameter["name"] for parameter in layer.get("params", [])}


def _asks_for_a_pointer(encoding: object) -> bool:
    return isinstance(encoding, dict) and "param" in encoding.get("condition", {})
