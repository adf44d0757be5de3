"""How a sample is made of a corpus's stream: who brings `<CLS>` and `<SEP>`, the window or the documents.

One format for the whole run. Where documents end in another piece, a window is `<CLS>`, tokens, `<SEP>`. Where
the corpora carry `<CLS>` and `<SEP>` round every document, a window is tokens alone. Both round one text would
teach the model two meanings of either.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.manifest import Manifest
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe

SPECIAL_TOKENS_PER_WINDOW = 2


def special_tokens_per_window(recipe: Recipe, manifests: Sequence[Manifest | None]) -> int:
    """Return how many tokens of a window come from no corpus: 2, or 0 where documents bring their own.

    Args:
        recipe: the run.
        manifests: of the corpora in the blend's order; None for one that is not on this machine. Where none is
            here, the recipe's wish for attention inside documents decides.

    Raises:
        CorpusError: the corpora differ, or are not what the recipe's `data.reset_*` need.
    """
    known = [(n, manifest) for n, manifest in enumerate(manifests) if manifest is not None]
    bracketed = [number for number, manifest in known if manifest.brackets_documents]
    plain = [number for number, manifest in known if not manifest.brackets_documents]
    paths = [corpus.path for corpus in recipe.data.blend]
    for number, manifest in known:
        _refuse_half_a_bracket(number, paths[number], manifest)
        if recipe.data.reset_position_ids and manifest.eod is None:
            raise CorpusError(
                f"data.reset_position_ids: {paths[number]} (data.blend.{number}) does not mark where a document"
                " ends. Build it with append_eod: true, or leave reset_position_ids false."
            )
    if plain and recipe.data.reset_attention_mask:
        raise CorpusError(
            f"data.reset_attention_mask: {paths[plain[0]]} (data.blend.{plain[0]}) has no <CLS> and <SEP> round"
            " its documents, and a document that sees no other needs its own. Build it with `bos: <CLS>` and"
            " `eod: <SEP>` in its corpus file, or leave reset_attention_mask false."
        )
    if plain and bracketed:
        raise CorpusError(
            f"data.blend: {paths[bracketed[0]]} has <CLS> and <SEP> round its documents and {paths[plain[0]]} has"
            " not; one run has one format. Build all of them with `bos: <CLS>` and `eod: <SEP>`, or none."
        )
    if bracketed or (not known and recipe.data.reset_attention_mask):
        return 0
    return SPECIAL_TOKENS_PER_WINDOW


def _refuse_half_a_bracket(number: int, path: str, manifest: Manifest) -> None:
    """A document that opens with <CLS> must close with <SEP>: windows cannot mend it."""
    if manifest.starts_with_cls and not manifest.brackets_documents:
        end = f"end with {manifest.eod.piece}" if manifest.eod is not None else "have no end token"
        raise CorpusError(
            f"data.blend.{number}.path: the documents of {path} begin with <CLS> and {end}. Build it with"
            " `eod: <SEP>` too, or without `bos`."
        )
