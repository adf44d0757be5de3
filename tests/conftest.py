"""Fixtures shared by all tests: where the real data is, and a clear skip where it is not."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import sentencepiece

from data_prep.indexed import IndexedDatasetWriter, WrittenFile, write_index
from data_prep.manifest import (
    Counts,
    EndOfDocument,
    Manifest,
    Output,
    Outputs,
    StartOfDocument,
    TokenizerRecord,
)
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.launch.torchrun import ON_THIS_MACHINE

REPOSITORY = Path(__file__).resolve().parent.parent

# How long an example takes says how busy the machine is, not whether the law holds.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


# One folder for what torch.compile makes, so that the processes of all tests compile a kernel once and leave nothing.
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Name the folder before any worker starts."""
    if _COMPILED not in os.environ:
        os.environ[_COMPILED] = tempfile.mkdtemp(prefix="retrieva-tests-compiled-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(_COMPILED), ignore_errors=True))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real corpora, tokenizers and JGLUE, kept beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the real corpora are not here: ../shared is missing beside the repository")
    return folder


@pytest.fixture(scope="session")
def llm_jp_model(shared: Path) -> Path:
    """LLM-jp's SentencePiece model ver3.0b1."""
    return shared / "tokenizers" / "llm-jp-tokenizer-100k.ver3.0b1.model"


MakeCorpus = Callable[..., Path]


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece model of 400 pieces with LLM-jp's special pieces, trained on invented words."""
    folder = tmp_path_factory.mktemp("tokenizer")
    draw = random.Random(0)
    words = ["".join(draw.choices("あいうえおかきくけこabcdefg", k=draw.randint(2, 5))) for _ in range(300)]
    (folder / "text.txt").write_text(
        "\n".join(" ".join(draw.choices(words, k=12)) for _ in range(2000)), encoding="utf-8"
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "small"),
        vocab_size=400,
        byte_fallback=True,
        control_symbols=["<MASK>", "<PAD>", "<CLS>", "<SEP>", "<EOD>"],
        pad_id=-1,
        minloglevel=2,
    )
    return Tokenizer(folder / "small.model")


@pytest.fixture
def make_corpus(small_tokenizer: Tokenizer) -> MakeCorpus:
    """Writes a corpus of given documents (token ids without the end token) and returns its prefix."""

    def make(
        folder: Path,
        name: str,
        documents: Sequence[Sequence[int]],
        *,
        eod: str = "</s>",
        bos: str | None = None,
    ) -> Path:
        return write_corpus(folder, name, documents, small_tokenizer, eod=eod, bos=bos)

    return make


def write_corpus(
    folder: Path,
    name: str,
    documents: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    eod: str = "</s>",
    bos: str | None = None,
) -> Path:
    """Write token ids as a corpus with its manifest; every document gets the end token, and `bos` before it."""
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.piece_id(eod)
    start = [] if bos is None else [tokenizer.piece_id(bos)]
    with IndexedDatasetWriter(folder / name, np.uint16) as writer:
        for ids in documents:
            writer.add_document([*start, *ids, end])
        tokens = writer.num_tokens
        bin_file, idx_file = writer.finish()
        writer.publish()
    write_manifest(folder / name, tokenizer, len(documents), tokens, bin_file, idx_file, eod=eod, bos=bos)
    return folder / name


def write_large_corpus(prefix: Path, tokenizer: Tokenizer, documents: int, seed: int = 0) -> None:
    """Write a corpus of so many short documents of random pieces at once, as `write_corpus` would one by one."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 20, documents).astype(np.int32)
    tokens = draw.integers(100, tokenizer.vocab_size, lengths.sum()).astype(np.uint16)
    tokens[np.cumsum(lengths) - 1] = tokenizer.piece_id("</s>")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    content = bytearray()
    write_index(content.extend, lengths, tokens.dtype)
    Path(f"{prefix}.idx").write_bytes(content)
    tokens.tofile(f"{prefix}.bin")
    bin_file, idx_file = (
        WrittenFile(hashlib.sha256(data).hexdigest(), len(data)) for data in (tokens.tobytes(), content)
    )
    write_manifest(prefix, tokenizer, documents, len(tokens), bin_file, idx_file)


def write_manifest(
    prefix: Path,
    tokenizer: Tokenizer,
    documents: int,
    tokens: int,
    bin_file: WrittenFile,
    idx_file: WrittenFile,
    *,
    eod: str = "</s>",
    bos: str | None = None,
) -> None:
    Manifest(
        name=prefix.name,
        source="text",
        files=[],
        tokenizer=TokenizerRecord(
            model=str(tokenizer.path),
            sha256=tokenizer.sha256,
            sentencepiece_version=tokenizer.sentencepiece_version,
            vocab_size=tokenizer.vocab_size,
        ),
        append_eod=True,
        eod=EndOfDocument(piece=eod, id=tokenizer.piece_id(eod)),
        bos=None if bos is None else StartOfDocument(piece=bos, id=tokenizer.piece_id(bos)),
        counts=Counts(documents=documents, tokens=tokens, text_bytes=0),
        parameters={},
        outputs=Outputs(
            bin=Output(sha256=bin_file.sha256, bytes=bin_file.bytes),
            idx=Output(sha256=idx_file.sha256, bytes=idx_file.bytes),
        ),
        dtype="uint16",
    ).save(prefix)


RunPython = Callable[..., str]


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs a program in a process of its own, or in several under torchrun, and returns what it prints.

    megatron-core keeps its process groups in module globals, and the host platform answers for CUDA in the
    whole process.
    """

    def run(program: str, *, processes: int = 1, arguments: Sequence[str] = ()) -> str:
        file = tmp_path / "program.py"
        file.write_text(program, encoding="utf-8")
        launcher: list[str] = []
        logs = tmp_path / "program-logs"
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
            launcher += ON_THIS_MACHINE
            # A file for each: in one stream the lines of several processes cut each other in two.
            launcher += ["--redirects=3", f"--log-dir={logs}"]
        done = subprocess.run(
            [sys.executable, *launcher, str(file), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            timeout=300,
        )
        said = {
            name: "".join(file.read_text(encoding="utf-8") for file in sorted(logs.rglob(f"{name}.log")))
            for name in ("stdout", "stderr")
        }
        shutil.rmtree(logs, ignore_errors=True)
        assert done.returncode == 0, said["stderr"][-4000:] + done.stderr[-4000:]
        return said["stdout"] + done.stdout

    return run
