"""What a corpus is: written last, so that `NAME.manifest.json` marks a complete corpus.

It records what went in (source files, tokenizer, parameters), what came out (checksums, counts) and
what was dropped and why.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_prep.errors import DataPrepError
from data_prep.indexed import bin_path, idx_path
from data_prep.tokenizer import CLS_SPELLINGS, SEP_SPELLINGS
from data_prep.whole_files import write_whole

FORMAT_VERSION: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFile(_Part):
    """One raw file that was read, and what of the corpus came from it."""

    path: str
    sha256: str
    bytes: int
    documents: int
    tokens: int
    text_bytes: int


class MalformedRecord(_Part):
    """Input that could not be read: `record` counts what `unit` names (line, row, page), from 1."""

    file: str
    record: int
    unit: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.unit} {self.record:,}: {self.problem}"


class TokenizerRecord(_Part):
    """The tokenizer; the sentencepiece version counts because exact score ties differ between versions."""

    model: str
    sha256: str
    sentencepiece_version: str
    vocab_size: int


class EndOfDocument(_Part):
    """The piece that ends each document."""

    piece: str
    id: int


class StartOfDocument(_Part):
    """The piece that begins each document."""

    piece: str
    id: int


class Counts(_Part):
    """What was written, and what became of the rest.

    - `documents`, `tokens`, `text_bytes`: written; UTF-8 bytes of the text
    - `records`: read, whatever became of them
    - `dropped`, `repaired`, `malformed`: records by reason
    - `contaminated`: dropped documents by the evaluation task whose text they hold (one may hold several)
    - `labels`: documents written by kind and value, such as {"licence": {"MIT": 12}}
    """

    documents: int
    tokens: int
    text_bytes: int
    records: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    repaired: dict[str, int] = Field(default_factory=dict)
    malformed: dict[str, int] = Field(default_factory=dict)
    contaminated: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, dict[str, int]] = Field(default_factory=dict)


class Output(_Part):
    """Checksum and size of a written file."""

    sha256: str
    bytes: int


class Outputs(_Part):
    """The two files of the indexed dataset."""

    bin: Output
    idx: Output


class Manifest(_Part):
    """The record of one corpus.

    `parameters` is the resolved corpus configuration, `contamination` the fingerprint of the evaluation
    texts it was cleaned of, `malformed_records` the first records that could not be read.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    source: str
    files: list[SourceFile]
    tokenizer: TokenizerRecord
    append_eod: bool
    eod: EndOfDocument | None
    bos: StartOfDocument | None = None
    counts: Counts
    malformed_records: list[MalformedRecord] = Field(default_factory=list)
    contamination: str | None = None
    parameters: dict[str, Any]
    outputs: Outputs
    dtype: str

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over what decides the training data: both files and the tokenizer, not their paths."""
        parts = [self.outputs.bin.sha256, self.outputs.idx.sha256, self.tokenizer.sha256]
        # Only where there is one: the fingerprints of corpora without it are in checkpoints already.
        parts += [f"bos {self.bos.id}"] if self.bos is not None else []
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def pieces_per_document(self) -> int:
        """Tokens of each document that are no text: the piece before it and the one that ends it."""
        return int(self.append_eod) + int(self.bos is not None)

    @property
    def text_tokens(self) -> int:
        """Tokens without the pieces round the documents."""
        return self.counts.tokens - self.counts.documents * self.pieces_per_document

    @property
    def starts_with_cls(self) -> bool:
        """Whether each document begins with the tokenizer's <CLS>."""
        return self.bos is not None and self.bos.piece in CLS_SPELLINGS

    @property
    def brackets_documents(self) -> bool:
        """Whether each document stands between <CLS> and <SEP>."""
        return self.starts_with_cls and self.eod is not None and self.eod.piece in SEP_SPELLINGS

    @staticmethod
    def path(prefix: Path) -> Path:
        """`PREFIX.manifest.json`."""
        return prefix.with_name(prefix.name + ".manifest.json")

    @classmethod
    def load(cls, prefix: Path) -> Manifest:
        """Read the manifest of a corpus.

        Raises `DataPrepError` when it is missing, damaged or of another format version.
        """
        path = cls.path(Path(prefix))
        try:
            content = json.loads(path.read_bytes())
        except OSError as error:
            raise DataPrepError(
                f"{path}: the manifest cannot be read ({error.strerror or error}). A corpus is complete only "
                "with its manifest: check the prefix, or build the corpus with `retrieva data build`."
            ) from None
        except ValueError:
            raise DataPrepError(f"{path}: not valid JSON. Build the corpus again.") from None
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise DataPrepError(
                f"{path}: manifest format {version!r}, and this version reads {FORMAT_VERSION}. "
                "Build the corpus again, or use the version of retrieva that built it."
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataPrepError(f"{path}: {field}: {first['msg']}. Build the corpus again.") from None

    def save(self, prefix: Path) -> None:
        """Write the manifest; call it after .bin and .idx have their final names."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2)
        write_whole(self.path(Path(prefix)), (text + "\n").encode())


def corpus_files(prefix: Path) -> tuple[Path, ...]:
    """The three files of a corpus, there or not; none for a path such as `.`, which no ending can be put to."""
    return (bin_path(prefix), idx_path(prefix), Manifest.path(prefix)) if prefix.name else ()
