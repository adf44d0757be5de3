"""`build.html` and `build.png`: what the corpora of a folder hold, for people."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset
from data_prep.manifest import Manifest
from data_prep.whole_files import write_whole

_LENGTHS = [1 << power for power in range(1, 24)]
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
_MOST_FILES = 50


@dataclass(frozen=True)
class _Corpus:
    manifest: Manifest
    lengths: npt.NDArray[np.int64]


def write_build_page(folder: Path) -> list[Path]:
    """Write the page and the picture of all complete corpora in a folder; the files written.

    Without matplotlib (the extra `report`) there is the page alone, without pictures.
    """
    corpora = _corpora(folder)
    if not corpora:
        return []
    written = []
    picture = _picture(corpora)
    shown = "<p>No pictures: matplotlib is not installed.</p>"
    if picture is not None:
        write_whole(folder / "build.png", picture)
        written.append(folder / "build.png")
        data = base64.b64encode(picture).decode()
        shown = f'<img alt="lengths and shares of the corpora" src="data:image/png;base64,{data}">'
    page = _page(corpora, shown)
    write_whole(folder / "build.html", page.encode())
    return [folder / "build.html", *written]


def length_histogram(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(upper bound in tokens, documents) by powers of two, from the shortest length there is to the longest."""
    if not len(lengths):
        return []
    bins = np.searchsorted(_LENGTHS, lengths)
    counts = np.bincount(bins, minlength=len(_LENGTHS))
    first, last = int(bins.min()), int(bins.max())
    return [(2 ** (number + 1), int(counts[number])) for number in range(first, last + 1)]


def _corpora(folder: Path) -> list[_Corpus]:
    found = []
    for path in sorted(folder.glob("*.manifest.json")):
        prefix = path.with_name(path.name.removesuffix(".manifest.json"))
        try:
            found.append(_Corpus(Manifest.load(prefix), IndexedDataset(prefix).document_lengths()))
        except DataPrepError:
            # A damaged corpus of an earlier day is for `verify` to tell.
            continue
    return found


def _picture(corpora: Sequence[_Corpus]) -> bytes | None:
    """The lengths and the shares, as PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(11, 3.6 + 0.25 * len(corpora)))
    FigureCanvasAgg(figure)
    lengths, shares = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.95, bottom=0.15, wspace=0.25)
    _draw_lengths(lengths, corpora)
    _draw_shares(shares, corpora)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130)
    return png.getvalue()


def _draw_lengths(axes: Any, corpora: Sequence[_Corpus]) -> None:
    for number, corpus in enumerate(corpora):
        bins = length_histogram(corpus.lengths)
        share = [count / max(1, len(corpus.lengths)) for _, count in bins]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot([bound for bound, _ in bins], share, marker="o", color=colour, label=corpus.manifest.name)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens in a document, up to")
    axes.set_ylabel("share of the documents")
    axes.legend(fontsize="small")


def _draw_shares(axes: Any, corpora: Sequence[_Corpus]) -> None:
    names = [corpus.manifest.name for corpus in corpora]
    tokens = [corpus.manifest.counts.tokens for corpus in corpora]
    total = max(1, sum(tokens))
    colours = [_COLOURS[number % len(_COLOURS)] for number in range(len(corpora))]
    bars = axes.barh(names, [count / total for count in tokens], color=colours)
    axes.bar_label(bars, [f"{count / total:.1%}" for count in tokens], padding=3)
    axes.set_xlim(0, 1.15)
    axes.invert_yaxis()
    axes.set_xlabel(f"share of {total:,} tokens")


def _page(corpora: Sequence[_Corpus], pictures: str) -> str:
    sections = "".join(_section(corpus) for corpus in corpora)
    names = ("corpus", "source", "records", "documents", "tokens", "text bytes", "dropped", "not read")
    rows = "".join(_row(corpus.manifest) for corpus in corpora)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Corpora</title>'
        '<meta name="viewport" content="width=device-width"><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.2rem .7rem;text-align:right;"
        "border-bottom:1px solid #9996}td:first-child,th:first-child{text-align:left}"
        "img{max-width:100%;height:auto}@media(prefers-color-scheme:dark)"
        "{body{background:#161616;color:#ddd}}</style><h1>Corpora</h1>"
        f"<table><tr>{_cells(names, 'th')}</tr>{rows}</table>{pictures}{sections}</html>\n"
    )


def _row(manifest: Manifest) -> str:
    counts = manifest.counts
    numbers = (counts.records, counts.documents, counts.tokens, counts.text_bytes)
    lost = (sum(counts.dropped.values()), sum(counts.malformed.values()))
    return f"<tr>{_cells((manifest.name, manifest.source, *(f'{n:,}' for n in (*numbers, *lost))))}</tr>"


def _section(corpus: _Corpus) -> str:
    manifest = corpus.manifest
    counts = manifest.counts
    parts = [f"<h2>{html.escape(manifest.name)}</h2>"]
    groups = {
        "dropped": counts.dropped,
        "repaired": counts.repaired,
        "not read": counts.malformed,
        "contaminated, by task": counts.contaminated,
        **counts.labels,
    }
    for name, values in groups.items():
        if values:
            largest = sorted(values.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{html.escape(key)} {count:,}" for key, count in largest[:_MOST_FILES])
            more = f" and {len(largest) - _MOST_FILES:,} more" if len(largest) > _MOST_FILES else ""
            parts.append(f"<p><b>{html.escape(name)}</b>: {shown}{more}</p>")
    rows = "".join(
        f"<tr>{_cells((file.path, f'{file.documents:,}', f'{file.tokens:,}', f'{file.bytes:,}'))}</tr>"
        for file in manifest.files[:_MOST_FILES]
    )
    if rows:
        parts.append(
            f"<table><tr>{_cells(('file', 'documents', 'tokens', 'bytes'), 'th')}</tr>{rows}</table>"
        )
    if len(manifest.files) > _MOST_FILES:
        parts.append(f"<p>and {len(manifest.files) - _MOST_FILES:,} more files</p>")
    for problem in manifest.malformed_records[:20]:
        parts.append(f"<p>not read: {html.escape(str(problem))}</p>")
    return "".join(parts)


def _cells(values: Sequence[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
