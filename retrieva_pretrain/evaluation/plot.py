"""The picture of scores over the tokens an encoder was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from retrieva_pretrain.evaluation.summary import COLUMNS


def plot_scores(
    path: Path,
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    consumed_tokens: Mapping[str, int],
) -> None:
    """Draw every metric over tokens and write the picture; its format follows the file's name.

    Args:
        path: the file.
        scores: by encoder, task and metric.
        consumed_tokens: positions each encoder was trained on; others are left out.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    order = sorted(scores.keys() & consumed_tokens.keys(), key=lambda name: consumed_tokens[name])
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    # Markers differ beside colours, for readers who do not tell these apart.
    for (task, metric, title), marker in zip(COLUMNS, "osD^vP*", strict=True):
        points = [(consumed_tokens[n], scores[n][task][metric]) for n in order if task in scores[n]]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label=title)
    axes.set_xlabel("positions of pretraining")
    axes.set_ylabel("score on the development set")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)
    plt.close(figure)
