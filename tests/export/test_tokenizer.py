"""The fast tokenizer gives SentencePiece's ids for any text."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer

from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.samples.build import write_sample_corpora
from data_prep.tokenizer import Tokenizer
from data_prep.train_tokenizer import train_tokenizer
from retrieva_pretrain.bundled import sample_texts
from retrieva_pretrain.export.tokenizer import ExportedTokenizer, ExportedTokenizerError, export_tokenizer
from retrieva_pretrain.export.tokenizer_parity import (
    HOSTILE,
    TokenizerComparison,
    TokenizerParityError,
    refuse_other_ids,
)


@pytest.fixture(scope="module")
def demo_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer made as the demo makes its own, in which `<` is a piece."""
    folder = tmp_path_factory.mktemp("demo-tokenizer")
    raw = write_sample_corpora(folder / "raw")
    corpora = [
        CorpusConfig(
            name=name,
            source=source,
            files=[str(raw[name] / pattern)],
            tokenizer=TokenizerConfig(model="none"),
        )
        for name, source, pattern in (
            ("ja_cc", "llm_jp_cc", "*.jsonl.gz"),
            ("the_stack", "the_stack", "data/*/*.parquet"),
        )
    ]
    return train_tokenizer(corpora, folder / "demo.model", 1500)


@pytest.fixture(scope="module", params=["demo", "without <", "llm-jp"])
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, ExportedTokenizer]:
    """A SentencePiece model and its export: the demo's, one that does not know `<`, and LLM-jp's."""
    name = {"demo": "demo_tokenizer", "without <": "small_tokenizer"}.get(request.param)
    model = request.getfixturevalue(name) if name else Tokenizer(request.getfixturevalue("llm_jp_model"))
    return model, export_tokenizer(model)


@pytest.fixture(scope="module", params=["demo", "llm-jp"])
def real(request: pytest.FixtureRequest) -> tuple[Tokenizer, ExportedTokenizer]:
    """The two that take text as it is; the third normalises it, which no tokenizer for pretraining does."""
    name = "demo_tokenizer" if request.param == "demo" else "llm_jp_model"
    found = request.getfixturevalue(name)
    model = found if isinstance(found, Tokenizer) else Tokenizer(found)
    return model, export_tokenizer(model)


def test_hostile_text_gets_sentencepieces_ids(both: tuple[Tokenizer, ExportedTokenizer]) -> None:
    model, exported = both
    report = TokenizerComparison(model, exported.fast).compare(HOSTILE)
    assert not report.differences
    assert report.texts > 30


def test_every_special_and_byte_piece_written_out_is_text(both: tuple[Tokenizer, ExportedTokenizer]) -> None:
    model, exported = both
    pieces = [model.id_to_piece(number) for number in range(300)]
    written = [
        f"{before}{piece}{after}" for piece in pieces for before, after in (("", ""), ("a ", "b"), ("<", ">"))
    ]
    report = TokenizerComparison(model, exported.fast).compare(written)
    assert not report.differences and not report.ties


SPECIAL = ["<MASK>", "<PAD>", "<CLS>", "<SEP>"]


