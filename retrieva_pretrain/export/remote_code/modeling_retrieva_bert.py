"""RetrievaBERT for Hugging Face's transformers (4.57 and 5.x): a pre-norm encoder with a masked-LM head.

Shapes: b samples, s positions, h hidden size, n attention heads, k key-value heads, d = h / n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from .configuration_retrieva_bert import RetrievaBertConfig


class RetrievaBertEmbeddings(nn.Module):
    """Word and position embeddings; there are no token types, and the first norm is that of the first layer."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, input_ids: Tensor | None, position_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> Tensor:
        """[b, s] ids, or [b, s, h] vectors in their place -> [b, s, h]."""
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        length, most = inputs_embeds.shape[1], self.position_embeddings.num_embeddings
        if position_ids is None:
            if length > most:
                raise ValueError(
                    f"{length} tokens are more than this model's {most} positions; truncate the input"
                )
            # No buffer: transformers 5 builds modules on the meta device, and would leave one without its values.
            position_ids = torch.arange(length, device=inputs_embeds.device).unsqueeze(0)
        return self.dropout(inputs_embeds + self.position_embeddings(position_ids))


class RetrievaBertAttention(nn.Module):
    """Attention in which n / k query heads share one key-value head."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        kv_width = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv_width)
        self.v_proj = nn.Linear(config.hidden_size, kv_width)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """[b, s, h] -> [b, s, h], and the probabilities [b, n, s, s] where they are asked for.

        `mask`: bool [b, 1, s or 1, s], True where attention is allowed; None where it is everywhere.
        """
        b, s, _ = hidden_states.shape
        query = self.q_proj(hidden_states).view(b, s, -1, self.head_dim).transpose(1, 2)
        key = self._repeated(self.k_proj(hidden_states).view(b, s, -1, self.head_dim))
        value = self._repeated(self.v_proj(hidden_states).view(b, s, -1, self.head_dim))
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        probabilities = None
        if self.config._attn_implementation == "sdpa" and not output_attentions:
            context = nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=dropout
            )
        else:
            scores = query @ key.transpose(-1, -2) * self.head_dim**-0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
            context = nn.functional.dropout(probabilities, dropout, self.training) @ value
        return self.o_proj(context.transpose(1, 2).reshape(b, s, -1)), probabilities

    def _repeated(self, heads: Tensor) -> Tensor:
        """[b, s, k, d] -> [b, n, s, d]: each key-value head once for every query head of its group."""
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        return heads.transpose(1, 2).repeat_interleave(groups, dim=1)


class RetrievaBertMLP(nn.Module):
    """SwiGLU: down(act(gate(x)) * up(x))."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[b, s, h] -> [b, s, h]."""
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class RetrievaBertLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = RetrievaBertAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = RetrievaBertMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """[b, s, h] -> [b, s, h], and the attention's probabilities where they are asked for."""
        attended, probabilities = self.self_attn(self.input_layernorm(hidden_states), mask, output_attentions)
        hidden_states = hidden_states + self.dropout(attended)
        hidden_states = hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))
        return hidden_states, probabilities


class RetrievaBertPreTrainedModel(PreTrainedModel):
    """What all heads share: loading, saving, initial weights, gradient checkpointing."""

    config_class = RetrievaBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["RetrievaBertLayer"]  # noqa: RUF012 (transformers reads it as it stands)

    def _init_weights(self, module: nn.Module) -> None:
        # torch.nn.init and nothing else: transformers 5 keeps it from weights that were loaded.
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class RetrievaBertModel(RetrievaBertPreTrainedModel):
    """The encoder without a head."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__(config)
        self.embeddings = RetrievaBertEmbeddings(config)
        self.layers = nn.ModuleList(RetrievaBertLayer(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embedding."""
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Encode.

        Args:
            input_ids: [b, s] token ids; or `inputs_embeds`, [b, s, h], in their place.
            attention_mask: [b, s], 1 for tokens and 0 for padding; or bool [b, 1, s, s], True where attention is
                allowed.
            position_ids: [b, s]; 0..s-1 where None.
            inputs_embeds: [b, s, h] vectors in place of word embeddings.
            output_attentions: whether attention probabilities are returned; they are computed by the eager path.
            output_hidden_states: whether the states before each layer, and the last, are returned.
            return_dict: whether a `BaseModelOutput` is returned rather than a tuple.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        with_attentions = _chosen(output_attentions, self.config.output_attentions)
        with_states = _chosen(output_hidden_states, self.config.output_hidden_states)
        hidden_states = self.embeddings(input_ids, position_ids, inputs_embeds)
        mask = _allowed(attention_mask)
        states: list[Tensor] = []
        attentions: list[Tensor] = []
        for layer in self.layers:
            states.append(hidden_states)
            if self.gradient_checkpointing and self.training:
                hidden_states, probabilities = self._gradient_checkpointing_func(
                    layer.__call__, hidden_states, mask, with_attentions
                )
            else:
                hidden_states, probabilities = layer(hidden_states, mask, with_attentions)
            attentions.append(probabilities)
            if not with_states:
                states.clear()
        hidden_states = self.final_layernorm(hidden_states)
        output = BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=(*states, hidden_states) if with_states else None,
            attentions=tuple(attentions) if with_attentions else None,
        )
        return _returned(self, output, return_dict)


