"""One task: read a range of a file, tokenize, write its shards. The same code for every way to run it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.build.plan import BuildPlan, Cut, Task
from data_prep.build.shard import DOCUMENT, Labels, ShardRecord, ShardWriter, Tally, finished_parts
from data_prep.contamination import ContaminationIndex
from data_prep.corpus import CorpusConfig
from data_prep.duplicates import content_hash
from data_prep.errors import DataPrepError
from data_prep.indexed import MAX_DOCUMENT_TOKENS, token_dtype
from data_prep.sources.records import Block, Document, Dropped, Malformed, Place
from data_prep.text_steps import TextCleaner
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import sha256_file


@dataclass(frozen=True)
class TaskProgress:
    """Where a task stands, its earlier shards included; `file_bytes` of those that the task has to read."""

    task: int
    file_bytes: int
    records: int
    documents: int
    tokens: int
    text_bytes: int
    malformed: int
    first_problem: str | None = None


@dataclass(slots=True)
class _Encoded:
    """The documents of one block."""

    end: Place | None
    file_bytes: int = 0
    ids: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int32))
    documents: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, DOCUMENT))
    labels: list[Labels] | None = None
    tally: Tally = field(default_factory=Tally)


class TaskRunner:
    """What the tasks of a build share: the source, the tokenizer and the steps, loaded once a process.

    `threads` tells how many threads a task may use now: the workers that have run out of tasks lend theirs.
    """

    def __init__(
        self,
        config: CorpusConfig,
        plan: BuildPlan,
        folder: Path,
        *,
        tokenizer: Tokenizer | None = None,
        contamination: ContaminationIndex | None = None,
        threads: Callable[[], int] = lambda: 1,
        cut: Cut | None = None,
    ) -> None:
        self.config, self.plan, self.folder, self.threads = config, plan, folder, threads
        self.cut = cut or Cut()
        self.source = config.open_source()
        self.tokenizer = tokenizer or Tokenizer(config.tokenizer.model)
        self.dtype = token_dtype(self.tokenizer.vocab_size)
        self.eod = self.tokenizer.piece_id(config.eod) if config.append_eod else None
        self.bos = self.tokenizer.piece_id(config.bos) if config.bos is not None else None
        self._clean = TextCleaner(config.text)
        self._contamination = contamination
        if contamination is None and config.decontaminate is not None:
            self._contamination = ContaminationIndex.load(config.decontaminate)

    def run(self, task: Task, report: Callable[[TaskProgress], None]) -> None:
        """Do what is left of a task.

        Raises `DataPrepError` where the input cannot be read at all, has changed, or the disk refuses.
        """
        done = finished_parts(self.folder, task.number)
        if done and done[-1].last:
            return
        path = self.plan.path_of(task)
        self._check_unchanged(task)
        shards = _Shards(self, task, done, report)
        try:
            with ThreadPoolExecutor(thread_name_prefix="tokenize") as executor:
                for encoded in self._encoded(path, task, done[-1].end if done else None, executor):
                    shards.take(encoded)
            self._check_unchanged(task)
            shards.close()
        except OSError as error:
            raise DataPrepError(
                f"{error.filename or self.folder}: {error.strerror or error}. What is finished is kept: mend "
                "the space or the permissions of the output directory and run the same command again."
            ) from None
        finally:
            shards.discard()

    def _check_unchanged(self, task: Task) -> None:
        if not self.source.reads_files:
            return
        planned = self.plan.inputs[task.input]
        try:
            stat = Path(planned.path).stat()
        except OSError as error:
            raise DataPrepError(f"{planned.path}: {error.strerror}.") from None
        if (stat.st_size, stat.st_mtime_ns) != (planned.bytes, planned.mtime_ns):
            raise DataPrepError(
                f"{planned.path}: was written while the build was reading it. Wait until it is complete, and "
                "give --overwrite to begin anew."
            )

    def _encoded(
        self, path: Path, task: Task, after: Place | None, executor: ThreadPoolExecutor
    ) -> Iterator[_Encoded]:
        """The blocks in order; with threads to spare, some are worked on ahead."""
        pending: deque[Future[_Encoded]] = deque()
        for block in self.source.blocks(path, task.part, after):
            if isinstance(block, Malformed):
                while pending:
                    yield pending.popleft().result()
                damage = _Encoded(None)
                damage.tally.add_malformed(block)
                yield damage
                continue
            threads = self.threads()
            if threads <= 1 and not pending:
                yield self._encode(path, block)
                continue
            pending.append(executor.submit(self._encode, path, block))
            while len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _encode(self, path: Path, block: Block) -> _Encoded:
        found = _Encoded(block.end, block.file_bytes)
        tally, texts, labels = found.tally, list[bytes](), list[Labels]()
        for record in self.source.records(path, block):
            if isinstance(record, Malformed):
                tally.add_malformed(record)
                continue
            tally.records += 1
            if isinstance(record, Dropped):
                tally.dropped[record.reason] += 1
            elif (text := self._text(record, tally)) is not None:
                texts.append(text)
                labels.append(record.labels)
            # A text of 50 MB need not be held twice while it is encoded.
            del record
        encoded = self.tokenizer.encode_documents(texts, tally.repaired)
        self._fill(found, texts, labels, encoded)
        return found

    def _text(self, record: Document, tally: Tally) -> bytes | None:
        """The UTF-8 of the text after the declared steps, or None where a step drops it."""
        cleaned = self._clean(record.text)
        if cleaned.changed:
            tally.repaired.update(cleaned.changed)
        if cleaned.dropped is not None:
            tally.dropped[cleaned.dropped] += 1
            return None
        if self._contamination is not None and (tasks := self._contamination.find(cleaned.text)):
            tally.dropped["contaminated"] += 1
            tally.contaminated.update(tasks)
            return None
        return cleaned.utf8

    def _fill(
        self, found: _Encoded, texts: list[bytes], labels: list[Labels], encoded: list[npt.NDArray[np.int32]]
    ) -> None:
        kept = [number for number, ids in enumerate(encoded) if len(ids)]
        if len(kept) < len(encoded):
            found.tally.dropped["empty"] += len(encoded) - len(kept)
        rows = np.zeros(len(kept), DOCUMENT)
        pieces = []
        start = np.array([] if self.bos is None else [self.bos], np.int32)
        end = np.array([] if self.eod is None else [self.eod], np.int32)
        for row, number in enumerate(kept):
            tokens = len(start) + len(encoded[number]) + len(end)
            if tokens > MAX_DOCUMENT_TOKENS:
                raise DataPrepError("a document has more tokens than the format can hold. Split it.")
            data = texts[number]
            rows[row] = (
                tokens,
                0,
                len(data),
                content_hash(data) if self.config.deduplicate else 0,
            )
            pieces += [start, encoded[number], end]
        found.documents = rows
        if pieces:
            found.ids = np.concatenate(pieces).astype(self.dtype, copy=False)
        found.labels = [labels[number] for number in kept] if any(labels) else None


class _Shards:
    """The row of shards a task writes, one after another."""

    def __init__(
        self,
        runner: TaskRunner,
        task: Task,
        done: list[ShardRecord],
        report: Callable[[TaskProgress], None],
    ) -> None:
        self._runner, self._task, self._report = runner, task, report
        self._counts = Counter(
            records=sum(one.records for one in done),
            documents=sum(one.documents for one in done),
            tokens=sum(one.tokens for one in done),
            text_bytes=sum(one.text_bytes for one in done),
            malformed=sum(sum(one.malformed.values()) for one in done),
        )
        self._problem: str | None = None
        self._end = done[-1].end if done else Place(task.start)
        self._file_bytes = self._shard_start = 0
        self._writer = ShardWriter(runner.folder, task.number, len(done))

    def take(self, encoded: _Encoded) -> None:
        """Write one block; a shard that is full is finished first."""
        writer, full = self._writer, self._runner.cut.shard_bytes
        if writer.tally.text_bytes >= full or self._file_bytes - self._shard_start >= full:
            writer.finish(self._end, last=False, file_sha256=None)
            self._shard_start = self._file_bytes
            self._writer = writer = ShardWriter(self._runner.folder, self._task.number, writer.part + 1)
        writer.add(encoded.ids, encoded.documents, encoded.labels)
        writer.tally.add(encoded.tally)
        if encoded.end is not None:
            self._end = encoded.end
            self._file_bytes = encoded.file_bytes
        if encoded.tally.problems and self._problem is None:
            self._problem = str(encoded.tally.problems[0])
        self._counts.update(
            records=encoded.tally.records,
            documents=len(encoded.documents),
            tokens=len(encoded.ids),
            text_bytes=int(encoded.documents["text_bytes"].sum()),
            malformed=sum(encoded.tally.malformed.values()),
        )
        self._tell()

    def close(self) -> None:
        """Finish the last shard; the task that starts a file records the file's checksum."""
        sha256 = None
        if self._task.start == 0 and self._runner.source.reads_files:
            # After reading, when the file is in the page cache.
            sha256 = sha256_file(self._runner.plan.path_of(self._task))
        self._writer.finish(self._end, last=True, file_sha256=sha256)
        self._file_bytes = self._task.start + self._task.bytes
        self._tell()

    def discard(self) -> None:
        """Remove what is not finished."""
        self._writer.__exit__(None)

    def _tell(self) -> None:
        # Ranges of parquet count rows: there, the share of the file is all that is known.
        size = min(max(self._file_bytes - self._offset(), 0), self._task.bytes)
        self._report(
            TaskProgress(
                self._task.number,
                size,
                self._counts["records"],
                self._counts["documents"],
                self._counts["tokens"],
                self._counts["text_bytes"],
                self._counts["malformed"],
                self._problem,
            )
        )

    def _offset(self) -> int:
        """About where in the file the task starts, in bytes on the disk."""
        before = self._task.number - 1
        offset = 0
        while before >= 0 and self._runner.plan.tasks[before].input == self._task.input:
            offset += self._runner.plan.tasks[before].bytes
            before -= 1
        return offset
