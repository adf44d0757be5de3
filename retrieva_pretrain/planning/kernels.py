"""The kernels of one micro-batch, by formula: what each multiplies and what it reads and writes. No torch.

Listed are the kernels that megatron-core's local layers (0.16.1 to 0.19.2) and this project's attention launch, forward
and backward. A kernel that only moves data costs the bytes that it reads and writes, each tensor once: caches are left
out, and so are tensors of a number per row. With T positions on one GPU, width h, feed-forward width f, q outputs of the
joint query-key-value projection, a heads, s positions of a sample, W weights and e bytes an element (2 in bf16):

    norm                   2eTh forward; 3eTh backward, and 2eTh for its weight and bias
    bias, dropout, sum     (7e + 1) Th unfused, (3e + 1) Th fused; backward (2e + 1) Th, and eTh for the bias
    bias and SwiGLU        11 eTf unfused, 3 eTf fused; backward 13 eTf and 5 eTf, and 2eTf for the bias
    unfused attention      (14 + 7e + 1) aTs forward, (16 + 10e + 1) aTs backward: the scores in bf16, in fp32 for the
                           softmax, and dropped
    flash attention        no scores: queries, keys, values, output; backward with fp32 sums of the queries' gradients
    weight gradients       12 W: written in bf16, added to fp32 sums; 8 W where the product adds them itself

Tests hold the bytes against a trace of the built model. The unfused terms are what one operator after the other does;
`compile_layers` counts what one pass has to read and write at least.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from retrieva_pretrain.recipe.kernels import ResolvedKernels

Work = Literal["product", "attention", "pass"]


@dataclass(frozen=True)
class Kernel:
    """One kernel, or `launches` kernels that share the work."""

    name: str
    work: Work
    """`product`: a matrix product. `attention`: a flash kernel. `pass`: bytes alone."""

    bytes: float
    operations: float = 0.0
    shape: tuple[int, int, int, int] | None = None
    """Of a product: batch, m, n, k."""

    launches: int = 1


@dataclass(frozen=True)
class Passes:
    """The kernels of a forward and of a backward pass."""

    forward: tuple[Kernel, ...] = ()
    backward: tuple[Kernel, ...] = ()


@dataclass(frozen=True)
class Shape:
    """One micro-batch of a model on one GPU."""

    samples: int
    seq_length: int
    hidden_size: int
    ffn_hidden_size: int
    heads: int
    """Like the next: of this GPU, divided by tensor parallelism."""

    groups: int
    kv_channels: int
    tensor: int
    """GPUs that share each layer."""

    sequence_parallel: bool
    slots: int
    """Positions of a sample that the head is run on."""

    vocabulary: int
    """Rows of the embedding on this GPU."""

    element: int
    """Bytes: 2 in bf16, 4 in fp32."""

    hidden_dropout: bool
    attention_dropout: bool
    inside_documents: bool
    kernels: ResolvedKernels

    @property
    def tokens(self) -> int:
        """Positions."""
        return self.samples * self.seq_length

    @property
    def between(self) -> float:
        """Positions that norms, dropout and sums see: a share under sequence parallelism."""
        return self.tokens / (self.tensor if self.sequence_parallel else 1)


def product(name: str, m: int, n: int, k: int, element: int, batch: int = 1) -> Kernel:
    """Return the kernel of [m, k] x [k, n]."""
    moved = element * batch * (m * k + k * n + m * n)
    return Kernel(name, "product", moved, 2.0 * batch * m * n * k, (batch, m, n, k))


def bytes_of(kernels: tuple[Kernel, ...]) -> float:
    """Return the bytes that kernels move."""
    return sum(kernel.bytes for kernel in kernels)


def layer(shape: Shape) -> Passes:
    """Return the kernels of one layer; nothing computed again."""
    core = attention(shape)
    feed_forward = _feed_forward(shape)
    into, out = _into_attention(shape), _out_of_attention(shape)
    return Passes(
        (*into.forward, *core.forward, *out.forward, *feed_forward.forward),
        (*feed_forward.backward, *out.backward, *core.backward, *into.backward),
    )


def linear(shape: Shape, name: str, inputs: int, outputs: int, tokens: int) -> Passes:
    """Return the products of one linear map; its bias is another kernel's."""
    e, weights = shape.element, inputs * outputs
    gradient = product(f"{name} weight gradient", outputs, inputs, tokens, e)
    if shape.kernels.gradient_accumulation_fusion:
        # Reads and writes the fp32 sum in the place of writing a gradient.
        gradients = [replace(gradient, bytes=gradient.bytes + (8 - e) * weights)]
    else:
        gradients = [gradient, Kernel(f"{name} gradient sum", "pass", (8 + e) * weights)]
    casts: list[Kernel] = []
    if shape.kernels.fp8 is not None:
        # Each operand is written in one byte twice, as it is and transposed.
        casts = [Kernel(f"{name} FP8 cast", "pass", (e + 2) * (tokens * inputs + weights), launches=2)]
    back = [Kernel(f"{name} FP8 cast", "pass", (e + 2) * tokens * outputs)] if casts else []
    return Passes(
        (*casts, product(name, tokens, outputs, inputs, e)),
        (*back, product(f"{name} input gradient", tokens, inputs, outputs, e), *gradients),
    )