class RetrievaBertLMHead(nn.Module):
    """dense -> activation -> norm -> decoder with a bias for every row of the vocabulary."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.act_fn = ACT2FN[config.lm_head_hidden_act]
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., h] -> logits [..., vocabulary]."""
        return self.decoder(self.layer_norm(self.act_fn(self.dense(hidden_states))))


class RetrievaBertForMaskedLM(RetrievaBertPreTrainedModel):
    """The encoder with its masked-LM head: what was pretrained."""

    # transformers 5 reads both sides, 4.57 the keys alone.
    _tied_weights_keys = {"lm_head.decoder.weight": "bert.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__(config)
        self.bert = RetrievaBertModel(config)
        self.lm_head = RetrievaBertLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the decoder of the head."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder of the head."""
        self.lm_head.decoder = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Return logits [b, s, vocabulary], and the loss where there are `labels`: [b, s], -100 where none."""
        encoded = self.bert(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten().to(logits.device)
            )
        output = MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return _returned(self, output, return_dict)


class RetrievaBertClassificationHead(nn.Module):
    """dropout -> dense -> tanh -> dropout -> scores, on the first position (`<CLS|LLM-jp>`)."""

    def __init__(self, config: RetrievaBertConfig, num_labels: int) -> None:
        super().__init__()
        self.dropout = _classifier_dropout(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, num_labels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[b, s, h] -> [b, labels]."""
        pooled = torch.tanh(self.dense(self.dropout(hidden_states[:, 0])))
        return self.out_proj(self.dropout(pooled))


class RetrievaBertForSequenceClassification(RetrievaBertPreTrainedModel):
    """A class, several (multi-label), or a number for a text or a pair of texts."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = RetrievaBertModel(config)
        self.classifier = RetrievaBertClassificationHead(config, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Return logits [b, labels], and the loss where there are `labels`: [b], or [b, labels] of a multi-label task.

        What the task is follows `config.problem_type`, or else the number and type of the labels.
        """
        encoded = self.bert(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            if self.config.problem_type is None:
                whole = labels.dtype in (torch.long, torch.int)
                single = "single_label_classification" if whole else "multi_label_classification"
                self.config.problem_type = "regression" if self.num_labels == 1 else single
            loss = _classification_loss(logits, labels.to(logits.device), self.config.problem_type)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return _returned(self, output, return_dict)


class RetrievaBertForTokenClassification(RetrievaBertPreTrainedModel):
    """A class for every token."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = RetrievaBertModel(config)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Return logits [b, s, labels], and the loss where there are `labels`: [b, s], -100 where none."""
        encoded = self.bert(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten().to(logits.device)
            )
        output = TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return _returned(self, output, return_dict)


class RetrievaBertForQuestionAnswering(RetrievaBertPreTrainedModel):
    """Where in a text the answer to a question begins and ends."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__(config)
        self.bert = RetrievaBertModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """Return start and end logits, [b, s] each, and the loss where both positions, [b], are given.

        Positions outside the input are left out of the loss.
        """
        encoded = self.bert(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        start_logits, end_logits = self.qa_outputs(encoded.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            outside = start_logits.size(1)
            loss = sum(
                nn.functional.cross_entropy(
                    logits.float(),
                    places.reshape(-1).clamp(0, outside).to(logits.device),
                    ignore_index=outside,
                )
                for logits, places in ((start_logits, start_positions), (end_logits, end_positions))
            )
            loss = loss / 2
        output = QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return _returned(self, output, return_dict)


class RetrievaBertForMultipleChoice(RetrievaBertPreTrainedModel):
    """The right one of several continuations."""

    def __init__(self, config: RetrievaBertConfig) -> None:
        super().__init__(config)
        self.bert = RetrievaBertModel(config)
        self.classifier = RetrievaBertClassificationHead(config, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """[b, choices, s] -> logits [b, choices], and the loss where there are `labels`, [b]."""
        given = input_ids if input_ids is not None else inputs_embeds
        choices = given.shape[1]

        def flat(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.flatten(0, 1)

        encoded = self.bert(
            flat(input_ids),
            flat(attention_mask),
            flat(position_ids),
            flat(inputs_embeds),
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(encoded.last_hidden_state).view(-1, choices)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels.to(logits.device))
        output = MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return _returned(self, output, return_dict)


def _allowed(attention_mask: Tensor | None) -> Tensor | None:
    """[b, s] or [b, 1, s, s] -> bool, broadcast to [b, 1, s, s], True where attention is allowed."""
    if attention_mask is None:
        return None
    mask = attention_mask.bool()
    return mask if mask.dim() == 4 else mask[:, None, None, :]


def _classifier_dropout(config: RetrievaBertConfig) -> nn.Dropout:
    own = config.classifier_dropout
    return nn.Dropout(config.hidden_dropout_prob if own is None else own)


def _classification_loss(logits: Tensor, labels: Tensor, problem_type: str) -> Tensor:
    if problem_type == "regression":
        return nn.functional.mse_loss(logits.squeeze(-1).float(), labels.float().view_as(logits.squeeze(-1)))
    if problem_type == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return nn.functional.cross_entropy(logits.float(), labels.view(-1))


def _chosen(argument: bool | None, default: bool | None) -> bool:
    return bool(default if argument is None else argument)


def _returned(model: PreTrainedModel, output: Any, return_dict: bool | None) -> Any:
    as_dict = getattr(model.config, "return_dict", True) if return_dict is None else return_dict
    return output if as_dict else output.to_tuple()
