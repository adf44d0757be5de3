"""A run's checkpoint becomes a directory that transformers loads, and that computes what was trained."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.export.parity import ParityError, batches, compare
from retrieva_pretrain.export.tokenizer import export_tokenizer
from retrieva_pretrain.export.weights import stored_precision, write_weights
from retrieva_pretrain.recipe.sections import ModelConfig
from retrieva_pretrain.training.checkpoint_files import read_description
from tests.command import retrieva
from tests.export.conftest import SaveRun, refused

pytestmark = pytest.mark.engine
TEXTS = ["あい<MASK|LLM-jp>えお", "abc かき"]


def test_the_directory_holds_what_the_published_model_does(
    exported: Path, saved: Path, small_tokenizer: Tokenizer
) -> None:
    config = json.loads((exported / "config.json").read_text())
    expected = {
        **{"model_type": "retrieva-bert", "num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 48},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "mlp_bias": True},
        **{"lm_head_hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"},
        **{
            "max_position_embeddings": 80,
            "type_vocab_size": 0,
            "vocab_size": 448,
            "tie_word_embeddings": True,
        },
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": small_tokenizer.piece_id("<PAD>")},
    }
    assert {key: config[key] for key in expected} == expected
    weights = load_file(exported / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    biases = [tensor for name, tensor in weights.items() if name.endswith("_proj.bias")]
    assert all(tensor.abs().max() > 0 for tensor in biases)
    for layer in range(4):
        gate, up = (weights[f"bert.layers.{layer}.mlp.{name}_proj.bias"] for name in ("gate", "up"))
        assert not torch.equal(gate, up)
    special = json.loads((exported / "special_tokens_map.json").read_text())
    assert special["mask_token"] == "<MASK|LLM-jp>" and special["cls_token"] == "<CLS|LLM-jp>"
    provenance = json.loads((exported / "export.json").read_text())
    assert provenance["step"] == 3 and provenance["parity"]["largest_difference"] < 1e-3
    assert len(set(provenance["parity"]["lengths"])) >= 4
    assert not [path for path in exported.parent.iterdir() if path != exported]

    card = (exported / "README.md").read_text(encoding="utf-8")
    for part in (
        "license: apache-2.0",
        "| ja |",
        "| 1 | 16 | 2 | 2 |",
        "| 2 | 64 | 4 | 1 |",
        "0.003 to 1e-05",
        "retrieva_pretrain",
    ):
        assert part in card, part
    assert str(saved.parent) not in card


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_auto_class_loads_it_and_learns_with_gradient_checkpointing(
    exported: Path, attention: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    b, s = batch.input_ids.shape
    choices = {name: tensor.unsqueeze(0) for name, tensor in batch.items()}
    cases = {
        AutoModelForMaskedLM: (batch, {"labels": batch.input_ids}, (b, s, 448)),
        AutoModelForSequenceClassification: (batch, {"labels": torch.tensor([0, 1])}, (b, 2)),
        AutoModelForTokenClassification: (batch, {"labels": torch.zeros(b, s, dtype=torch.long)}, (b, s, 2)),
        AutoModelForQuestionAnswering: (
            batch,
            {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([2, 99])},
            (b, s),
        ),
        AutoModelForMultipleChoice: (choices, {"labels": torch.tensor([1])}, (1, b)),
    }
    for auto, (inputs, labels, shape) in cases.items():
        model = auto.from_pretrained(
            exported, trust_remote_code=True, attn_implementation=attention, dtype=torch.float32
        )
        assert model.config._attn_implementation == attention
        out = model.eval()(**inputs, **labels)
        assert (out.start_logits if "start_logits" in out else out.logits).shape == shape
        gradients = []
        for kept in (True, False):
            model.zero_grad()
            if not kept:
                model.gradient_checkpointing_enable()
            torch.manual_seed(0)
            model.train()(**inputs, **labels).loss.backward()
            gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
    encoder = AutoModel.from_pretrained(exported, trust_remote_code=True, dtype=torch.float32).eval()
    out = encoder(**batch, output_hidden_states=True, output_attentions=True)
    assert out.last_hidden_state.shape == (b, s, 32) and len(out.hidden_states) == 5
    assert out.attentions[0].shape == (b, 4, s, s)
    with pytest.raises(ValueError, match="more than this model's 80 positions"):
        encoder(torch.zeros(1, 81, dtype=torch.long))


def test_it_survives_being_saved_and_loaded_by_transformers(exported: Path, tmp_path: Path) -> None:
    # transformers 5 takes the stored type by itself, 4.57 takes fp32.
    model = AutoModelForMaskedLM.from_pretrained(exported, trust_remote_code=True, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path, trust_remote_code=True, dtype="auto")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    model.resize_token_embeddings(450)
    assert model(torch.ones(1, 3, dtype=torch.long)).logits.shape == (1, 3, 450)


def test_the_snippet_of_the_model_card_runs_as_it_stands(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    named = snippet.replace(f'"{exported.name}"', repr(str(exported)))
    assert named != snippet
    scope: dict[str, object] = {}
    exec(named, scope)
    answers = scope["pipe"](scope["text"])
    assert len(answers) == 5 and all(0 < answer["score"] < 1 for answer in answers)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ours = pipeline("fill-mask", model=scope["model"], tokenizer=tokenizer)("<MASK|LLM-jp>あ")
    assert ours[0]["score"] >= ours[-1]["score"]


def test_fill_mask_answers_every_mask_with_tokens_of_the_vocabulary(exported: Path, tmp_path: Path) -> None:
    done = retrieva("fill-mask", exported, "あ<MASK|LLM-jp>い<MASK|LLM-jp>", "--top", "400", "--json")
    masks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(masks) == 2
    for answers in masks:
        assert len({answer["id"] for answer in answers}) == 400 and max(a["id"] for a in answers) < 400
        chances = [answer["probability"] for answer in answers]
        assert chances == sorted(chances, reverse=True) and 0.5 < sum(chances) <= 1.0001
    assert "holds no <MASK|LLM-jp>" in refused("fill-mask", exported, "あ")
    assert "80 positions" in refused("fill-mask", exported, "<MASK|LLM-jp>" * 100)
    assert "config.json" in refused("fill-mask", exported.parent, "<MASK|LLM-jp>")
    weights = load_file(exported / "model.safetensors")
    del weights["lm_head.dense.bias"]
    lacking = shutil.copytree(exported, tmp_path / "lacking")
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    assert "lm_head.dense.bias" in refused("fill-mask", lacking, "<MASK|LLM-jp>")
    (lacking / "model.safetensors").write_bytes(b"x")
    assert "cannot be loaded" in refused("fill-mask", lacking, "<MASK|LLM-jp>")


def test_sentence_transformers_loads_it_as_an_encoder(exported: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(exported), trust_remote_code=True, device="cpu")
    vectors = model.encode(["あいう", "かきく さ", "abc"])
    assert vectors.shape == (3, 32) and np.isfinite(vectors).all()
    alone = model.encode(["abc"])  # padding changes nothing
    np.testing.assert_allclose(vectors[2].astype(float), alone[0].astype(float), rtol=0.05, atol=0.05)


def test_weights_that_are_wrong_are_seen(
    exported: Path, saved: Path, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """RetrievaBERT's first release had the gate's bias in the place of up's."""
    from retrieva_pretrain.export.exported_model import write_exported_logits

    fast = export_tokenizer(small_tokenizer)
    made = batches(small_tokenizer, fast, 80)
    wrong = tmp_path / "wrong"
    shutil.copytree(exported, wrong)
    weights = load_file(wrong / "model.safetensors")
    weights["bert.layers.2.mlp.up_proj.bias"] = weights["bert.layers.2.mlp.gate_proj.bias"].clone()
    save_file(weights, wrong / "model.safetensors", {"format": "pt"})
    for name, directory in (("right", exported), ("wrong", wrong)):
        (tmp_path / f"{name}-logits").mkdir()
        write_exported_logits(directory, made, tmp_path / f"{name}-logits")
    same = compare(made, tmp_path / "right-logits", tmp_path / "right-logits")
    assert same.largest_difference == 0 and same.difference_bound == "0"
    # What is said to be a bound is one.
    assert replace(same, largest_difference=1.049e-5).difference_bound == "1.1e-05"
    with pytest.raises(ParityError, match="Nothing was published"):
        compare(made, tmp_path / "right-logits", tmp_path / "wrong-logits")


