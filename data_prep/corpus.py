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

    model: str


class CorpusConfig(BaseModel):
    """A corpus YAML. Relative paths start at the working directory."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # It becomes a file name, so it may not leave the output directory or hide itself.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    source: str
    files: list[str] = Field(default_factory=list)
    tokenizer: TokenizerConfig
    append_eod: bool = True
    eod: str = "</s>"
    # A piece before each document, such as <CLS>; Megatron-LM's own tool has none.
    bos: Annotated[str, Field(min_length=1)] | None = None
    options: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    text: TextSteps = Field(default_factory=TextSteps)
    deduplicate: bool = False
    decontaminate: Contamination | None = None
    # Share of the records that may be unreadable before the build stops.
    max_malformed: Annotated[float, Field(ge=0, le=1)] = 0.001

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
