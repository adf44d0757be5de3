"""A tiny encoder with a tokenizer of single characters, and JGLUE's files in small with rules that can be learnt."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

CHARACTERS = "あいうえおかきくけこさしすせそ東西南北山川空海上下はでのを？。0123456789"


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights, as a folder."""
    transformers = pytest.importorskip("transformers", reason="the eval extra is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: number for number, piece in enumerate([*special, *CHARACTERS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=96, **dict(zip(names, special, strict=True))
    ).save_pretrained(folder)
    torch.manual_seed(1)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=96,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def jglue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five tasks, some plain and some gzipped, in more than one version."""
    folder = tmp_path_factory.mktemp("jglue")
    draw = random.Random(3)
    for split, count in (("train", 400), ("valid", 60)):
        write(folder / "marc_ja-v1.2" / f"{split}-v1.2.json", [marc(draw) for _ in range(count)])
        write(folder / "jsts-v1.3" / f"{split}-v1.3.json.gz", [jsts(draw) for _ in range(count)])
        write(folder / "jnli-v1.3" / f"{split}-v1.3.json", [jnli(draw) for _ in range(count)])
        write(folder / "jnli-v1.1" / f"{split}-v1.1.json", [{"of": "an older version"}])
        write(folder / "jcommonsenseqa-v1.3" / f"{split}-v1.3.json", [jcqa(draw) for _ in range(count)])
        squad = {"version": "1.3", "data": [jsquad(draw, f"{split}{n}") for n in range(count)]}
        (folder / "jsquad-v1.3").mkdir(exist_ok=True)
        (folder / "jsquad-v1.3" / f"{split}-v1.3.json").write_text(json.dumps(squad, ensure_ascii=False))
    return folder


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def noise(draw: random.Random, length: int = 8) -> str:
    return "".join(draw.choices("あいうえおかきくけこさしすせそ", k=length))


def marc(draw: random.Random) -> dict[str, Any]:
    label = draw.choice(["positive", "negative"])
    word = "上" if label == "positive" else "下"
    return {"sentence": noise(draw) + word + noise(draw), "label": label, "review_id": "R"}


def jsts(draw: random.Random) -> dict[str, Any]:
    score = draw.randint(0, 5)
    return {"sentence1": noise(draw), "sentence2": "山" * score + "川" * (5 - score), "label": float(score)}


def jnli(draw: random.Random) -> dict[str, Any]:
    label = draw.choice(["entailment", "contradiction", "neutral"])
    word = {"entailment": "東", "contradiction": "西", "neutral": "南"}[label]
    return {"sentence1": noise(draw), "sentence2": word + noise(draw), "label": label}


def jcqa(draw: random.Random) -> dict[str, Any]:
    label = draw.randrange(5)
    choices = {f"choice{n}": ("北" if n == label else "空") + noise(draw, 3) for n in range(5)}
    return {"q_id": 1, "question": noise(draw) + "？", **choices, "label": label}


def jsquad(draw: random.Random, name: str) -> dict[str, Any]:
    answer = "".join(draw.choices("0123456789", k=2))
    before = noise(draw, draw.randint(3, 12))
    context = f"{before}海{answer}海{noise(draw, 6)}"
    asked = {
        "id": name,
        "question": "海は？",
        "answers": [{"text": answer, "answer_start": len(before) + 1}],
        "is_impossible": False,
    }
    return {"title": "海", "paragraphs": [{"context": context, "qas": [asked]}]}