def test_bad_input_ends_in_one_message_and_leaves_nothing(
    saved: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "there is no such folder" in refused("export", tmp_path / "nothing", out)
    assert "there is no checkpoint yet" in refused("export", tmp_path, out)
    assert "there are: 3" in refused("export", saved, out, "--step", "4")
    assert "not empty" in refused("export", saved, exported)
    assert "--scores" in refused("export", saved, out, "--scores", tmp_path / "none.md")
    other = tmp_path / "other.model"
    shutil.copyfile(exported / "sentencepiece.model", other)
    with other.open("ab") as stream:
        stream.write(b"\x12\x00")
    assert "not the tokenizer of this run" in refused("export", saved, out, "--tokenizer", other)
    assert "--tokenizer" in refused("export", saved, out, "--tokenizer", tmp_path / "none.model")
    damaged = tmp_path / "damaged"
    shutil.copytree(saved, damaged)
    file = max(
        (damaged / "checkpoints" / "step_0000003").glob("*.distcp"), key=lambda path: path.stat().st_size
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert f"{file.name} is not what was written" in refused("export", damaged, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "other.model"]


UNTIED = "model.share_embeddings_and_output_weights=false"
TENSOR, PIPELINE = (f"parallelism.{kind}_model_parallel_size=2" for kind in ("tensor", "pipeline"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        (["model.num_query_groups=1", TENSOR], 2),
        (["model.num_query_groups=4", PIPELINE], 2),
        (["model.num_query_groups=2", UNTIED, TENSOR, PIPELINE], 4),
    ],
    ids=["MQA at TP=2", "MHA at PP=2", "GQA, untied, at TP=2 PP=2"],
)
def test_a_checkpoint_of_any_layout_is_exported(
    settings: list[str], processes: int, save_run: SaveRun, tmp_path: Path
) -> None:
    """That the export computes what the checkpoint does is what it checks itself before anything is there."""
    retrieva("export", save_run("any", *settings, processes=processes), tmp_path / "x")
    assert load_file(tmp_path / "x" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["model.num_query_groups=1", UNTIED],
        ["model.num_query_groups=4", "precision=fp32", "tokenizer.make_vocab_size_divisible_by=400"],
    ],
    ids=["MQA, untied", "MHA in fp32, nothing padded"],
)
def test_any_heads_are_exported_and_come_back(settings: list[str], save_run: SaveRun, tmp_path: Path) -> None:
    run = save_run("any", *settings)
    retrieva("export", run, tmp_path / "x")
    retrieva("import", tmp_path / "x", tmp_path / "imported")
    retrieva("export", tmp_path / "imported", tmp_path / "again")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("x", "again"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(other[name], tensor), name


@pytest.mark.slow
def test_an_fp32_run_is_exported_without_loss_and_in_bf16_where_that_is_asked_for(
    save_run: SaveRun, tmp_path: Path
) -> None:
    run = save_run("fp32", "precision=fp32")
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    retrieva("export", run, whole)
    retrieva("export", run, halved, "--dtype", "bf16")
    exact, rounded = (load_file(folder / "model.safetensors") for folder in (whole, halved))
    assert exact.keys() == rounded.keys()
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in exact.values())
    for name, tensor in exact.items():
        assert tensor.dtype == torch.float32, name
        assert torch.equal(rounded[name], tensor.bfloat16()), name
    for folder, dtype in ((whole, "float32"), (halved, "bfloat16")):
        config = json.loads((folder / "config.json").read_text())
        assert config["dtype"] == config["torch_dtype"] == dtype
        assert f"| Weights | {dtype} |" in (folder / "README.md").read_text(encoding="utf-8")
    # Computed with the weights that are published, so the parity of an fp32 export is no worse.
    parity = json.loads((whole / "export.json").read_text())["parity"]
    assert parity["largest_difference"] < 1e-4 * parity["largest_logit"]
    # The way back keeps the type.
    retrieva("import", whole, tmp_path / "imported")
    retrieva("export", tmp_path / "imported", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in exact.items())


def test_weights_are_written_in_the_type_that_is_asked_for(
    exported: Path, saved: Path, tmp_path: Path
) -> None:
    checkpoint = saved / "checkpoints" / "step_0000003"
    model = ModelConfig.model_validate(read_description(checkpoint)["identity"]["model"])
    assert stored_precision(checkpoint, model, 448) == "bf16"
    write_weights(checkpoint, model, 448, "fp32", tmp_path)
    before, wider = load_file(exported / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in wider.values()} == {torch.float32}
    assert all(torch.equal(wider[name], tensor.float()) for name, tensor in before.items())
    with pytest.raises(CheckpointError, match="cannot be found"):
        stored_precision(tmp_path, model, 448)
