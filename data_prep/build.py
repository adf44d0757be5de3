"""Raw files to a corpus: read, tokenize, write, and the manifest last.

One process reads and writes; sentencepiece tokenizes with threads. Memory stays with one batch of
texts and 4 bytes a document. Nothing has its final name before everything is on the disk.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.existing import complete_manifest
from data_prep.indexed import IndexedDatasetWriter, token_dtype
from data_prep.manifest import Counts, EndOfDocument, Manifest, Output, Outputs, SourceFile, TokenizerRecord
from data_prep.sources import Document, Record, Source
from data_prep.sources.files import expand
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import sha256_file

_BATCH_CHARACTERS = 2_000_000
_BATCH_DOCUMENTS = 2_000
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a build stands; `unchanged` means that the complete corpus was there already."""

    stage: Literal["checking", "reading", "finishing", "unchanged", "built"]
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    files_done: int = 0
    files: int = 0
    source_bytes_done: int = 0
    source_bytes: int = 0


@dataclass(slots=True)
class _Tally:
    text_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)


def corpus_prefix(config: CorpusConfig, output_dir: Path) -> Path:
    """`DIR/NAME`, what the other commands take as the corpus."""
    return Path(output_dir) / config.name


def build(
    config: CorpusConfig,
    output_dir: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    overwrite: bool = False,
    num_threads: int | None = None,
) -> Manifest:
    """Build `output_dir/NAME.bin`, `.idx` and the manifest, and return the manifest.

    A complete corpus of the same inputs and options is left as it is; its manifest is returned.
    `num_threads` are those of sentencepiece (default: the CPUs this process may use).

    Raises `DataPrepError` for malformed input, for a corpus of other inputs under the same name unless
    `overwrite`, and where the disk refuses; nothing is left under the final names then.
    """
    report = progress or (lambda _: None)
    source = config.open_source()
    files = expand(config.files) if source.reads_files else []
    tokenizer = Tokenizer(config.tokenizer.model)
    eod = EndOfDocument(piece=config.eod, id=tokenizer.piece_id(config.eod)) if config.append_eod else None
    prefix = corpus_prefix(config, output_dir)
    report(Progress("checking", files=len(files)))
    if not overwrite and (existing := complete_manifest(prefix, config, files, tokenizer)):
        report(_final("unchanged", existing, len(files)))
        return existing
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        manifest = _Build(config, source, files, tokenizer, eod, prefix, report).run(
            num_threads or len(os.sched_getaffinity(0))
        )
    except OSError as error:
        raise DataPrepError(
            f"{error.filename or prefix}: {error.strerror or error}. The corpus was not completed; "
            "check the space and the permissions of the output directory."
        ) from None
    report(_final("built", manifest, len(files)))
    return manifest


@dataclass
class _Build:
    config: CorpusConfig
    source: Source
    files: list[Path]
    tokenizer: Tokenizer
    eod: EndOfDocument | None
    prefix: Path
    report: Callable[[Progress], None]

    def run(self, num_threads: int) -> Manifest:
        tally = _Tally()
        records: list[SourceFile] = []
        state = Progress(
            "reading", files=len(self.files), source_bytes=sum(path.stat().st_size for path in self.files)
        )
        with IndexedDatasetWriter(self.prefix, token_dtype(self.tokenizer.vocab_size)) as writer:
            for path in self.files or [Path(self.config.source)]:
                for texts in _batches(self.source.read(path), tally):
                    self._write(texts, writer, tally, num_threads)
                    state = replace(
                        state,
                        documents=writer.num_documents,
                        tokens=writer.num_tokens,
                        text_bytes=tally.text_bytes,
                    )
                    self.report(state)
                if self.source.reads_files:
                    records.append(_record(path))
                    done = state.source_bytes_done + records[-1].bytes
                    state = replace(state, files_done=len(records), source_bytes_done=done)
                    self.report(state)
            self.report(replace(state, stage="finishing"))
            return self._finish(writer, tally, records)

    def _write(self, texts: list[str], writer: IndexedDatasetWriter, tally: _Tally, num_threads: int) -> None:
        for text, ids in zip(texts, self.tokenizer.encode(texts, num_threads=num_threads), strict=True):
            if not ids:
                tally.dropped["empty"] += 1
                continue
            if self.eod is not None:
                ids.append(self.eod.id)
            writer.add_document(ids)
            tally.text_bytes += len(text.encode())

    def _finish(self, writer: IndexedDatasetWriter, tally: _Tally, records: list[SourceFile]) -> Manifest:
        bin_file, idx_file = writer.finish()
        manifest = Manifest(
            name=self.config.name,
            source=self.config.source,
            files=records,
            tokenizer=TokenizerRecord(
                model=self.config.tokenizer.model,
                sha256=self.tokenizer.sha256,
                sentencepiece_version=self.tokenizer.sentencepiece_version,
                vocab_size=self.tokenizer.vocab_size,
            ),
            append_eod=self.config.append_eod,
            eod=self.eod,
            counts=Counts(
                documents=writer.num_documents,
                tokens=writer.num_tokens,
                text_bytes=tally.text_bytes,
                dropped=dict(sorted(tally.dropped.items())),
                repaired=dict(sorted(tally.repaired.items())),
            ),
            parameters=self.config.model_dump(mode="json"),
            outputs=Outputs(bin=Output(**bin_file._asdict()), idx=Output(**idx_file._asdict())),
            dtype=writer.dtype.name,
        )
        # Between the renames the old manifest would vouch for new files.
        Manifest.path(self.prefix).unlink(missing_ok=True)
        writer.publish()
        manifest.save(self.prefix)
        return manifest


def _batches(records: Iterator[Record], tally: _Tally) -> Iterator[list[str]]:
    """Texts in batches of bounded size; drops and repairs are counted on the way."""
    batch: list[str] = []
    characters = 0
    for record in records:
        if not isinstance(record, Document):
            tally.dropped[record.reason] += 1
            continue
        text = record.text
        if _LONE_SURROGATE.search(text):
            # JSON can spell half a character (`\ud83d`), which is no Unicode text and has no UTF-8.
            text = _LONE_SURROGATE.sub("\ufffd", text)
            tally.repaired["lone_surrogate"] += 1
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _record(path: Path) -> SourceFile:
    # After reading, when the file is in the page cache.
    return SourceFile(path=str(path), sha256=sha256_file(path), bytes=path.stat().st_size)


def _final(stage: Literal["unchanged", "built"], manifest: Manifest, files: int) -> Progress:
    size = sum(file.bytes for file in manifest.files)
    counts = manifest.counts
    return Progress(stage, counts.documents, counts.tokens, counts.text_bytes, files, files, size, size)
