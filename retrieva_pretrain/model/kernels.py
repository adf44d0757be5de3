"""The kernels of a recipe on this very machine: what the platform resolves to, less what is not installed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from retrieva_pretrain import platform
from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.kernels import ResolvedKernels, ignored_choices, resolve_kernels
from retrieva_pretrain.recipe.schema import Recipe

_COMPILED = ("bias_activation_fusion", "bias_dropout_fusion", "compile_layers")


@dataclass(frozen=True)
class _Lacking:
    """Why this machine cannot run some kernels; None where it can."""

    compilation: str | None
    weight_gradients: str | None


def kernels_here(recipe: Recipe) -> ResolvedKernels:
    """Return the kernels that a recipe runs on this process's platform.

    What a recipe leaves open falls back to what works here; `kernel_notes` says so.

    Raises:
        RecipeError: the recipe asks by name for a kernel that this machine cannot run.
    """
    kernels, lacking = resolve_kernels(recipe, platform.current().name), _lacking(recipe)
    for field in _COMPILED:
        if getattr(kernels, field) and lacking.compilation is not None:
            if getattr(recipe.kernels, field):
                raise RecipeError(
                    f"kernels.{field}: torch.compile needs {lacking.compilation}, which is not here. Install it, or"
                    " leave the field out"
                )
            kernels = replace(kernels, **{field: False})  # type: ignore[arg-type]
    if kernels.gradient_accumulation_fusion and lacking.weight_gradients is not None:
        if recipe.kernels.gradient_accumulation_fusion:
            raise RecipeError(
                f"kernels.gradient_accumulation_fusion: needs {lacking.weight_gradients}, which is not here. Install"
                " it, or leave the field out"
            )
        kernels = replace(kernels, gradient_accumulation_fusion=False)
    if kernels.fp8 is not None and not platform.current().has_fp8():
        raise RecipeError(
            f"kernels.fp8: {kernels.fp8} needs a GPU that multiplies in FP8 (H100 and later); leave it out"
        )
    return kernels


def kernel_notes(recipe: Recipe) -> list[str]:
    """Return the lines that a run says of its kernels: which they are, and what was ignored or is missing."""
    kernels, lacking = kernels_here(recipe), _lacking(recipe)
    wanted = resolve_kernels(recipe, platform.current().name)
    fusions = [
        name
        for name, is_on in (
            ("bias + activation", kernels.bias_activation_fusion),
            ("bias + dropout", kernels.bias_dropout_fusion),
            ("gradient accumulation", kernels.gradient_accumulation_fusion),
        )
        if is_on
    ]
    notes = [
        f"  kernels: attention {kernels.attention}, fusions: {', '.join(fusions) or 'none'}"
        + (", layers compiled" if kernels.compile_layers else "")
        + (f", FP8 {kernels.fp8}" if kernels.fp8 else "")
    ]
    if wanted.bias_activation_fusion and not kernels.bias_activation_fusion:
        notes.append(
            f"WARNING: kernels run unfused, which is slower: torch.compile needs {lacking.compilation}, which is not here"
        )
    if wanted.gradient_accumulation_fusion and not kernels.gradient_accumulation_fusion:
        notes.append(f"  weight gradients are added up unfused: {lacking.weight_gradients} would fuse them")
    return [*notes, *(f"WARNING: {message}" for message in ignored_choices(recipe, platform.current().name))]


def _lacking(recipe: Recipe) -> _Lacking:
    machine = platform.current()
    kernels = resolve_kernels(recipe, machine.name)
    return _Lacking(
        compilation=(
            machine.missing_for_compilation() if any(getattr(kernels, field) for field in _COMPILED) else None
        ),
        weight_gradients=(
            None
            if not kernels.gradient_accumulation_fusion or machine.offer_gradient_accumulation_fusion()
            else "a torch with torch.addmm(..., out_dtype=...), or Apex"
        ),
    )
