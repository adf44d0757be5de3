"""Special pieces are found by name, and a wrong name or file is said, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.errors import DataPrepError
from data_prep.tokenizer import CLS_SPELLINGS, MASK_SPELLINGS, PAD_SPELLINGS, SEP_SPELLINGS, Tokenizer


def test_llm_jp_special_pieces_are_found_by_name(llm_jp_model: Path) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    assert tokenizer.vocab_size == 99574
    assert tokenizer.special_ids == list(range(8))
    spellings = [MASK_SPELLINGS, PAD_SPELLINGS, CLS_SPELLINGS, SEP_SPELLINGS]
    assert [tokenizer.find_piece(*names) for names in spellings] == [3, 4, 5, 6]
    assert tokenizer.piece_id("</s>") == 2


def test_an_absent_piece_is_an_error_and_not_unk(llm_jp_model: Path) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    with pytest.raises(DataPrepError, match=r"no piece '</S>'.*Near ones: </s>"):
        tokenizer.piece_id("</S>")
    with pytest.raises(DataPrepError, match=r"none of the pieces '\[MASK\]', '<mask>'"):
        tokenizer.find_piece("[MASK]", "<mask>")
    assert tokenizer.piece_id("<unk>") == 0


def test_special_pieces_written_in_a_text_stay_text(llm_jp_model: Path) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    text = "<s>print('</s>')</s> <MASK>\n  二つの  空白"
    ids = tokenizer.encode([text])[0]
    assert not set(ids) & set(tokenizer.special_ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\x05"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(DataPrepError, match="not a SentencePiece model"):
        Tokenizer(path)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match="cannot be read"):
        Tokenizer(tmp_path / "absent.model")
