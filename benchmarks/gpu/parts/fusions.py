"""The kernels by choice, one after another: what each brings over the one before, in a model of fewer layers."""

from __future__ import annotations

from choices import AT, CHOICES, LAYERS
from part import Part
from parts.lengths import profile, timed


def run(part: Part) -> None:
    """Measure."""
    choices = (
        {name: CHOICES[name] for name in ("unfused", "+ gradient accumulation")} if part.rehearse else CHOICES
    )
    for name, overrides in choices.items():
        if part.left < 12 and not part.rehearse:
            part.emit("speed", name=name, error="no time was left")
            continue
        time_choice(part, name, overrides)


def time_choice(part: Part, name: str, overrides: tuple[str, ...], *, is_profiled: bool = False) -> None:
    """Build the model with these kernels and time it at three lengths."""
    recipe = part.recipe(*overrides, *(() if part.rehearse else [f"model.num_layers={LAYERS}"]))
    part.join(recipe)
    bench = part.bench(recipe)
    index_of = {stage.seq_length: index for index, stage in enumerate(recipe.curriculum)}
    for length, samples in ({16: 4} if part.rehearse else AT).items():
        timed(part, bench, index_of[length], samples, name=name)
    if is_profiled:
        length, samples = (16, 4) if part.rehearse else (512, 16)
        part.attempt("profile", lambda: profile(part, bench, index_of[length], samples), name=name)
    bench.close()
