"""A SentencePiece tokenizer of LLM-jp's kind, trained on raw corpora: for the demo and for small experiments."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.sources import Document
from data_prep.sources.files import expand
from data_prep.sources.records import Malformed
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import write_whole

# The ids that follow <unk> 0, <s> 1 and </s> 2 in LLM-jp's ver3.0b1.
CONTROL_PIECES = ("<MASK>", "<PAD>", "<CLS>", "<SEP>", "<EOD>")
# SentencePiece leaves longer lines out (its limit is 4192 bytes); here they are cut instead.
_LONGEST_LINE = 1000


def train_tokenizer(
    corpora: Sequence[CorpusConfig], output: Path, vocab_size: int, *, characters_per_corpus: int = 10_000_000
) -> Tokenizer:
    """Train a Unigram model with byte fallback on the first characters of every corpus, and write it.

    No normalisation, a dummy prefix and untouched white space, as in LLM-jp's ver3.0b1, and its special pieces
    under the same ids. The same texts give the same model (one thread).

    Raises `DataPrepError` when a corpus cannot be read or its text does not carry so many pieces; nothing is
    written then.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(corpora, characters_per_corpus),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            # An indent of code is one piece, not one for each space.
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=True,
            character_coverage=0.9995,
            control_symbols=list(CONTROL_PIECES),
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataPrepError(_explain(str(error), vocab_size)) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, model.getvalue())
    return Tokenizer(output)


def _lines(corpora: Sequence[CorpusConfig], most: int) -> Iterator[str]:
    for corpus in corpora:
        source = corpus.open_source()
        paths = expand(corpus.files) if source.reads_files else [Path()]
        left, malformed = most, 0
        found = (record for path in paths for record in source.read(path))
        for records, record in enumerate(found, start=1):
            if left <= 0:
                break
            if isinstance(record, Malformed):
                malformed += 1
                if malformed > max(corpus.max_malformed * records, 10 if records > 1000 else 0):
                    raise DataPrepError(
                        f"{record} Mend it, or allow for it with max_malformed in the corpus file."
                    )
            if isinstance(record, Document):
                text = record.text[:left]
                left -= len(text)
                for line in text.splitlines():
                    for start in range(0, len(line), _LONGEST_LINE):
                        # A lone surrogate has no UTF-8, which SentencePiece reads.
                        yield line[start : start + _LONGEST_LINE].encode("utf-8", "replace").decode("utf-8")


def _explain(error: str, vocab_size: int) -> str:
    largest = re.search(r"value <= (\d+)", error)
    if largest:
        return (
            f"a vocabulary of {vocab_size} is more than the text carries; ask for {largest[1]} pieces at most"
        )
    smallest = re.search(r"smaller than required_chars\. (\d+) vs (\d+)", error)
    if smallest:
        return f"a vocabulary of {vocab_size} has no room for the characters of the text; ask for more than {smallest[2]}"
    return f"a tokenizer of {vocab_size} pieces cannot be trained: {error}"
