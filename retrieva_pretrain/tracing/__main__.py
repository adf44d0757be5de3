"""`python -m retrieva_pretrain.tracing`: reads what to trace from stdin as JSON, prints a line of JSON for each stage.

{"recipe": {...}, "gpus": 4, "padded_vocab_size": 99584, "stages": [0, 3]}
"""

from __future__ import annotations

import json
import sys

from retrieva_pretrain.platform.quiet import quiet_upstream


def main() -> None:
    """Trace and print."""
    quiet_upstream()
    from retrieva_pretrain.recipe.schema import Recipe
    from retrieva_pretrain.tracing.stages import trace_stages
    from retrieva_pretrain.tracing.trace import as_json

    request = json.load(sys.stdin)
    recipe = Recipe.model_validate(request["recipe"])
    for traced in trace_stages(recipe, request["gpus"], request["padded_vocab_size"], request["stages"]):
        sys.stdout.write(as_json(traced) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
