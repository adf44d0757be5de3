"""The fields of `config.json`, from a model's shape in a recipe and back. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.recipe.schema import Precision
from retrieva_pretrain.recipe.sections import ModelConfig

MODEL_TYPE = "retrieva-bert"
_CONFIGURATION, _MODELING = "configuration_retrieva_bert", "modeling_retrieva_bert"
_HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
# A recipe's field, and its name in config.json.
_FIELDS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "max_position_embeddings": "max_position_embeddings",
    "layernorm_epsilon": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "init_method_std": "initializer_range",
    "share_embeddings_and_output_weights": "tie_word_embeddings",
}
# As transformers writes them.
DTYPE_NAMES: dict[Precision, str] = {"bf16": "bfloat16", "fp32": "float32"}
# What this project's model is; anything else is another model under the same name.
_FIXED = {
    "hidden_act": "silu",
    "mlp_bias": True,
    "lm_head_hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "type_vocab_size": 0,
}


def configuration(
    model: ModelConfig, vocab_size: int, special_ids: dict[str, int], precision: Precision
) -> dict[str, Any]:
    """Return `config.json` of a model whose embedding has `vocab_size` rows.

    `special_ids` are those of `bos_token`, `eos_token` and `pad_token`; `precision` is that of the weights.
    """
    content = model.model_dump(mode="json")
    return {
        "architectures": ["RetrievaBertForMaskedLM"],
        "auto_map": {
            "AutoConfig": f"{_CONFIGURATION}.RetrievaBertConfig",
            "AutoModel": f"{_MODELING}.RetrievaBertModel",
            **{f"AutoModelFor{head}": f"{_MODELING}.RetrievaBertFor{head}" for head in _HEADS},
        },
        "model_type": MODEL_TYPE,
        **{there: content[here] for here, there in _FIELDS.items()},
        **_FIXED,
        "vocab_size": vocab_size,
        "bos_token_id": special_ids["bos_token"],
        "eos_token_id": special_ids["eos_token"],
        "pad_token_id": special_ids["pad_token"],
        # transformers 4.57 reads the first, 5.x the second.
        "torch_dtype": DTYPE_NAMES[precision],
        "dtype": DTYPE_NAMES[precision],
    }


def read_configuration(folder: Path) -> tuple[ModelConfig, int]:
    """Read the shape of an exported model and the rows of its embedding.

    Raises:
        CheckpointError: there is no `config.json`, or it is that of another kind of model.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); give the folder of an exported model."
        ) from None
    if not isinstance(content, dict) or content.get("model_type") != MODEL_TYPE:
        found = content.get("model_type") if isinstance(content, dict) else None
        raise CheckpointError(f"{path}: model_type is {found!r}, and only {MODEL_TYPE!r} can be imported.")
    missing = [
        name
        for name in (*_FIELDS.values(), "vocab_size")
        if name not in content and name != "tie_word_embeddings"
    ]
    if missing:
        raise CheckpointError(f"{path}: `{missing[0]}` is missing.")
    for field, value in _FIXED.items():
        if content.get(field, value) != value:
            raise CheckpointError(
                f"{path}: `{field}` is {content[field]!r}; this project's model has {value!r} there."
            )
    fields = {here: content.get(there, True) for here, there in _FIELDS.items()}
    try:
        model = ModelConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = _FIELDS.get(str(first["loc"][0]), "") if first["loc"] else ""
        raise CheckpointError(f"{path}: {name + ': ' if name else ''}{first['msg']}") from None
    if type(content["vocab_size"]) is not int or content["vocab_size"] <= 0:
        raise CheckpointError(f"{path}: `vocab_size` must be a whole number above 0.")
    return model, content["vocab_size"]
