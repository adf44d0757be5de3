"""The main job in small, on any machine: `retrieva demo`, or `make demo`.

Raw sample corpora in the five true file formats -> tokenizer -> Megatron indexed datasets -> the four-stage
curriculum under torchrun with two processes, killed once on purpose and resumed -> a summary -> a directory for
Hugging Face's transformers, and a sentence whose mask it fills. Everything it writes lies in the folder `demo/` of the working directory.
"""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from data_prep.build import build
from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.samples.build import write_sample_corpora
from data_prep.train_tokenizer import train_tokenizer
from retrieva_pretrain.bundled import recipes_folder
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.launch.torchrun import kill_tree, start, torchrun_command
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.report.loss_curve import draw_loss_curve
from retrieva_pretrain.report.metrics import read_metrics
from retrieva_pretrain.report.page import write_report
from retrieva_pretrain.report.summary import render, summarise

FOLDER = Path("demo")
_MARK = ".made-by-retrieva-demo"
PROCESSES = 2
VOCAB_SIZE = 4000
PROMPT = "朝ごはんに<MASK|LLM-jp>を食べました。"

# The five corpora of RetrievaBERT: source, files in the folder of raw texts, options of the source.
CORPORA: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ja_cc": ("llm_jp_cc", "*.jsonl.gz", {}),
    "refinedweb": ("refinedweb", "*.parquet", {}),
    "zh_wiki": ("wikipedia", "*.xml.bz2", {"variant": "zh-cn"}),
    "ko_wiki": ("wikipedia", "*.xml.bz2", {}),
    "the_stack": ("the_stack", "data/*/*.parquet", {}),
}

NEXT_STEPS = """
On your own data, next, with .venv/bin on the PATH (docs: README.md, "From the demo to the 1.3 B model"):

  retrieva data build {recipes}/corpora/llm_jp_cc.yaml --output data 'files=[/your/files/*.jsonl.gz]' tokenizer.model=/your/tokenizer.model
  retrieva plan {recipes}/retrievabert-1.3b.yaml --gpus 32 'data.blend=[{{path: data/ja_cc}}]' tokenizer.model=/your/tokenizer.model
  torchrun --nproc-per-node 4 -m retrieva_pretrain train {recipes}/retrievabert-1.3b.yaml 'data.blend=[{{path: data/ja_cc}}]' tokenizer.model=/your/tokenizer.model
"""


def run_demo() -> None:
    """Run the demo from the raw texts to the summary. What a demo left here before makes way.

    Raises:
        RetrievaError: training ended with an error; its log is named.
    """
    console = Console()
    started = time.monotonic()
    recipe_file = recipes_folder() / "demo.yaml"
    recipe = load_yaml(Recipe, recipe_file)
    run = recipe.run_folder
    _make_way()

    prepare_data(console, recipe)
    console.rule(f"4. Training through {len(recipe.curriculum)} stages, {PROCESSES} processes under torchrun")
    _train_with_a_kill(console, recipe_file, recipe, run)
    console.rule("5. Summary")
    console.print(render(summarise(run)))
    page = _draw(run)
    console.rule("6. The model for Hugging Face's transformers, and a mask it fills")
    exported = _export(console, run)
    took = f"The whole demo took {(time.monotonic() - started) / 60:.1f} minutes."
    console.print(f"\n{page}\n{exported}\n{took}", soft_wrap=True)
    console.print(
        NEXT_STEPS.format(recipes=_short(recipes_folder())), soft_wrap=True, highlight=False, markup=False
    )


def _make_way() -> None:
    """Remove what an earlier demo left; a folder of somebody else's is refused."""
    if FOLDER.exists() and not (FOLDER / _MARK).is_file():
        raise RetrievaError(
            f"{FOLDER.resolve()} is there and no demo made it; run the demo in another folder."
        )
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    (FOLDER / _MARK).write_text("Made by `retrieva demo`, which removes this folder when it is run again.\n")


