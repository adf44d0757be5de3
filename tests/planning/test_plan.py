"""`retrieva plan`: what a run will do, and why it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import CorpusError, RecipeError
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.planning.plan import make_plan
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.planning.retrieva_plan import REPOSITORY, retrieva_plan

REFERENCE = REPOSITORY / "recipes" / "retrievabert-1.3b.yaml"
SMALL = REPOSITORY / "tests" / "recipe" / "small.yaml"
MakeCorpus = Callable[..., Path]


def with_data(folder: Path, tokenizer: Tokenizer, make_corpus: MakeCorpus, *overrides: str) -> Recipe:
    """The small recipe over two corpora of 100 and of 300 tokens."""
    make_corpus(folder, "one", [[10] * 49] * 2)
    make_corpus(folder, "two", [[10] * 99] * 3)
    data = f"data.blend=[{{path: {folder / 'one'}}}, {{path: {folder / 'two'}}}]"
    return load_yaml(Recipe, SMALL, [data, f"tokenizer.model={tokenizer.path}", *overrides])


def test_the_stages_of_a_plan_add_up_to_the_run() -> None:
    recipe = load_yaml(Recipe, REFERENCE)
    plan, curriculum = make_plan(recipe, 32), Curriculum(recipe)
    assert sum(stage.steps for stage in plan.stages) == plan.steps == curriculum.total_steps
    assert sum(stage.samples for stage in plan.stages) == plan.samples == 464_896_000
    assert sum(stage.tokens for stage in plan.stages) == plan.tokens == 187_301_888_000
    for stage in plan.stages:
        assert stage.micro_batch_size * stage.num_microbatches * plan.data_parallel_size == 1024


def test_a_plan_is_made_where_the_data_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load_yaml(Recipe, REFERENCE))
    assert plan.gpus == 1
    assert plan.parameters is None
    assert plan.parameters_without_vocabulary == 1_148_327_424
    assert {(corpus.documents, corpus.share) for corpus in plan.corpora} == {(None, None)}


def test_a_plan_tells_the_tokens_of_corpora_that_are_here(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus
) -> None:
    recipe = with_data(tmp_path, small_tokenizer, make_corpus)
    plan = make_plan(recipe, 2)
    assert [(c.documents, c.tokens, c.share) for c in plan.corpora] == [(2, 100, 0.25), (3, 300, 0.75)]
    assert (plan.vocab_size, plan.padded_vocab_size) == (400, 512)
    assert plan.parameters == count_parameters(recipe.model, 512).total


def test_given_weights_are_told_as_shares(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus
) -> None:
    weights = ["data.blend.0.weight=1", "data.blend.1.weight=1"]
    plan = make_plan(with_data(tmp_path, small_tokenizer, make_corpus, *weights))
    assert [corpus.share for corpus in plan.corpora] == [0.5, 0.5]


@pytest.mark.parametrize("blend", ["weights", "budgets", "tokens"])
@pytest.mark.parametrize("pieces", [{}, {"bos": "<CLS>", "eod": "<SEP>"}])
def test_a_plan_tells_how_often_each_corpus_is_read_as_the_run_will(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus, blend: str, pieces: dict[str, str]
) -> None:
    make_corpus(tmp_path, "one", [[10] * 49] * 1000, **pieces)
    make_corpus(tmp_path, "two", [[10] * 99] * 3000, **pieces)
    reads = 64 * (100 * 32 + 300 * 64 + 250 * 128 + 50 * 256)
    shares = {"weights": ("weight: 1", "weight: 3"), "tokens": ("weight: null", "weight: null")}
    shares["budgets"] = ("tokens: 1.0e6", f"tokens: {reads - 1_000_000}")
    one, two = shares[blend]
    data = f"data.blend=[{{path: {tmp_path / 'one'}, {one}}}, {{path: {tmp_path / 'two'}, {two}}}]"
    recipe = load_yaml(Recipe, SMALL, [data, f"tokenizer.model={small_tokenizer.path}"])
    plan, run = make_plan(recipe), TrainingSamples(recipe, Corpora.open(recipe)).positions
    # By tokens, held-out ones move the shares a little.
    assert [c.tokens_read for c in plan.corpora] == pytest.approx(
        run.consumed(plan.steps), rel=0.001 if blend == "tokens" else 0
    )
    for corpus, epochs in zip(plan.corpora, run.epochs(plan.steps), strict=True):
        # Held-out documents are chosen by hash: the plan takes their share, the run knows them.
        assert corpus.epochs == pytest.approx(epochs, rel=0.03)
    if blend == "budgets":
        assert plan.corpora[0].budget == 1_000_000
        assert plan.corpora[0].tokens_read == pytest.approx(1_000_000, rel=0.06)


def test_a_plan_tells_what_budgets_will_read_where_the_data_is_not() -> None:
    reads = 64 * (100 * 32 + 300 * 64 + 250 * 128 + 50 * 256)
    blend = f"data.blend=[{{path: no, tokens: {reads // 4}}}, {{path: where, tokens: {reads * 3 // 4}}}]"
    plan = make_plan(load_yaml(Recipe, SMALL, [blend]))
    assert [c.share for c in plan.corpora] == [pytest.approx(0.25), pytest.approx(0.75)]
    windows = 64 * 700
    assert sum(c.tokens_read or 0 for c in plan.corpora) == reads - 2 * windows
    assert [c.epochs for c in plan.corpora] == [None, None]
    within = make_plan(load_yaml(Recipe, SMALL, [blend, "data.reset_attention_mask=true"]))
    assert sum(c.tokens_read or 0 for c in within.corpora) == reads


def test_a_plan_refuses_corpora_of_two_formats(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus
) -> None:
    make_corpus(tmp_path, "one", [[10] * 49], bos="<CLS>", eod="<SEP>")
    with pytest.raises(CorpusError, match=r"data\.blend: .*one has <CLS> .*two has not"):
        make_plan(
            with_data(
                tmp_path / "other",
                small_tokenizer,
                make_corpus,
                f"data.blend=[{{path: {tmp_path / 'one'}}}, {{path: {tmp_path / 'other' / 'two'}}}]",
            )
        )


def test_a_corpus_tells_the_vocabulary_where_the_tokenizer_is_not_here(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus
) -> None:
    recipe = with_data(tmp_path, small_tokenizer, make_corpus, "tokenizer.model=gone.model")
    assert make_plan(recipe).vocab_size == 400


def test_a_corpus_of_another_tokenizer_is_refused(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus, llm_jp_model: Path
) -> None:
    recipe = with_data(tmp_path, small_tokenizer, make_corpus, f"tokenizer.model={llm_jp_model}")
    with pytest.raises(
        CorpusError, match=r"data\.blend\.0\.path: .*one was made with .* which is not tokenizer\.model"
    ):
        make_plan(recipe)


def test_corpora_of_different_tokenizers_are_refused_without_the_tokenizer_too(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus
) -> None:
    recipe = with_data(tmp_path, small_tokenizer, make_corpus, "tokenizer.model=gone.model")
    manifest = tmp_path / "two.manifest.json"
    manifest.write_text(manifest.read_text().replace(small_tokenizer.sha256, "0" * 64))
    with pytest.raises(CorpusError, match=r"data\.blend\.1\.path: .* which is not the tokenizer of .*one"):
        make_plan(recipe)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "not json"])
def test_a_corpus_that_is_not_whole_is_refused(
    tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus, content: str | None
) -> None:
    recipe = with_data(tmp_path, small_tokenizer, make_corpus)
    manifest = tmp_path / "two.manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(CorpusError, match=r"data\.blend\.1\.path: .*two\.manifest\.json"):
        make_plan(recipe)


def test_a_file_that_is_no_tokenizer_is_refused() -> None:
    recipe = load_yaml(Recipe, SMALL, [f"tokenizer.model={SMALL}"])
    with pytest.raises(CorpusError, match=r"tokenizer\.model: .*small\.yaml"):
        make_plan(recipe)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokenizer.model=" + "x" * 5000, r"tokenizer\.model: cannot be looked for \(File name too long\)"),
        (f"data.blend.1.path={'x' * 5000}", r"data\.blend\.1\.path: cannot be looked for \(File name too"),
        ("tokenizer.model=/", r"tokenizer\.model: / is not a file"),
        ("tokenizer.model=/dev/zero", r"tokenizer\.model: /dev/zero is not a file"),
    ],
)
def test_a_path_that_can_never_be_a_file_is_refused(override: str, words: str) -> None:
    with pytest.raises(CorpusError, match=words):
        make_plan(load_yaml(Recipe, SMALL, [override]))


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_a_corpus_path_without_a_name_is_no_corpus(path: str) -> None:
    plan = make_plan(load_yaml(Recipe, SMALL, [f"data.blend=[{{path: {path!r}}}]"]))
    assert plan.corpora[0].tokens is None


def test_gpus_that_do_not_divide_are_refused() -> None:
    with pytest.raises(RecipeError, match="cannot run on 3 GPUs"):
        make_plan(load_yaml(Recipe, SMALL), 3)


def test_the_fewest_gpus_are_those_of_one_copy() -> None:
    recipe = load_yaml(Recipe, SMALL, ["parallelism.tensor_model_parallel_size=2"])
    plan = make_plan(recipe)
    assert (plan.gpus, plan.data_parallel_size) == (2, 1)
    assert plan.possible_gpus == (2, 4, 8, 16, 32, 64, 128)


class TestCommand:
    def test_it_fits_80_columns_when_piped(self, tmp_path: Path) -> None:
        done = retrieva_plan(str(REFERENCE), "--gpus", "32", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert max(len(line) for line in done.stdout.splitlines()) <= 80
        assert "\x1b" not in done.stdout
        for word in ("187.3 B", "454,000", "1.41e-04", "8 x 4", "data/the_stack", "not here"):
            assert word in done.stdout

    def test_json_is_the_whole_plan(self, tmp_path: Path) -> None:
        done = retrieva_plan(
            str(REFERENCE), "--gpus", "8", "--json", "seed=1", "optimizer.lr=1e-4", cwd=tmp_path
        )
        content = json.loads(done.stdout)
        assert content["gpus"] == 8
        assert content["tokens"] == 187_301_888_000
        assert [stage["micro_batch_size"] for stage in content["stages"]] == [128, 64, 32, 8]
        assert content["stages"][0]["first_lr"] == 0.0

    def test_it_shows_how_often_corpora_are_read_in_80_columns(
        self, tmp_path: Path, small_tokenizer: Tokenizer, make_corpus: MakeCorpus
    ) -> None:
        make_corpus(tmp_path, "one", [[10] * 49] * 10)
        make_corpus(tmp_path, "two", [[10] * 99] * 300_00)
        blend = "data.blend=[{path: one, tokens: 1.0e6}, {path: two, tokens: 3300000}]"
        done = retrieva_plan(str(SMALL), blend, f"tokenizer.model={small_tokenizer.path}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert max(len(line) for line in done.stdout.splitlines()) <= 80
        assert "<CLS>, tokens of a corpus, <SEP>" in done.stdout
        lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
        assert lines["one"] == ["one", "23.3%", "10", "500", "979.5", "k", "2,062"]
        assert lines["two"] == ["two", "76.7%", "30,000", "3.0", "M", "3.2", "M", "1.1"]
        assert "token budgets: 4.3 M asked for, 4.2 M read (-2.1% for each)" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["no.yaml"], "retrieva: no.yaml: cannot be read: No such file or directory"),
            ([str(SMALL), "--gpus", "3"], "Use 1 or 2 or 4 or 8 of them"),
            (
                [str(SMALL), "modle.num_layers=2"],
                "override 'modle.num_layers=2': modle: unknown key; did you mean model?",
            ),
            ([str(SMALL), "model.num_layers=2.5"], "model.num_layers: must be a whole number, not 2.5"),
        ],
    )
    def test_what_cannot_run_ends_in_one_message_and_1(
        self, tmp_path: Path, arguments: list[str], words: str
    ) -> None:
        done = retrieva_plan(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout == ""
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_wrong_usage_ends_in_2(self, tmp_path: Path) -> None:
        assert retrieva_plan(str(SMALL), "--gpus", "0", cwd=tmp_path).returncode == 2
