"""The picture of a run: its loss over tokens with the stages shaded, the learning rate below."""

from __future__ import annotations

from pathlib import Path

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.report.metrics import read_metrics


def draw_loss_curve(folder: Path, output: Path) -> None:
    """Draw the run in a folder into a picture; the file's ending chooses the format (.png, .svg).

    Raises RetrievaError where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise RetrievaError("drawing needs matplotlib: pip install 'retrieva-pretrain[report]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_metrics(folder / "metrics.jsonl")
    steps = [r for r in records if r["kind"] == "train"]
    resumed = [r["step"] for r in records if r["kind"] == "start" and r["step"] > 0]
    longest = max((r["seq_length"] for r in records if r["kind"] == "evaluation"), default=0)
    held_out: dict[int, list[tuple[float, int]]] = {}
    for r in records:
        if r["kind"] == "evaluation" and r["seq_length"] == longest:
            held_out.setdefault(r["step"], []).append((r["loss"], r["scored_tokens"]))
    tokens = {0: 0, **{r["step"]: r["consumed_tokens"] for r in steps}}
    millions = [r["consumed_tokens"] / 1e6 for r in steps]

    figure, (top, bottom) = pyplot.subplots(
        2, 1, sharex=True, figsize=(9, 5), height_ratios=[4, 1], layout="constrained"
    )
    for stage in sorted({r["stage"] for r in steps}):
        mine = [r["consumed_tokens"] / 1e6 for r in steps if r["stage"] == stage]
        length = next(r["seq_length"] for r in steps if r["stage"] == stage)
        start = max((m for m, r in zip(millions, steps, strict=True) if r["stage"] < stage), default=0.0)
        for axes in (top, bottom):
            axes.axvspan(start, mine[-1], color="0.93" if stage % 2 else "0.98", zorder=0)
        top.text(
            (start + mine[-1]) / 2,
            1.01,
            f"length {length}",
            transform=top.get_xaxis_transform(),
            ha="center",
            fontsize=9,
        )
    top.plot(millions, [r["loss"] for r in steps], color="#0072B2", linewidth=0.8, label="training batches")
    points = sorted(held_out.items())
    top.plot(
        [tokens[step] / 1e6 for step, _ in points],
        [sum(loss * n for loss, n in rows) / sum(n for _, n in rows) for _, rows in points],
        color="#D55E00",
        marker="o",
        markersize=4,
        linewidth=1.2,
        label=f"held-out text (length {longest})",
    )
    for number, step in enumerate(resumed):
        label = "resumed from here" if number == 0 else None
        top.axvline(tokens[step] / 1e6, color="0.35", linestyle="--", linewidth=1, label=label)
    top.set_ylabel("masked-LM loss (nats)")
    top.legend(frameon=False)
    bottom.plot(millions, [r["learning_rate"] for r in steps], color="#009E73", linewidth=1.2)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("million tokens")
    bottom.margins(x=0)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    pyplot.close(figure)