def prepare_data(console: Console, recipe: Recipe) -> None:
    """Write the raw corpora, train the tokenizer on them, and build each into an indexed dataset."""
    console.rule("1. Raw corpora in five file formats")
    folders = write_sample_corpora(FOLDER / "raw")
    for path in sorted(p for folder in folders.values() for p in folder.rglob("*") if p.is_file()):
        console.print(f"{path}  {path.stat().st_size:,} bytes", soft_wrap=True)
    corpora = [
        CorpusConfig(
            name=name,
            source=source,
            files=[str(folders[name] / pattern)],
            tokenizer=TokenizerConfig(model=recipe.tokenizer.model),
            options=options,
        )
        for name, (source, pattern, options) in CORPORA.items()
    ]
    console.rule("2. A tokenizer with LLM-jp's special pieces")
    with console.status("training SentencePiece"):
        tokenizer = train_tokenizer(corpora, Path(recipe.tokenizer.model), VOCAB_SIZE)
    console.print(f"{tokenizer.path}: {tokenizer.vocab_size:,} pieces")
    console.rule("3. Megatron indexed datasets")
    table = Table(
        "corpus",
        *(Column(name, justify="right") for name in ("documents", "tokens", "bytes/token")),
        "dropped",
    )
    for corpus, entry in zip(corpora, recipe.data.blend, strict=True):
        counts = build(corpus, Path(entry.path).parent).counts
        dropped = ", ".join(f"{reason} {count}" for reason, count in counts.dropped.items())
        table.add_row(
            corpus.name,
            f"{counts.documents:,}",
            f"{counts.tokens:,}",
            f"{counts.text_bytes / counts.tokens:.2f}",
            dropped,
        )
    console.print(table)


def _train_with_a_kill(console: Console, recipe_file: Path, recipe: Recipe, run: Path) -> None:
    """Train, kill every process at once in the middle of the third stage, and start the same command again.

    Raises RetrievaError where training ends by itself with an error.
    """
    curriculum = Curriculum(recipe)
    first, after = curriculum.stage_steps(2)
    # Not on a checkpoint: the steps since the last one are lost and taken again.
    kill_at = (first + after) // 2 + recipe.checkpoint.save_interval // 2
    command = torchrun_command(recipe_file, processes=PROCESSES)
    console.print(f"$ torchrun {' '.join(command[3:])}", style="bold", soft_wrap=True, highlight=False)
    process = start(command, gpus=False)
    try:
        while process.poll() is None and _steps_taken(run) < kill_at:
            time.sleep(0.5)  # reading the metrics takes from the cores that train
        if process.poll() is not None:
            raise RetrievaError(
                f"training ended by itself with exit code {process.returncode}; see its output above"
            )
    finally:
        kill_tree(process)
    console.rule(f"interrupted on purpose after step {_steps_taken(run)} (SIGKILL); the same command again")
    process = start(torchrun_command(recipe_file, processes=PROCESSES), gpus=False)
    try:
        if process.wait() != 0:
            raise RetrievaError(f"training ended with exit code {process.returncode}; see its output above")
    finally:
        kill_tree(process)


def _export(console: Console, run: Path) -> str:
    """Export the run, fill a mask with what was exported, and say where it is or what it needs."""
    if find_spec("transformers") is None:
        return "An export needs transformers: pip install 'retrieva-pretrain[export]'."
    from retrieva_pretrain.export.export import export
    from retrieva_pretrain.export.own_process import own_process

    out = FOLDER / "exported"
    _, parity, _ = export(run, out, status=console.status)
    console.print(
        f"{out}: the largest logit is {parity.largest_logit:.3g}, and no logit differs from the trained model's by more"
        f" than {parity.difference_bound}",
        soft_wrap=True,
    )
    console.print(f'$ retrieva fill-mask {out} "{PROMPT}"', style="bold", soft_wrap=True, highlight=False)
    with own_process() as call:
        (answers,) = call("fill_mask", "fill_mask", out, PROMPT, 5)
    for answer in answers:
        console.print(f"  {answer.probability:7.2%}  {answer.token}", markup=False, highlight=False)
    return f"The exported model: {out}."


def _draw(run: Path) -> str:
    """Draw the loss curve and write the run's page, and say where they are or what they need."""
    if find_spec("vl_convert") is None:
        return "The run's page needs vl-convert-python: pip install 'retrieva-pretrain[report]'."
    draw_loss_curve(run, run / "loss_curve.png")
    write_report([run], run / "report.html", pictures=False)
    return f"The run's page, for a browser: {run / 'report.html'}; its loss alone: {run / 'loss_curve.png'}."


def _steps_taken(run: Path) -> int:
    """Return the last step that the run has recorded, 0 before the first."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return 0
    return max((r["step"] for r in read_metrics(path) if r["kind"] == "train"), default=0)


def _short(path: Path) -> Path:
    """Return a path as a user would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
