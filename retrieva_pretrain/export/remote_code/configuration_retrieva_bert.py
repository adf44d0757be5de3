"""Configuration of RetrievaBERT for Hugging Face's transformers."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class RetrievaBertConfig(PretrainedConfig):
    """The shape of a RetrievaBERT: pre-norm, SwiGLU with biases, grouped queries, learned absolute positions.

    `num_key_value_heads` is 1 for multi-query attention, `num_attention_heads` for multi-head attention.
    `vocab_size` counts the rows of the embedding, which may be more than the tokenizer's pieces. `rope_theta` and
    `rotary_percent` are kept where a checkpoint carries them; positions are absolute.
    """

    model_type = "retrieva-bert"

    def __init__(
        self,
        vocab_size: int = 99584,
        hidden_size: int = 1536,
        num_hidden_layers: int = 48,
        num_attention_heads: int = 24,
        num_key_value_heads: int = 1,
        intermediate_size: int = 4096,
        hidden_act: str = "silu",
        mlp_bias: bool = True,
        lm_head_hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        classifier_dropout: float | None = None,
        max_position_embeddings: int = 2048,
        type_vocab_size: int = 0,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        position_embedding_type: str = "absolute",
        pad_token_id: int | None = 4,
        bos_token_id: int | None = 1,
        eos_token_id: int | None = 2,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.mlp_bias = mlp_bias
        self.lm_head_hidden_act = lm_head_hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.classifier_dropout = classifier_dropout
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.position_embedding_type = position_embedding_type
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
