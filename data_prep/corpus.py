"""The configuration of one corpus: which files, which source, which tokenizer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from data_prep.contamination import Contamination
from data_prep.sources import SOURCES, Source, open_source
from data_prep.text_steps import TextSteps


class TokenizerConfig(BaseModel):
    """Path of the SentencePiece model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str = Field(description="The .model file, from the working directory.")


class CorpusConfig(BaseModel):
    """A corpus YAML. Relative paths start at the working directory."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # It becomes a file name, so it may not leave the output directory or hide itself.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] = Field(
        description="The corpus becomes OUTPUT/name.bin, .idx and .manifest.json."
    )
    source: str = Field(description="What kind of files these are.")
    files: list[str] = Field(
        default_factory=list,
        description="Files or patterns such as `*.jsonl.gz`; documents keep the order of the sorted files.",
    )
    tokenizer: TokenizerConfig = Field(description="What cuts the texts into tokens.")
    append_eod: bool = Field(default=True, description="Whether each document ends in the piece `eod`.")
    eod: str = Field(default="</s>", description="The piece that ends a document.")
    # Megatron-LM's own tool has none.
    bos: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="A piece before each document, such as <CLS>; none where it is not given."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="The source's own: see below."
    )
    text: TextSteps = Field(default_factory=TextSteps, description="What is done to each text.")
    deduplicate: bool = Field(
        default=False, description="Whether exact duplicates are dropped; the first one stays."
    )
    decontaminate: Contamination | None = Field(
        default=None, description="Drops documents that hold evaluation texts."
    )
    max_malformed: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.001, description="Share of the records that may be unreadable before the build stops."
    )

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source not in SOURCES:
            open_source(source, {})
        return source

    @field_validator("options")
    @classmethod
    def _resolved_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        source = info.data.get("source")
        if source is None:  # already reported
            return options
        return open_source(source, options).model_dump(mode="json")

    @model_validator(mode="after")
    def _files_where_the_source_reads_files(self) -> CorpusConfig:
        if SOURCES[self.source].reads_files and not self.files:
            raise ValueError("files: name at least one file or pattern")
        if self.files and not SOURCES[self.source].reads_files:
            raise ValueError(f"files: the source {self.source} takes none; options.path names the dataset")
        return self

    def open_source(self) -> Source:
        """The source with its options."""
        return open_source(self.source, self.options)
