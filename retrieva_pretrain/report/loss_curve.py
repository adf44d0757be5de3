"""The picture of a run: its loss over tokens with the stages shaded, the learning rate below."""

from __future__ import annotations

from pathlib import Path

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.report.charts import CONFIG, make_charts
from retrieva_pretrain.report.history import read_run
from retrieva_pretrain.report.pictures import write_picture


def draw_loss_curve(folder: Path, output: Path) -> None:
    """Draw the run in a folder into a picture; the file's ending chooses the format (.png, .svg).

    Raises:
        RetrievaError: the drawing library is not installed, or the run has no step to draw.
    """
    run = read_run(folder)
    charts = {chart.name: chart.spec for chart in make_charts([run], [run.name], {})}
    if "loss" not in charts or "learning_rate" not in charts:
        raise RetrievaError(f"{folder}: there is nothing to draw: no step has been recorded")
    parts = [
        {**{key: charts[name][key] for key in ("layer", "datasets")}, "width": 800, "height": height}
        for name, height in (("loss", 300), ("learning_rate", 90))
    ]
    for part in parts:  # one legend and one name for two charts would be mixed up
        part["layer"] = [
            {key: value for key, value in layer.items() if key != "params"} for layer in part["layer"]
        ]
        for layer in part["layer"]:
            layer["encoding"] = {k: v for k, v in layer["encoding"].items() if not _asks_for_a_pointer(v)}
        part["layer"] = [layer for layer in part["layer"] if layer["mark"].get("size") != 90]
    write_picture(
        {
            "config": CONFIG,
            "vconcat": parts,
            "resolve": {"scale": {"color": "independent", "strokeDash": "independent"}},
        },
        output,
    )


def _asks_for_a_pointer(encoding: object) -> bool:
    return isinstance(encoding, dict) and "param" in encoding.get("condition", {})