def norm(shape: Shape, name: str, tokens: float) -> Passes:
    """Return a LayerNorm's kernels."""
    moved = shape.element * tokens * shape.hidden_size
    return Passes(
        (Kernel(name, "pass", 2 * moved),),
        (
            Kernel(f"{name} input gradient", "pass", 3 * moved),
            Kernel(f"{name} weight gradient", "pass", 2 * moved, launches=4),
        ),
    )


def _into_attention(shape: Shape) -> Passes:
    """The first norm and the joint projection."""
    e, h, tokens = shape.element, shape.hidden_size, shape.tokens
    outputs = (shape.heads + 2 * shape.groups) * shape.kv_channels
    first = norm(shape, "norm 1", shape.between)
    joint = linear(shape, "query-key-value", h, outputs, tokens)
    compiled = shape.kernels.compile_layers
    # Compiled, the product adds the bias, and the norm's backward adds the residual's gradient.
    bias = () if compiled else (Kernel("query-key-value bias", "pass", 2 * e * tokens * outputs),)
    return Passes(
        (*first.forward, *joint.forward, *bias),
        (
            Kernel("query-key-value concatenation", "pass", 2 * e * tokens * outputs),
            *joint.backward,
            Kernel("query-key-value bias gradient", "pass", e * tokens * outputs, launches=2),
            *first.backward,
            _residual(shape, "norm 1 residual"),
        ),
    )


def _residual(shape: Shape, name: str) -> Kernel:
    """Where two gradients meet. Compiled, the norm's backward reads the other one and writes the sum."""
    times = 1 if shape.kernels.compile_layers else 3
    moved = times * shape.element * shape.between * shape.hidden_size
    return Kernel(name, "pass", moved, launches=0 if times == 1 else 1)


def attention(shape: Shape) -> Passes:
    """Return the kernels between the projections."""
    return _unfused_attention(shape) if shape.kernels.keeps_scores else _flash_attention(shape)


def _flash_attention(shape: Shape) -> Passes:
    e, tokens = shape.element, shape.tokens
    of_queries = tokens * shape.heads * shape.kv_channels
    of_keys = tokens * shape.groups * shape.kv_channels
    operations = 4.0 * of_queries * shape.seq_length
    repeated = shape.groups < shape.heads
    # Gradients of keys and values come for every head and are summed over the heads of a group.
    summed = Kernel("key-value gradient sums", "pass", 2 * e * (of_queries + of_keys), launches=2)
    # Inside documents samples are laid end to end, which copies what goes in and what comes out.
    copies = (
        (Kernel("samples end to end", "pass", 2 * e * (2 * of_queries + 2 * of_keys), launches=4),)
        if shape.inside_documents
        else ()
    )
    return Passes(
        (*copies, Kernel("attention", "attention", e * 2 * (of_queries + of_keys), operations)),
        (
            Kernel(
                "attention gradient",
                "attention",
                e * (5 * of_queries + 4 * of_keys) + 8 * of_queries,
                2.5 * operations,
                launches=3,
            ),
            *((summed,) if repeated else ()),
            *copies,
        ),
    )