@pytest.mark.parametrize(
    "options",
    [
        {"control_symbols": ["<cls>", "<mask>", "<sep>", "<pad>"], "byte_fallback": True},
        {"control_symbols": SPECIAL},
        {"control_symbols": SPECIAL, "byte_fallback": True, "normalization_rule_name": "nmt_nfkc"},
        {"control_symbols": SPECIAL, "byte_fallback": True, "add_dummy_prefix": False},
        {"control_symbols": SPECIAL, "byte_fallback": True, "remove_extra_whitespaces": False},
        {"control_symbols": [*SPECIAL[::-1], "<EOD>"], "byte_fallback": True, "bos_id": 2, "eos_id": 1},
        {"control_symbols": SPECIAL, "user_defined_symbols": ["\n", "の", "<br>"], "byte_fallback": True},
    ],
    ids=[
        *("lower case", "without bytes", "NFKC", "no blank in front", "blanks kept", "other ids"),
        "user-defined",
    ],
)
def test_models_made_in_other_ways_get_sentencepieces_ids(options: dict[str, object], tmp_path: Path) -> None:
    texts = sample_texts()
    (tmp_path / "text").write_text("\n".join(texts) + "\n<div> a < b <s>x</s>\n" * 50, encoding="utf-8")
    made = {"normalization_rule_name": "identity", "unk_id": 0, "bos_id": 1, "eos_id": 2, **options}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "other"),
        vocab_size=1800,
        character_coverage=0.999,
        minloglevel=2,
        **made,
    )
    model = Tokenizer(tmp_path / "other.model")
    exported = export_tokenizer(model)
    hostile = [*HOSTILE, *(text * 3 for text in HOSTILE), "x▁", "▁▁", " ▁ a ▁ "]
    hostile += ["\n\na\nb <br><br>\n", "<b<br>r>", "私の\nの のの"]
    report = TokenizerComparison(model, exported.fast).compare([*hostile, *texts])
    assert not report.differences
    assert not refuse_other_ids(model, exported.fast, []).differences
    assert exported.fast.encode("あ<MASK|LLM-jp>い").ids.count(exported.ids["mask_token"]) == 1


