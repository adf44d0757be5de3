"""Opening a recipe's corpora, and refusing those that do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.identity import differences, identity
from retrieva_pretrain.recipe.schema import Recipe

DOCUMENTS = [[20, 21, 22], [23, 24], [25]] * 10
STAGES = [(16, 4)]
MakeRecipe = Callable[..., Recipe]
OpenRun = Callable[..., tuple[Recipe, Corpora]]


@pytest.fixture
def two_corpora(
    tmp_path: Path, make_corpus: Callable[..., Path], make_recipe: MakeRecipe, small_tokenizer: Tokenizer
) -> Recipe:
    """A recipe over the corpora `good` and `bad`; what is bad of the second one, each test decides."""
    blend = [{"path": str(make_corpus(tmp_path, name, DOCUMENTS))} for name in ("good", "bad")]
    return make_recipe(small_tokenizer.path, blend, STAGES)


def refusal(recipe: Recipe) -> str:
    with pytest.raises(CorpusError) as refused:
        Corpora.open(recipe)
    return str(refused.value)


def test_corpora_that_fit_are_opened_with_their_fingerprints_and_shares(open_run: OpenRun) -> None:
    recipe, corpora = open_run({"a": DOCUMENTS, "b": DOCUMENTS[:6]}, STAGES)
    assert list(corpora.fingerprints) == [entry.path for entry in recipe.data.blend]
    for name, fingerprint in zip("ab", corpora.fingerprints.values(), strict=True):
        assert re.fullmatch(f"{name} [0-9a-f]{{64}}", fingerprint)
    # Without weights the corpora's tokens decide, the end tokens included.
    assert corpora.weights == (90.0, 18.0)


def test_the_same_text_under_another_name_is_another_corpus(open_run: OpenRun) -> None:
    # Its documents come in another order and others of them are held out, so no run may go on with it.
    prints = []
    for name in ("ja", "ja_cc"):
        recipe, corpora = open_run({name: DOCUMENTS}, STAGES)
        prints.append(identity(recipe, corpora.fingerprints, corpora.tokenizer.sha256))
    (line,) = differences(*prints)
    assert re.fullmatch(r"data\.blend\.0\.path: ja \w+ -> ja_cc \w+", line)


def test_given_weights_are_taken_as_they_are(open_run: OpenRun) -> None:
    _, corpora = open_run({"a": DOCUMENTS, "b": DOCUMENTS[:6]}, STAGES, weights=[0.25, 0.75])
    assert corpora.weights == (0.25, 0.75)


def test_special_pieces_are_found_by_name(open_run: OpenRun, small_tokenizer: Tokenizer) -> None:
    _, corpora = open_run({"a": DOCUMENTS}, STAGES)
    special = corpora.special
    named = {"<MASK>": special.mask, "<CLS>": special.cls, "<SEP>": special.sep, "<PAD>": special.pad}
    assert {small_tokenizer.id_to_piece(number): number for number in named.values()} == named
    assert {
        small_tokenizer.piece_id(piece) for piece in ("<unk>", "<s>", "</s>", "<EOD>")
    } < special.never_text


@pytest.mark.parametrize("path", ["nowhere/ja_cc", ".", "/"])
def test_a_path_with_no_corpus_is_refused(
    two_corpora: Recipe, make_recipe: MakeRecipe, path: str, small_tokenizer: Tokenizer
) -> None:
    blend = [{"path": two_corpora.data.blend[0].path}, {"path": path}]
    message = refusal(make_recipe(small_tokenizer.path, blend, STAGES))
    assert message.startswith(f"data.blend.1.path: there is no corpus {path}")
    assert "retrieva data build" in message


@pytest.mark.parametrize("ending", ["manifest.json", "bin", "idx"])
def test_a_corpus_of_which_a_file_is_missing_is_refused(two_corpora: Recipe, ending: str) -> None:
    file = Path(f"{two_corpora.data.blend[1].path}.{ending}")
    file.unlink()
    message = refusal(two_corpora)
    assert message.startswith("data.blend.1.path: ")
    assert str(file) in message


@pytest.mark.parametrize("ending", ["bin", "idx"])
@pytest.mark.parametrize("damage", [b"", b"\0", b"\0" * 64])
def test_files_that_do_not_belong_together_are_refused(
    two_corpora: Recipe, ending: str, damage: bytes
) -> None:
    file = Path(f"{two_corpora.data.blend[1].path}.{ending}")
    file.write_bytes(file.read_bytes() + damage if damage else file.read_bytes()[:-2])
    message = refusal(two_corpora)
    assert message.startswith("data.blend.1.path: ")
    assert file.name in message
    assert "again" in message


def test_an_index_that_does_not_match_its_bin_is_refused(
    two_corpora: Recipe, tmp_path: Path, make_corpus: Callable[..., Path]
) -> None:
    other = make_corpus(tmp_path, "other", DOCUMENTS[:-1])
    Path(f"{two_corpora.data.blend[1].path}.idx").write_bytes(Path(f"{other}.idx").read_bytes())
    message = refusal(two_corpora)
    assert message.startswith("data.blend.1.path: ")
    assert "bad.idx" in message


@pytest.mark.parametrize("documents", [10, 5000])
def test_an_index_of_another_corpus_of_the_same_size_is_refused(
    tmp_path: Path,
    make_corpus: Callable[..., Path],
    make_recipe: MakeRecipe,
    small_tokenizer: Tokenizer,
    documents: int,
) -> None:
    one, other = (
        make_corpus(tmp_path, name, pair * documents)
        for name, pair in (("one", [[20, 21, 22], [23]]), ("other", [[20, 21], [22, 23]]))
    )
    assert Path(f"{one}.bin").stat().st_size == Path(f"{other}.bin").stat().st_size
    Path(f"{one}.idx").write_bytes(Path(f"{other}.idx").read_bytes())
    message = refusal(make_recipe(small_tokenizer.path, [{"path": str(one)}], STAGES))
    assert message.startswith(f"data.blend.0.path: {one}.idx does not match one.bin")
    assert f"retrieva data verify {one}" in message


def test_an_index_with_a_document_of_negative_length_is_refused(two_corpora: Recipe) -> None:
    # Of the right sum and with an end token at either end: 4 + 3 + 2 tokens become 9 - 2 + 2.
    file = Path(f"{two_corpora.data.blend[1].path}.idx")
    index = bytearray(file.read_bytes())
    index[34:42] = (9).to_bytes(4, "little") + (-2).to_bytes(4, "little", signed=True)
    file.write_bytes(index)
    assert "bad.idx does not match bad.bin" in refusal(two_corpora)


def test_an_index_of_another_type_of_ids_is_refused(two_corpora: Recipe) -> None:
    file = Path(f"{two_corpora.data.blend[1].path}.idx")
    index = bytearray(file.read_bytes())
    index[17] = 3  # Megatron's code of int16; the ids are uint16
    file.write_bytes(index)
    assert "it says the ids are int16, the manifest says uint16" in refusal(two_corpora)


def test_a_corpus_without_end_tokens_is_opened(
    tmp_path: Path, make_corpus: Callable[..., Path], make_recipe: MakeRecipe, small_tokenizer: Tokenizer
) -> None:
    prefix = make_corpus(tmp_path, "plain", DOCUMENTS)
    end = small_tokenizer.piece_id("</s>")
    tokens = np.fromfile(f"{prefix}.bin", dtype=np.uint16)
    tokens[tokens == end] = 30
    tokens.tofile(f"{prefix}.bin")
    recipe = make_recipe(small_tokenizer.path, [{"path": str(prefix)}], STAGES)
    assert "documents do not end where it says" in refusal(recipe)
    manifest = Path(f"{prefix}.manifest.json")
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"append_eod": False, "eod": None}))
    assert Corpora.open(recipe).corpora[0].training_tokens == len(tokens)


def test_both_files_of_another_build_are_refused(
    two_corpora: Recipe, tmp_path: Path, make_corpus: Callable[..., Path]
) -> None:
    other = make_corpus(tmp_path, "other", DOCUMENTS[:-1])
    for ending in ("bin", "idx"):
        Path(f"{two_corpora.data.blend[1].path}.{ending}").write_bytes(Path(f"{other}.{ending}").read_bytes())
    assert "bad.bin has 176 bytes and its manifest says 180" in refusal(two_corpora)


def test_a_corpus_of_another_tokenizer_is_refused(two_corpora: Recipe) -> None:
    manifest = Path(f"{two_corpora.data.blend[1].path}.manifest.json")
    content = json.loads(manifest.read_text())
    content["tokenizer"].update(sha256="0" * 64, model="another.model")
    manifest.write_text(json.dumps(content))
    message = refusal(two_corpora)
    assert message.startswith("data.blend.1.path: ")
    assert "another.model" in message
    assert two_corpora.tokenizer.model in message


@pytest.mark.parametrize("documents", [[], [[]]])
def test_a_corpus_without_text_is_refused(
    tmp_path: Path,
    make_corpus: Callable[..., Path],
    make_recipe: MakeRecipe,
    small_tokenizer: Tokenizer,
    documents: list[list[int]],
) -> None:
    prefix = make_corpus(tmp_path, "empty", documents)
    message = refusal(make_recipe(small_tokenizer.path, [{"path": str(prefix)}], STAGES))
    assert message.startswith("data.blend.0.path: ")
    assert "no text to train on" in message


def test_two_corpora_of_one_name_are_refused(
    tmp_path: Path, make_corpus: Callable[..., Path], make_recipe: MakeRecipe, small_tokenizer: Tokenizer
) -> None:
    blend = [{"path": str(make_corpus(tmp_path / folder, "ja", DOCUMENTS))} for folder in ("x", "y")]
    message = refusal(make_recipe(small_tokenizer.path, blend, STAGES))
    assert "both named 'ja'" in message
    assert all(entry["path"] in message for entry in blend)


def test_a_tokenizer_that_is_not_there_is_refused(two_corpora: Recipe, make_recipe: MakeRecipe) -> None:
    blend = [{"path": entry.path} for entry in two_corpora.data.blend]
    message = refusal(make_recipe(Path("nowhere.model"), blend, STAGES))
    assert message.startswith("tokenizer.model: nowhere.model")


def test_a_tokenizer_without_a_mask_is_refused(
    tmp_path: Path, two_corpora: Recipe, make_recipe: MakeRecipe
) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 100),
        model_prefix=str(tmp_path / "plain"),
        vocab_size=20,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    blend = [{"path": entry.path} for entry in two_corpora.data.blend]
    message = refusal(make_recipe(tmp_path / "plain.model", blend, STAGES))
    assert message.startswith("tokenizer.model: ")
    assert "'<MASK>'" in message
