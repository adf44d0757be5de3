"""`retrieva demo`."""

from __future__ import annotations


def demo() -> None:
    """Run the main job in small, in the folder demo/: raw texts, tokenizer, corpora, four stages, a summary, an export.

    Example: retrieva demo
    """
    from retrieva_pretrain.demo import run_demo

    run_demo()