@given(text=st.text(alphabet="<>|sunk/MASKLLM-jp0xAC ▁abあ亜\n", max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_mixture_of_their_characters_gets_the_same_ids(
    text: str, both: tuple[Tokenizer, ExportedTokenizer]
) -> None:
    model, exported = both
    if "<MASK|LLM-jp>" in text or (model.path.name == "small.model" and "\n" in text):
        return
    assert exported.fast.encode(text, add_special_tokens=False).ids == model.encode([text])[0].tolist()
    assert exported.fast.decode(exported.fast.encode(text, add_special_tokens=False).ids) == model.decode(
        model.encode([text])[0].tolist()
    )


def test_ids_are_those_of_the_model_and_names_those_of_llm_jp(
    both: tuple[Tokenizer, ExportedTokenizer],
) -> None:
    model, exported = both
    assert exported.fast.get_vocab_size() == model.vocab_size
    for name, piece in (
        ("mask", "<MASK>"),
        ("pad", "<PAD>"),
        ("cls", "<CLS>"),
        ("sep", "<SEP>"),
        ("bos", "<s>"),
    ):
        spelling = exported.special_tokens[f"{name}_token"]
        assert spelling == (piece if name == "bos" else f"{piece[:-1]}|LLM-jp>")
        assert exported.fast.token_to_id(spelling) == model.piece_id(piece) == exported.ids[f"{name}_token"]


def test_a_mask_in_a_prompt_is_the_mask_and_nothing_is_added_round_it(
    both: tuple[Tokenizer, ExportedTokenizer],
) -> None:
    model, exported = both
    mask = model.piece_id("<MASK>")
    ids = exported.fast.encode("あ<MASK|LLM-jp>い<MASK|LLM-jp><MASK|LLM-jp>").ids
    assert ids[0] == model.piece_id("<CLS>") and ids[-1] == model.piece_id("<SEP>")
    assert ids.count(mask) == 3
    after = ids[ids.index(mask) + 1]
    assert not exported.fast.id_to_token(after).startswith("▁")


def test_transformers_loads_it_with_pairs_and_without_token_types_and_saves_it_again(
    demo_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export_tokenizer(demo_tokenizer).write(tmp_path, 77)
    for _ in range(2):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        assert (cls, sep, pad, tokenizer.mask_token_id) == (5, 6, 4, 3)
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
        assert tokenizer.model_max_length == 77
        encoded = tokenizer(["a", "a b c"], ["b", "c"], padding=True)
        assert set(encoded) == {"input_ids", "attention_mask"}
        ids = encoded["input_ids"][0]
        assert ids[0] == cls and ids.count(sep) == 2 and ids[-1] == pad
        text = '<s>x</s> <CLS|LLM-jp> <unk>  "'
        assert (
            tokenizer(text, add_special_tokens=False).input_ids == demo_tokenizer.encode([text])[0].tolist()
        )
        assert tokenizer("a<MASK|LLM-jp>").input_ids.count(3) == 1
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
        with pytest.raises((TypeError, UnicodeEncodeError)):
            tokenizer("\ud800")
        tokenizer.save_pretrained(tmp_path)


def test_a_tokenizer_with_other_ids_is_refused(demo_tokenizer: Tokenizer) -> None:
    exported = export_tokenizer(demo_tokenizer)
    content = json.loads(exported.fast.to_str())
    for entry in content["model"]["vocab"][270:500]:
        entry[1] -= 5
    with pytest.raises(TokenizerParityError, match="gives other ids"):
        refuse_other_ids(demo_tokenizer, FastTokenizer.from_str(json.dumps(content)), sample_texts())


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(f"text {n} of some words" for n in range(500)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "bpe"),
        model_type="bpe",
        vocab_size=60,
        control_symbols=["<MASK>", "<PAD>", "<CLS>", "<SEP>"],
        minloglevel=2,
    )
    with pytest.raises(ExportedTokenizerError, match="only Unigram"):
        export_tokenizer(Tokenizer(tmp_path / "bpe.model"))


def _real_texts(shared: Path, most: int | None) -> Iterator[str]:
    """Yield the first texts of every real corpus."""
    corpora = shared / "corpora"
    for path in sorted([*corpora.glob("*.gz"), *corpora.glob("llm-jp-cc/*.gz")]):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in itertools.islice(lines, most):
                yield json.loads(line)["text"]
    (dump,) = (corpora / "wikipedia").glob("*.bz2")
    with bz2.open(dump, "rt", encoding="utf-8", errors="replace") as lines:
        yield from (
            iter(lambda: "".join(itertools.islice(lines, 200)), "")
            if most is None
            else ["".join(itertools.islice(lines, 200)) for _ in range(most)]
        )


def test_real_texts_get_the_same_ids(real: tuple[Tokenizer, ExportedTokenizer], shared: Path) -> None:
    model, exported = real
    report = TokenizerComparison(model, exported.fast).compare(_real_texts(shared, 25))
    assert not report.differences
    assert report.tokens > 50_000


def test_every_token_knows_the_characters_it_stands_for(
    real: tuple[Tokenizer, ExportedTokenizer], tmp_path: Path
) -> None:
    """Answers of SQuAD's kind are cut out of a text by these."""
    real[1].write(tmp_path, 77)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    context = "梅雨 [SEP] 梅雨(つゆ)は、<b>北海道</b>と𠮷野家😀。\n  改行 < foo bar"
    encoded = tokenizer("どこか。", context, return_offsets_mapping=True)
    pieces: dict[tuple[int, int], list[int]] = {}
    for number, span, part in zip(
        encoded["input_ids"], encoded["offset_mapping"], encoded.sequence_ids(0), strict=True
    ):
        if part == 1:
            pieces.setdefault(tuple(span), []).append(number)
    assert "".join(context[slice(*span)] for span in sorted(pieces)) == context
    for span, numbers in pieces.items():  # several where one character is spelt in bytes
        assert tokenizer.decode(numbers).strip() == context[slice(*span)].strip()


@pytest.mark.slow
def test_all_of_the_real_corpora_get_the_same_ids_ties_aside(
    real: tuple[Tokenizer, ExportedTokenizer], shared: Path
) -> None:
    model, exported = real
    report = TokenizerComparison(model, exported.fast).compare(_real_texts(shared, None))
    assert not report.differences
    print(report.texts, "texts,", report.tokens, "tokens,", len(report.ties), "ties:", *report.ties, sep="\n")
    assert len(report.ties) <= report.tokens / 20_000
