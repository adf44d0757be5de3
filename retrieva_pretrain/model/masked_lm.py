"""The model: megatron-core's `BertModel`, with a forward that leaves out what masked-LM training never needs.

`BertModel.forward` (megatron-core 0.16.1 to 0.19.2) fixes the positions to 0..s-1, always builds an
attention mask, and runs the head over every position. Windows of text have no padding, and a loss stands on
some 15 % of the positions only, so the one method overridden here takes the positions that are scored and
runs head and loss on those. Parameters, their names and the checkpoint are upstream's own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.bert.bert_model import BertModel
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from retrieva_pretrain.model.layers import DocumentAttention


class MaskedLanguageModel(BertModel):  # type: ignore[misc]
    """BERT with the masked-LM head: no next-sentence head, no token types."""

    def __init__(
        self, *arguments: Any, document_attention: DocumentAttention = "mask", **options: Any
    ) -> None:
        """Take what `BertModel` takes; `document_attention`: in which form layers learn where documents end."""
        super().__init__(*arguments, **options)
        self.document_attention = document_attention
        if self.post_process and self.config.sequence_parallel:
            # The head runs on positions gathered from the whole sequence, on every tensor-parallel process alike:
            # it gathers nothing itself, and its gradients, equal already, must not be added up.
            for parameter in self.lm_head.parameters():
                parameter.sequence_parallel = False
            self.output_layer.sequence_parallel = False
            self.output_layer.allreduce_dgrad = True

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        scored_positions: Tensor | None = None,
        labels: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **_unused: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            input_ids: [b, s] token ids.
            position_ids: [b, s]; 0..s-1 where None.
            attention_mask: bool, True where attention is NOT allowed, in the shape that the layer spec takes
                ([b, 1, s, s] for the local one); None where every position attends to every other.
            scored_positions: [b, m] positions to run the head on; every position where None.
            labels: [b, m] ids of the true tokens (m = s without `scored_positions`).
            segment_ids: [b, s] number of each position's document; attention stays inside documents. None where
                it crosses them.
            cu_seqlens: int32 [documents + 1] where documents begin when the samples are laid end to end
                (`data.segments.document_bounds`); goes with `segment_ids`, unless the layers take a mask.

        Returns:
            Before the last pipeline stage: hidden states [s, b, h].
            On the last, with labels: the loss of each scored position and whether its most probable token
            is the label, both float [b, m].
            On the last, without labels: logits [b, m, padded vocabulary / tensor-parallel size].

        Raises:
            ValueError: `segment_ids` without the `cu_seqlens` that these layers need.
        """
        encoder_input = None
        if self.pre_process:
            if position_ids is None:
                position_ids = self.bert_position_ids(input_ids)
            encoder_input = self.embedding(input_ids=input_ids, position_ids=position_ids)
        hidden_states = self._encoded(encoder_input, attention_mask, segment_ids, cu_seqlens)
        if not self.post_process:
            return hidden_states
        logits = self._logits(hidden_states, scored_positions)
        if labels is None:
            return logits.transpose(0, 1).contiguous()
        correct = _is_most_probable(logits.detach(), labels)
        return self.compute_language_model_loss(labels, logits), correct

    def _encoded(
        self,
        encoder_input: Tensor | None,
        attention_mask: Tensor | None,
        segment_ids: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> Tensor:
        """Run this pipeline stage's layers: [s, b, h], None after the first stage -> [s, b, h]."""
        documents = None
        if segment_ids is not None and attention_mask is None:
            if self.document_attention == "mask":
                attention_mask = other_segments(segment_ids)
            elif cu_seqlens is None:
                raise ValueError(
                    "these layers keep attention inside documents by their bounds: give cu_seqlens"
                )
            else:
                documents = self._documents(cu_seqlens, seq_length=segment_ids.size(1))
        if documents is not None and self.document_attention == "thd" and encoder_input is not None:
            return self._end_to_end(encoder_input, documents)
        return cast(
            Tensor,
            self.encoder(
                hidden_states=encoder_input, attention_mask=attention_mask, packed_seq_params=documents
            ),
        )

    def _documents(self, cu_seqlens: Tensor, seq_length: int) -> PackedSeqParams:
        """Describe documents to the layers. No document is longer than a sample: the device is not asked."""
        return PackedSeqParams(
            qkv_format="thd" if self.document_attention == "thd" else "sbhd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=seq_length,
            max_seqlen_kv=seq_length,
        )

    def _logits(self, hidden_states: Tensor, scored_positions: Tensor | None) -> Tensor:
        """Run the head: [s, b, h], or a sequence-parallel share of s, and [b, m] -> [m, b, v / tp]."""
        if self.config.sequence_parallel:
            # [s / tp, b, h] -> [s, b, h]; the gradients that come back are those of the whole loss on every process.
            hidden_states = tensor_parallel.gather_from_sequence_parallel_region(
                hidden_states, tensor_parallel_output_grad=False
            )
        if scored_positions is not None:
            hidden_states = _gather_positions(hidden_states, scored_positions)
        weight = (
            self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        )
        logits, _ = self.output_layer(self.lm_head(hidden_states), weight=weight)
        return cast(Tensor, logits)

    def _end_to_end(self, encoder_input: Tensor, documents: PackedSeqParams) -> Tensor:
        """Run the layers over samples laid end to end: [s, b, h] -> [b x s, 1, h] -> [s, b, h]."""
        length, samples, width = encoder_input.shape
        in_a_row = encoder_input.transpose(0, 1).reshape(samples * length, 1, width)
        output = self.encoder(hidden_states=in_a_row, attention_mask=None, packed_seq_params=documents)
        whole: Tensor = output.reshape(samples, length, width).transpose(0, 1).contiguous()
        return whole

    def _sanity_check_attention_and_get_attn_mask_dimension(self) -> str:
        """Keep the mask type that `layers.py` chose: upstream makes it `padding` for every Transformer Engine."""
        return "b1ss"


def other_segments(segment_ids: Tensor) -> Tensor:
    """[b, s] -> bool [b, 1, s, s], True where two positions belong to different documents: no attention there."""
    return (segment_ids.unsqueeze(1) != segment_ids.unsqueeze(2)).unsqueeze(1)


def _gather_positions(hidden_states: Tensor, positions: Tensor) -> Tensor:
    """[s, b, h] and [b, m] -> [m, b, h]."""
    index = positions.transpose(0, 1).unsqueeze(-1).expand(-1, -1, hidden_states.size(-1))
    return torch.gather(hidden_states, 0, index)


@torch.no_grad()
def _is_most_probable(logits: Tensor, labels: Tensor) -> Tensor:
    """[m, b, v / tp] and [b, m] -> [b, m]: 1.0 where the label has the largest logit of the whole vocabulary."""
    partition = logits.size(-1)
    best, index = logits.max(dim=-1)  # [m, b]
    index = index + partition * parallel_state.get_tensor_model_parallel_rank()
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        # bf16 cannot number the vocabulary's rows.
        both = torch.stack([best.float(), index.float()], dim=-1).unsqueeze(-2)  # [m, b, 1, 2]
        both = tensor_parallel.gather_from_tensor_model_parallel_region(both.transpose(-1, -2).contiguous())
        winner = both[..., 0, :].argmax(dim=-1, keepdim=True)  # [m, b, 1]
        index = both[..., 1, :].gather(-1, winner).squeeze(-1).long()
    correct: Tensor = index.transpose(0, 1) == labels
    return correct.float()
