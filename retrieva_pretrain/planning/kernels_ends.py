"""The kernels before the first layer and after the last: embedding, masked-LM head, loss. See `kernels.py`.

The loss is megatron-core's unfused vocabulary-parallel cross entropy, in fp32. With M the logits of a micro-batch, it moves
46 bytes for each (cast 6, maximum 4 + 2 of the accuracy, difference 8, exponential 8, sum 4, quotient 8; backward
quotient times gradient 8, cast 6), more than everything else at the ends.
"""

from __future__ import annotations

from retrieva_pretrain.planning.kernels import Kernel, Passes, Shape, linear, norm


def embedding(shape: Shape) -> Passes:
    """Return the kernels of word and position embedding and their dropout."""
    e = shape.element
    moved = e * shape.tokens * shape.hidden_size
    matrix = shape.vocabulary * shape.hidden_size
    drop = (2 * e + 1) * shape.between * shape.hidden_size if shape.hidden_dropout else 0
    return Passes(
        (
            Kernel("embedding rows", "pass", 4 * moved, launches=6),
            Kernel("embedding sum and order", "pass", 5 * moved, launches=2),
            Kernel("embedding dropout", "pass", drop),
        ),
        (
            Kernel("embedding dropout gradient", "pass", drop),
            Kernel("embedding gradient", "pass", 4 * moved + e * matrix, launches=8),
            Kernel("embedding gradient sum", "pass", (8 + e) * matrix),
        ),
    )


def head(shape: Shape) -> Passes:
    """Return the kernels of the final norm, the head on the scored positions, and the loss."""
    e, h, vocabulary = shape.element, shape.hidden_size, shape.vocabulary
    scored = shape.samples * shape.slots
    logits = float(scored * vocabulary)
    final = norm(shape, "final norm", shape.between)
    small = norm(shape, "head norm", scored)
    transform = linear(shape, "head transform", h, h, scored)
    scores = linear(shape, "logits", h, vocabulary, scored)
    moved = e * scored * h
    casts = 4 + e if e < 4 else 0
    return Passes(
        (
            *final.forward,
            Kernel("scored positions", "pass", 2 * moved),
            *transform.forward,
            Kernel("head activation", "pass", 4 * moved, launches=2),
            *small.forward,
            *scores.forward,
            Kernel("logits' bias", "pass", 2 * e * logits),
            Kernel("most probable token", "pass", e * logits, launches=8),
            Kernel("loss", "pass", (casts + 32) * logits, launches=14),
        ),
        (
            Kernel("loss gradient", "pass", (casts + 8) * logits, launches=8),
            Kernel("logits' bias gradient", "pass", e * logits, launches=2),
            *scores.backward,
            *small.backward,
            Kernel("head activation gradient", "pass", 6 * moved, launches=3),
            *transform.backward,
            Kernel("scored positions gradient", "pass", 2 * moved + e * shape.tokens * h, launches=2),
            *final.backward,
        ),
    )
