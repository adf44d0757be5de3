"""A SentencePiece tokenizer with LLM-jp's special pieces, for demos and for languages of one's own.

The settings are those of LLM-jp's ver3.0b1: Unigram, byte fallback, identity normalization, spaces
kept, a dummy prefix, digits apart. The same texts give the same model on any machine.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.sources import Document
from data_prep.sources.files import expand, open_decompressed
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import write_whole

CONTROL_PIECES = ("<MASK>", "<PAD>", "<CLS>", "<SEP>", "<EOD>")
_FIXED_PIECES = 3 + len(CONTROL_PIECES) + 256
_COVERAGE = 0.9995
_LEAST_COVERAGE = 0.98  # sentencepiece takes no less
_CANDIDATES_PER_PIECE = 20
# Longer sentences than sentencepiece's default 4,192 bytes are dropped by it without a word.
_SENTENCE_CHARACTERS = 1000
# The sums of the EM steps run per thread: their number has to be the same everywhere.
_THREADS = 4


def train_tokenizer(
    inputs: Sequence[CorpusConfig | Path | str],
    output: Path,
    vocab_size: int,
    *,
    character_coverage: float | None = None,
    max_bytes: int | None = None,
) -> Tokenizer:
    """Train on the documents of corpora and on raw text files, and write the model to `output`.

    Ids: 0 `<unk>`, 1 `<s>`, 2 `</s>`, 3 `<MASK>`, 4 `<PAD>`, 5 `<CLS>`, 6 `<SEP>`, 7 `<EOD>`, then 256
    bytes. `character_coverage` (0.98 to 1) is the share of running characters that get pieces, the rest
    becoming bytes; by default 0.9995, or less where the characters would fill more than half of the
    vocabulary. `max_bytes` bounds the text read from each input.

    Raises `DataPrepError` for unreadable input and for a vocabulary the text cannot fill.
    """
    if vocab_size <= _FIXED_PIECES:
        raise DataPrepError(
            f"vocab_size {vocab_size}: {_FIXED_PIECES} pieces are special ones and bytes; ask for more, "
            "for instance 4000."
        )
    if character_coverage is not None and not _LEAST_COVERAGE <= character_coverage <= 1:
        raise DataPrepError(f"character_coverage {character_coverage}: give {_LEAST_COVERAGE} to 1.")
    sentences = [line for item in inputs for line in _sentences(_texts(item), max_bytes)]
    if not sentences:
        raise DataPrepError("train-tokenizer: the inputs hold no text.")
    coverage = character_coverage or _fitting_coverage(sentences, vocab_size)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            split_by_whitespace=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            control_symbols=list(CONTROL_PIECES),
            max_sentence_length=8 * _SENTENCE_CHARACTERS,
            # The EM steps prune candidates down to the vocabulary; the default million of them takes
            # most of the time where the vocabulary is small.
            seed_sentencepiece_size=min(1_000_000, _CANDIDATES_PER_PIECE * vocab_size),
            num_threads=_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataPrepError(_explain(str(error), vocab_size)) from None
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, model.getvalue())
    return Tokenizer(output)


def _texts(item: CorpusConfig | Path | str) -> Iterator[str]:
    """The texts of one input: documents of a corpus, or lines of text files."""
    if isinstance(item, CorpusConfig):
        source = item.open_source()
        for path in expand(item.files) if source.reads_files else [Path(item.source)]:
            for record in source.read(path):
                if isinstance(record, Document):
                    yield record.text
        return
    for path in expand([str(item)]):
        with open_decompressed(path) as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataPrepError(
                        f"{path}: line {number}: byte {error.start + 1} is not UTF-8. "
                        "Training takes plain text; give other formats as a corpus YAML."
                    ) from None


def _sentences(texts: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """Lines, cut where they are very long; a newline is a byte piece and part of no sentence."""
    read = 0
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _SENTENCE_CHARACTERS):
                sentence = line[start : start + _SENTENCE_CHARACTERS].replace("\0", "")
                encoded = sentence.encode(errors="replace")
                read += len(encoded)
                if max_bytes is not None and read > max_bytes:
                    return
                if sentence.strip():
                    yield encoded.decode()


def _fitting_coverage(sentences: Sequence[str], vocab_size: int) -> float:
    """The usual coverage, or what leaves half of the vocabulary to pieces longer than one character."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence)
    total = sum(counts.values())
    room = (vocab_size - _FIXED_PIECES) // 2
    covered = sum(count for _, count in counts.most_common(room))
    return max(_LEAST_COVERAGE, min(_COVERAGE, covered / total))


def _explain(error: str, vocab_size: int) -> str:
    # "Vocabulary size too high (N). Please set it to a value <= M."
    if "too high" in error and (match := re.search(r"<= (\d+)", error)):
        return (
            f"vocab_size {vocab_size}: too large for this text; the largest possible is {match.group(1)}. "
            "Ask for that or less, or give more text."
        )
    # "Vocabulary size is smaller than required_chars. N vs M. ..."
    if match := re.search(r"required_chars\. \d+ vs (\d+)", error):
        return (
            f"vocab_size {vocab_size}: too small for the characters of this text, which need {match.group(1)} "
            f"pieces. Ask for more, or lower the character coverage (not below {_LEAST_COVERAGE})."
        )
    return f"sentencepiece could not train: {error.strip().splitlines()[-1]}"
