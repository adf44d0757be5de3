"""Packages that a run may use where they are installed. No torch: asked before anything heavy is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.schema import Recipe

# A module that only the real package has: PyPI's `apex` is a web toolkit.
_MODULES = {
    "Transformer Engine": "transformer_engine.pytorch",
    "Apex": "apex.optimizers",
    "Apex's fused softmax": "scaled_masked_softmax_cuda",
}
_SHOWN = ("Transformer Engine", "Apex")


def optional_packages() -> dict[str, bool]:
    """Return which of the packages that megatron-core uses where it finds them are installed."""
    return {name: _has(_MODULES[name]) for name in _SHOWN}


def refuse_missing_packages(recipe: Recipe) -> None:
    """Raise RecipeError where a recipe asks for kernels that are not installed, or for another's package."""
    wanted = {
        "kernels.transformer_impl": (
            recipe.kernels.transformer_impl == "transformer_engine",
            "Transformer Engine",
        ),
        "kernels.masked_softmax_fusion": (recipe.kernels.masked_softmax_fusion, "Apex's fused softmax"),
    }
    for field, (is_wanted, package) in wanted.items():
        if is_wanted and not _has(_MODULES[package]):
            raise RecipeError(
                f"{field}: needs {package}, which is not installed here. NVIDIA's NGC PyTorch container has it;"
                " without it leave the field out."
            )
    if recipe.logging.wandb_project is not None and not _has("wandb"):
        raise RecipeError(
            "logging.wandb_project: needs wandb, which is not installed here. Install it: pip install"
            " 'retrieva-pretrain[wandb]', or leave the field out."
        )
    if _has("apex") and not _has(_MODULES["Apex"]):
        raise RecipeError(
            "the package `apex` that is installed here is not NVIDIA's, and megatron-core would take it for that one."
            " Remove it: pip uninstall apex."
        )


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