def _unfused_attention(shape: Shape) -> Passes:
    e, s, d = shape.element, shape.seq_length, shape.kv_channels
    batch = shape.samples * shape.heads
    scores = float(batch * s * s)
    of_queries = shape.tokens * shape.heads * d
    drop = shape.attention_dropout
    casts = 4 + e if e < 4 else 0
    mask = (Kernel("mask", "pass", 2 * e * scores),) if shape.inside_documents else ()
    repeat = (Kernel("repeat keys and values", "pass", 2 * e * of_queries, launches=2),)
    gather = (Kernel("repeat gradients", "pass", 2 * e * of_queries, launches=2),)
    is_repeated = shape.groups < shape.heads
    forward = (
        *(repeat if is_repeated else ()),
        product("scores", s, s, d, e, batch),
        *mask,
        *((Kernel("scores to fp32", "pass", casts * scores),) if casts else ()),
        Kernel("softmax", "pass", 8 * scores),
        *((Kernel("probabilities to bf16", "pass", casts * scores),) if casts else ()),
        *((Kernel("attention dropout", "pass", (2 * e + 1) * scores),) if drop else ()),
        product("weighted values", s, d, s, e, batch),
        Kernel("order of heads", "pass", 2 * e * of_queries),
    )
    backward = (
        Kernel("order of heads", "pass", 2 * e * of_queries),
        product("probabilities' gradient", s, s, d, e, batch),
        product("values' gradient", s, d, s, e, batch),
        *((Kernel("attention dropout gradient", "pass", (2 * e + 1) * scores),) if drop else ()),
        *((Kernel("probabilities to fp32", "pass", casts * scores),) if casts else ()),
        Kernel("softmax gradient", "pass", 12 * scores),
        *((Kernel("scores to bf16", "pass", casts * scores),) if casts else ()),
        *mask,
        product("queries' gradient", s, d, s, e, batch),
        product("keys' gradient", s, d, s, e, batch),
        Kernel("scale of gradients", "pass", 4 * e * of_queries, launches=2),
        *(gather if is_repeated else ()),
    )
    return Passes(forward, backward)


def _out_of_attention(shape: Shape) -> Passes:
    """The projection behind attention, bias, dropout, residual sum, and the second norm."""
    projection = linear(shape, "projection", shape.heads * shape.kv_channels, shape.hidden_size, shape.tokens)
    added = bias_dropout_add(shape, "attention", with_norm=True)
    second = norm(shape, "norm 2", shape.between)
    if shape.kernels.compile_layers:
        # The norm takes the sum as it is made, and writes alone.
        moved = shape.element * shape.between * shape.hidden_size
        second = Passes((Kernel("norm 2", "pass", moved, launches=0),), second.backward)
    return Passes(
        (*projection.forward, *added.forward, *second.forward),
        (*second.backward, _residual(shape, "norm 2 residual"), *added.backward, *projection.backward),
    )


def bias_dropout_add(shape: Shape, name: str, *, with_norm: bool = False) -> Passes:
    """Return the kernels of the bias, dropout and the residual sum; compiled, the one behind a norm joins its backward."""
    e, moved = shape.element, shape.between * shape.hidden_size
    compiled = shape.kernels.compile_layers
    mask = 1 if shape.hidden_dropout else 0
    label = f"{name} bias, dropout, sum"
    if shape.kernels.bias_dropout_fusion or compiled:
        forward = (Kernel(label, "pass", (3 * e + mask) * moved),)
    else:
        dropout = 2 * e + 1 if mask else 0
        forward = (Kernel(label, "pass", (5 * e + dropout) * moved, launches=2 + mask),)
    backward: list[Kernel] = []
    if mask:
        read = 0 if compiled and with_norm else e
        backward.append(Kernel(f"{label} gradient", "pass", (read + e + 1) * moved))
    backward.append(Kernel(f"{label} bias gradient", "pass", e * moved, launches=2))
    return Passes(forward, tuple(backward))


def _feed_forward(shape: Shape) -> Passes:
    e, h, f, tokens = shape.element, shape.hidden_size, shape.ffn_hidden_size // shape.tensor, shape.tokens
    up = linear(shape, "feed-forward in", h, 2 * f, tokens)
    down = linear(shape, "feed-forward out", f, h, tokens)
    moved = e * tokens * f
    if shape.kernels.bias_activation_fusion or shape.kernels.compile_layers:
        gate, gate_gradient = (
            Kernel("bias, SwiGLU", "pass", 3 * moved),
            Kernel("SwiGLU gradient", "pass", 5 * moved),
        )
    else:
        # Bias 4, SiLU 2, an offset of 0 for the other half 2, product 3; backward products 6, SiLU 3, halves joined 4.
        gate = Kernel("bias, SwiGLU", "pass", 11 * moved, launches=4)
        gate_gradient = Kernel("SwiGLU gradient", "pass", 13 * moved, launches=4)
    added = bias_dropout_add(shape, "feed-forward")
    return Passes(
        (*up.forward, gate, *down.forward, *added.forward),
        (
            *added.backward,
            *down.backward,
            gate_gradient,
            Kernel("feed-forward bias gradient", "pass", 2 * moved, launches=2),
            *up.backward,
        ),
    )
