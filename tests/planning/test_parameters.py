"""The number of parameters by formula. tests/model holds it against the model that Megatron builds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.recipe.schema import ModelConfig


def tiny(groups: int = 1, tied: bool = True) -> ModelConfig:
    return ModelConfig(
        num_layers=3,
        hidden_size=8,
        ffn_hidden_size=5,
        num_attention_heads=4,
        num_query_groups=groups,
        max_position_embeddings=16,
        share_embeddings_and_output_weights=tied,
    )


def test_every_matrix_and_bias_of_a_tiny_model_is_counted_by_hand() -> None:
    count = count_parameters(tiny(), padded_vocab_size=10)
    layer = sum(
        [
            2 * (8 + 8),  # two LayerNorms
            8 * (8 + 2 * 2) + (8 + 2 * 2),  # query, key and value: one head of size 2 for key and value
            8 * 8 + 8,  # projection
            8 * 10 + 10,  # gate and up
            5 * 8 + 8,  # down
        ]
    )
    assert count.layer == layer
    assert count.word_embedding == 80
    assert count.position_embedding == 128
    assert count.final_norm == 16
    assert count.head == 8 * 8 + 8 + 16 + 10
    assert count.total == 80 + 128 + 3 * layer + 16 + 98


def test_an_untied_head_has_its_own_matrix() -> None:
    assert count_parameters(tiny(tied=False), 10).total - count_parameters(tiny(), 10).total == 80


@settings(deadline=None)
@given(groups=st.sampled_from([1, 2, 4]))
def test_a_query_group_adds_a_key_and_a_value_head(groups: int) -> None:
    added = count_parameters(tiny(groups), 10).layer - count_parameters(tiny(1), 10).layer
    assert added == (groups - 1) * 2 * (8 * 2 + 2)


@settings(deadline=None)
@given(vocab=st.integers(0, 1000))
def test_a_row_of_the_vocabulary_costs_its_embedding_and_its_bias(vocab: int) -> None:
    assert count_parameters(tiny(), vocab).total == count_parameters(tiny(), 0).total + vocab * (8 + 1)
