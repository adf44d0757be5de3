"""Scores of others on JGLUE's development sets, as the card of retrieva-jp/bert-1.3b prints them. No torch."""

from __future__ import annotations

PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    name: {
        "marc-ja": {"accuracy": marc},
        "jsts": {"pearson": pearson, "spearman": spearman},
        "jnli": {"accuracy": jnli},
        "jsquad": {"em": em, "f1": f1},
        "jcqa": {"accuracy": jcqa},
    }
    for name, marc, pearson, spearman, jnli, em, f1, jcqa in (
        ("tohoku-nlp/bert-base-japanese-v3", 0.957, 0.914, 0.876, 0.906, 0.878, 0.946, 0.849),
        ("tohoku-nlp/bert-large-japanese-v2", 0.959, 0.916, 0.877, 0.901, 0.884, 0.951, 0.867),
        ("ku-nlp/deberta-v3-base-japanese", 0.958, 0.925, 0.890, 0.902, 0.925, 0.910, 0.882),
        ("retrieva-jp/bert-1.3b", 0.952, 0.916, 0.877, 0.896, 0.916, 0.879, 0.815),
    )
}

SHIFTED_NOTE = "printed with EM above F1, which cannot be: its columns are shifted from here on"
