"""The picture of a curriculum: length, learning rate and tokens over the steps."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.recipe.schema import Recipe

_POINTS = 1000
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's: told apart by everybody


def plot_curriculum(path: Path, recipe: Recipe) -> None:
    """Draw the curriculum and write the picture; .png and .svg by the file's name.

    Raises:
        RetrievaError: matplotlib is not installed, the file's name ends otherwise, or it cannot be written.
    """
    if path.suffix not in (".png", ".svg"):
        raise RetrievaError(f"--plot {path}: name a file that ends in .png or .svg")
    if find_spec("matplotlib") is None:
        raise RetrievaError("--plot: needs matplotlib; install it: pip install 'retrieva-pretrain[report]'")
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    curriculum = Curriculum(recipe)
    total = curriculum.total_steps
    steps = sorted({*range(0, total, max(1, total // _POINTS)), total - 1})
    figure, (lengths, rates, tokens) = plt.subplots(3, 1, figsize=(8, 6.5), sharex=True, layout="constrained")
    for index, stage in enumerate(recipe.curriculum):
        start, end = curriculum.stage_steps(index)
        lengths.plot([start, end], [stage.seq_length] * 2, color=_BLUE, linewidth=3, solid_capstyle="butt")
        for axes in (lengths, rates, tokens):
            axes.axvspan(start, end, color="0.5", alpha=0.10 if index % 2 else 0.0, linewidth=0)
    lengths.set_yscale("log", base=2)
    ticks = sorted({stage.seq_length for stage in recipe.curriculum})
    lengths.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    lengths.minorticks_off()
    lengths.set_ylabel("sequence length")
    rates.plot(steps, [learning_rate(recipe, step) for step in steps], color=_ORANGE)
    rates.set_ylabel("learning rate")
    scale, unit = (1e9, "billion") if curriculum.total_tokens >= 1e9 else (1e6, "million")
    tokens.plot(
        [0, *(step + 1 for step in steps)],
        [0, *(curriculum.consumed_tokens(step + 1) / scale for step in steps)],
        color=_GREEN,
    )
    tokens.set_ylabel(f"tokens, {unit}")
    tokens.set_xlabel("optimizer steps")
    tokens.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axes in (lengths, rates, tokens):
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
    figure.suptitle(f"{recipe.name}: {total:,} steps, {curriculum.total_tokens / scale:,.1f} {unit} tokens")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise RetrievaError(f"--plot {path}: cannot be written: {error.strerror or error}") from None
    finally:
        plt.close(figure)
