"""How long a step of a stage takes, by a model of its kernels and collectives: "modelled", never measured.

A step is the micro-batches of the busiest pipeline stage, (p - 1) more for the stages that wait (Narayanan et al., 2021),
the gradient's norm, clipping and the optimizer, and what of the data-parallel collectives nothing hides. Evaluations and
saves come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from retrieva_pretrain.planning.hardware import Hardware
from retrieva_pretrain.planning.kernels import Kernel, Shape, attention, layer
from retrieva_pretrain.planning.kernels_ends import embedding, head
from retrieva_pretrain.planning.network import between_stages, data_parallel, of_layer
from retrieva_pretrain.planning.parameters import rank_parameters
from retrieva_pretrain.planning.roofline import HOST_PAUSE, Busy, busy, copy_rate, rates
from retrieva_pretrain.recipe.kernels import resolve_kernels
from retrieva_pretrain.recipe.layout import StageLayout, scored_slots
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch on the busiest pipeline stage."""

    forward: Busy
    backward: Busy
    """With what is computed again."""

    network: tuple[float, float]
    """Seconds of tensor- and pipeline-parallel communication, forward and backward."""

    @property
    def busy(self) -> Busy:
        """Both passes."""
        return self.forward + self.backward

    @property
    def idle(self) -> float:
        """Seconds in which the device waits for the host."""
        return max(0.0, self.busy.host - self.busy.device) + HOST_PAUSE

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.busy.device + self.idle + sum(self.network)


@dataclass(frozen=True)
class StepSeconds:
    """A step of one stage, in seconds of the wall clock that add up to it."""

    arithmetic: float
    """In kernels that wait for their multiplications."""

    memory: float
    """In kernels that wait for the GPU's memory, the optimizer's among them."""

    network: float
    """In communication that nothing hides."""

    host: float
    """In which the GPU waits for the host."""

    pipeline: float
    """In which a pipeline stage waits for others."""

    @property
    def total(self) -> float:
        """The step."""
        return self.arithmetic + self.memory + self.network + self.host + self.pipeline

    @property
    def bound(self) -> str:
        """What most of it waits for: arithmetic, memory, network, host or pipeline."""
        parts = ("arithmetic", "memory", "network", "host", "pipeline")
        return max(parts, key=lambda part: float(getattr(self, part)))


def shape_of(recipe: Recipe, index: int, samples: int, padded_vocab_size: int) -> Shape:
    """Return a micro-batch of stage `index` on one GPU of the recipe's layout, with the kernels of CUDA."""
    model, sizes = recipe.model, recipe.parallelism
    tensor, length = sizes.tensor_model_parallel_size, recipe.curriculum[index].seq_length
    return Shape(
        samples=samples,
        seq_length=length,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        heads=model.num_attention_heads // tensor,
        groups=max(1, model.num_query_groups // tensor),
        kv_channels=model.kv_channels,
        tensor=tensor,
        sequence_parallel=sizes.sequence_parallel,
        slots=scored_slots(recipe.masking_probability(index), length),
        vocabulary=ceil(padded_vocab_size / tensor),
        element=2 if recipe.precision == "bf16" else 4,
        hidden_dropout=model.hidden_dropout > 0,
        attention_dropout=model.attention_dropout > 0,
        inside_documents=recipe.data.reset_attention_mask,
        kernels=resolve_kernels(recipe, "cuda"),
    )


def micro_batch(
    recipe: Recipe, index: int, samples: int, padded_vocab_size: int, hardware: Hardware
) -> MicroBatch:
    """Return one micro-batch of so many samples on the pipeline stage that takes longest.

    Raises:
        ValueError: the peak of the GPUs is not known.
    """
    shape = shape_of(recipe, index, samples, padded_vocab_size)
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    stages = [_on_rank(recipe, index, shape, hardware, rank) for rank in {0, pipeline - 1}]
    return max(stages, key=lambda stage: stage.seconds)


def _on_rank(recipe: Recipe, index: int, shape: Shape, hardware: Hardware, rank: int) -> MicroBatch:
    pipeline, stage = recipe.parallelism.pipeline_model_parallel_size, recipe.curriculum[index]
    layers = recipe.model.num_layers // pipeline
    speed = rates(hardware, shape)

    def run(kernels: tuple[Kernel, ...], *, backward: bool) -> Busy:
        return busy(kernels, speed, backward=backward)

    one = layer(shape)
    forward = run(one.forward, backward=False) * layers
    backward = run(one.backward, backward=True) * layers
    network = [layers * seconds for seconds in of_layer(shape, hardware)]
    if stage.recompute_granularity == "selective":
        backward += run(attention(shape).forward, backward=False) * layers
    elif stage.recompute_granularity == "full":
        again = min(stage.recompute_num_layers or layers, layers) / layers
        backward += forward * again
        network[1] += network[0] * again
    ends = [embedding(shape)] if rank == 0 else []
    ends += [head(shape)] if rank == pipeline - 1 else []
    for end in ends:
        forward += run(end.forward, backward=False)
        backward += run(end.backward, backward=True)
    if pipeline > 1:
        network = [seconds + between_stages(shape, hardware) for seconds in network]
    return MicroBatch(forward, backward, (network[0], network[1]))


def optimizer_seconds(
    recipe: Recipe, padded_vocab_size: int, data_parallel_size: int, hardware: Hardware
) -> float:
    """Return the seconds of gradient norm, clipping and Adam on one GPU, whose bytes bound them.

    Every parameter's fp32 gradient is cleared and scaled (12 bytes). Of its share a GPU reads the gradient for the norm
    (4), clips it (8), and reads gradient, master weight and two moments and writes the last three (28), and the weight.
    """
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    parameters = max(rank_parameters(recipe, padded_vocab_size, rank) for rank in range(pipeline))
    shares = data_parallel_size if recipe.parallelism.use_distributed_optimizer else 1
    written = 2 if recipe.precision == "bf16" else 0
    moved = parameters * (12 + (40 + written) / shares)
    return moved / copy_rate(hardware)


def step_seconds(
    recipe: Recipe, index: int, layout: StageLayout, padded_vocab_size: int, hardware: Hardware
) -> StepSeconds:
    """Return one step of stage `index`, modelled.

    Raises:
        ValueError: the peak of the GPUs is not known.
    """
    micro = micro_batch(recipe, index, layout.micro_batch_size, padded_vocab_size, hardware)
    copies = layout.data_parallel_size
    return assemble(
        recipe,
        layout,
        micro,
        optimizer=optimizer_seconds(recipe, padded_vocab_size, copies, hardware),
        exposed=data_parallel_wait(recipe, micro, copies, padded_vocab_size, hardware),
    )


def data_parallel_wait(
    recipe: Recipe, micro: MicroBatch, copies: int, padded_vocab_size: int, hardware: Hardware
) -> float:
    """Return the seconds of a step in which the copies of the model wait for each other's gradients and weights."""
    collectives = data_parallel(recipe, padded_vocab_size, copies, hardware)
    return collectives.exposed(recipe, micro.forward.device, micro.backward.device)


def assemble(
    recipe: Recipe, layout: StageLayout, micro: MicroBatch, *, optimizer: float, exposed: float
) -> StepSeconds:
    """Return the step that is made of these parts."""
    times = layout.num_microbatches
    waiting = recipe.parallelism.pipeline_model_parallel_size - 1
    return StepSeconds(
        arithmetic=times * micro.busy.arithmetic,
        memory=times * micro.busy.memory + optimizer,
        network=times * sum(micro.network) + exposed,
        host=times * micro.idle,
        pipeline=waiting * micro.seconds,
    )
