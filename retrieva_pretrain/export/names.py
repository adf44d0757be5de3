"""Every tensor of the model: its name in a Megatron checkpoint, its names in transformers, and how one becomes the other.

The one place that knows names. A Megatron tensor of a layer is stored under one name for all layers, with the number
of the layer as its first axis; in transformers each layer has tensors of its own. Norms before a projection carry
Transformer Engine's names in every checkpoint, whichever layers the run was made of (megatron-core 0.16.1, 0.19.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from retrieva_pretrain.recipe.sections import ModelConfig

Kind = Literal["same", "qkv", "gate_up"]


@dataclass(frozen=True)
class Entry:
    """One tensor of a Megatron checkpoint."""

    megatron: str
    """Its name there."""

    hugging_face: tuple[str, ...]
    """The names in transformers, one or as many as the tensor is split into; `{}` stands for the layer's number."""

    kind: Kind
    """`same`: as it stands. `qkv`: for each key-value head its query heads, the key and the value, one after the
    other. `gate_up`: the gate's rows of SwiGLU, then the rows of up."""

    shape: tuple[int, ...]
    """Of the Megatron tensor, without the axis of layers."""

    in_layers: bool = False


def entries(model: ModelConfig, padded_vocab_size: int) -> list[Entry]:
    """Return the entries of a model, in the order in which it computes."""
    hidden, inner, vocab = model.hidden_size, model.ffn_hidden_size, padded_vocab_size
    qkv = (model.num_attention_heads + 2 * model.num_query_groups) * model.kv_channels
    found = [
        Entry(
            "embedding.word_embeddings.weight",
            ("bert.embeddings.word_embeddings.weight",),
            "same",
            (vocab, hidden),
        ),
        Entry(
            "embedding.position_embeddings.weight",
            ("bert.embeddings.position_embeddings.weight",),
            "same",
            (model.max_position_embeddings, hidden),
        ),
        *_layer("self_attention.linear_qkv.layer_norm_", ("input_layernorm",), "same", (hidden,), None),
        *_layer("self_attention.linear_qkv.", _of("self_attn", "q", "k", "v"), "qkv", (qkv,), hidden),
        *_layer("self_attention.linear_proj.", _of("self_attn", "o"), "same", (hidden,), hidden),
        *_layer("mlp.linear_fc1.layer_norm_", ("post_attention_layernorm",), "same", (hidden,), None),
        *_layer("mlp.linear_fc1.", _of("mlp", "gate", "up"), "gate_up", (2 * inner,), hidden),
        *_layer("mlp.linear_fc2.", _of("mlp", "down"), "same", (hidden,), inner),
        *_pair("encoder.final_layernorm.", "bert.final_layernorm", (hidden,), None),
        *_pair("lm_head.dense.", "lm_head.dense", (hidden,), hidden),
        *_pair("lm_head.layer_norm.", "lm_head.layer_norm", (hidden,), None),
        Entry("output_layer.bias", ("lm_head.decoder.bias",), "same", (vocab,)),
    ]
    if not model.share_embeddings_and_output_weights:
        found.append(Entry("output_layer.weight", ("lm_head.decoder.weight",), "same", (vocab, hidden)))
    return found


def places(model: ModelConfig, padded_vocab_size: int) -> Iterator[tuple[Entry, int | None]]:
    """Yield every entry with every layer it stands in, and with None where it stands outside of layers."""
    for entry in entries(model, padded_vocab_size):
        for layer in range(model.num_layers) if entry.in_layers else (None,):
            yield entry, layer


def names_there(entry: Entry, layer: int | None) -> tuple[str, ...]:
    """Return the names in transformers of an entry in a layer."""
    return entry.hugging_face if layer is None else tuple(name.format(layer) for name in entry.hugging_face)


def _of(block: str, *projections: str) -> tuple[str, ...]:
    return tuple(f"{block}.{name}_proj" for name in projections)


def _pair(
    megatron: str,
    hugging_face: str | tuple[str, ...],
    rows: tuple[int],
    columns: int | None,
    kind: Kind = "same",
) -> Iterator[Entry]:
    """Yield the entries of a module's weight (a vector, for a norm) and bias; `megatron` is what stands before those."""
    there = (hugging_face,) if isinstance(hugging_face, str) else hugging_face
    in_layers = "{}" in there[0]
    for name, shape in (("weight", rows if columns is None else (*rows, columns)), ("bias", rows)):
        yield Entry(f"{megatron}{name}", tuple(f"{one}.{name}" for one in there), kind, shape, in_layers)


def _layer(
    megatron: str, hugging_face: tuple[str, ...], kind: Kind, rows: tuple[int], columns: int | None
) -> Iterator[Entry]:
    return _pair(
        f"encoder.layers.{megatron}",
        tuple(f"bert.layers.{{}}.{name}" for name in hugging_face),
        rows,
        columns,
        kind,
    )
