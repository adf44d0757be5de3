"""The rules of a recipe: what cannot run is refused at the field that should change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.fields import Section
from retrieva_pretrain.recipe.loading import dump_yaml, load_yaml
from retrieva_pretrain.recipe.schema import Corpus, Recipe, Stage

SMALL = Path(__file__).resolve().parent / "small.yaml"
TP, PP = "parallelism.tensor_model_parallel_size", "parallelism.pipeline_model_parallel_size"

DAMAGE = [
    "",
    ":",
    "\t",
    "- ",
    "{",
    "]",
    "'",
    '"',
    "#",
    "&a",
    "*a",
    "!!",
    "<<: ",
    "|",
    "? ",
    "---",
    "%",
    "\0",
    "é",
    "1",
    "-",
    ".",
    "e9",
    "~",
]
SECTIONS = Section.__subclasses__()


def refusal(*overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_yaml(Recipe, SMALL, overrides)
    return str(caught.value).splitlines()


def line_of(text: str) -> int:
    lines = SMALL.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("model.hidden_size=130", "model.hidden_size: 130 is not divisible by num_attention_heads 4"),
        ("model.num_query_groups=3", "model.num_query_groups: 3 does not divide num_attention_heads 4"),
        ("model.num_query_groups=8", "model.num_query_groups: 8 does not divide"),
        ("model.num_layers=0", "model.num_layers: must be more than 0, not 0"),
        ("model.hidden_size=3000000000", "model.hidden_size: must be less than 2147483648"),
        ("model.hidden_dropout=1.0", "model.hidden_dropout: must be less than 1"),
        ("model.attention_dropout=-0.1", "model.attention_dropout: must be at least 0"),
        ("model.layernorm_epsilon=0.0", "model.layernorm_epsilon: must be more than 0"),
        ("tokenizer.model=''", "tokenizer.model: must not be empty"),
        ('tokenizer.model="a\\0b"', "tokenizer.model: contains a control character"),
        ('runs_dir="\\ud800"', "runs_dir: must be plain text"),
        ("data.blend=[]", "data.blend: must not be empty"),
        ("data.blend.2.weight=0", "data.blend.2.weight: must be more than 0"),
        ("data.blend.2.weight=.inf", "data.blend.2.weight: must be a finite number"),
        (
            "data.blend.2.path=small/data/../data/ja_cc",
            "data.blend.2.path: small/data/../data/ja_cc is corpus 0",
        ),
        ("data.blend.0.path=small/data/ja_cc.bin", "data.blend.0.path: give the prefix"),
        ("data.held_out_fraction=0.6", "data.held_out_fraction: must be at most 0.5"),
        ("objective.masking_probability=0", "objective.masking_probability: must be more than 0"),
        ("objective.masking_probability=1", "objective.masking_probability: must be less than 1"),
        ("curriculum.1.masking_probability=1", "curriculum.1.masking_probability: must be less than 1"),
        ("evaluation.masking_probability=0", "evaluation.masking_probability: must be more than 0"),
        ("objective.masking_unit=word", "objective.masking_unit: must be 'token', 'whole_word' or 'span'"),
        (
            "objective.mean_span_length=3",
            "objective.mean_span_length: goes with masking_unit span, not token",
        ),
        (
            "objective.max_span_length=3",
            "objective.max_span_length: goes with masking_unit span, not token",
        ),
        (
            "objective={masking_unit: span, max_span_length: 3}",
            "objective.mean_span_length: 3.8 is more than max_span_length 3",
        ),
        ("objective.mask_replace_prob=1.1", "objective.mask_replace_prob: must be at most 1"),
        (
            "objective.random_replace_prob=0.3",
            "objective.random_replace_prob: 0.3 and mask_replace_prob 0.8 are more than all",
        ),
        ("data.reset_position_ids=1", "data.reset_position_ids: must be true or false, not 1"),
        ("data.blend.0.tokens=0.5", "data.blend.0.tokens: must be a whole number, not 0.5"),
        (
            "data.blend.0.tokens=1000",
            "data.blend.0.tokens: shares are weights or token budgets, not both",
        ),
        ("optimizer.min_lr=1", "optimizer.min_lr: 1.0 is above lr 0.002"),
        ("optimizer.lr=.nan", "optimizer.lr: must be a finite number"),
        (
            "optimizer.lr_decay_style=cosin",
            "must be 'linear', 'cosine', 'constant', 'inverse-square-root' or 'WSD',",
        ),
        ("optimizer.lr_decay_style=WSD", "optimizer.lr_decay_style: WSD needs lr_wsd_decay_iters"),
        (
            "optimizer.lr_wsd_decay_iters=5",
            "optimizer.lr_wsd_decay_iters: goes with lr_decay_style WSD, not linear",
        ),
        (
            "optimizer.lr_warmup_iters=5",
            "optimizer.lr_warmup_iters: give lr_warmup_fraction or lr_warmup_iters",
        ),
        ("optimizer.lr_warmup_fraction=1", "optimizer.lr_warmup_fraction: must be less than 1"),
        ("optimizer.adam_beta2=1", "optimizer.adam_beta2: must be less than 1"),
        ("precision=fp16", "precision: must be 'bf16' or 'fp32', not 'fp16'; did you mean"),
        ("curriculum=[]", "curriculum: must not be empty"),
        ("curriculum.1.seq_length=16", "curriculum.1.seq_length: 16 comes after 32; put the stages in order"),
        (
            "curriculum.3.seq_length=512",
            "curriculum.3.seq_length: 512 is more than model.max_position_embeddings 256",
        ),
        ("curriculum.0.seq_length=7", "curriculum.0.seq_length: must be at least 8"),
        ("curriculum.3.seq_length=1048577", "curriculum.3.seq_length: must be at most 1048576"),
        ("curriculum.0.train_iters=0", "curriculum.0.train_iters: must be more than 0"),
        (f"{TP}=8", f"{TP}: 8 does not divide model.num_attention_heads 4"),
        (f"{TP}=3", f"{TP}: 3 does not divide model.ffn_hidden_size 352"),
        (f"{PP}=3", f"{PP}: 3 does not divide model.num_layers 4"),
        (
            "parallelism.tensor_parallel=2",
            "parallelism.tensor_parallel: unknown key; did you mean tensor_model",
        ),
        ("name=../x", "name: cannot be '../x' (The run's folder is runs_dir/name: letters, digits,"),
        ("name=..", "name: cannot be '..'"),
        ("name=.hidden", "name: cannot be '.hidden'"),
        ("name=-x", "name: cannot be '-x'"),
        ("name=a/b", "name: cannot be 'a/b'"),
        ("name='a b'", "name: cannot be 'a b'"),
        ("name='$(id)'", "name: cannot be '$(id)'"),
        ("name=''", "name: cannot be ''"),
        ('name="a\\n"', "name: cannot be 'a\\n'"),
        ("lr=1", "lr: unknown key; did you mean optimizer.lr?"),
        ("train_iters=1", "train_iters: unknown key; did you mean curriculum.0.train_iters?"),
        (
            "optimizer.lr_warmup_fraction=0.9999999999999",
            "optimizer.lr_warmup_fraction: 700 steps of warm-up are not fewer than the 700 of the run",
        ),
        ("name=" + "x" * 101, "name: must be at most 100 characters long"),
        ("seed=-1", "seed: must be at least 0"),
        ("global_batch_size=0", "global_batch_size: must be more than 0"),
        ("schedule_scope=epoch", "schedule_scope: must be 'run' or 'stage', not 'epoch'"),
    ],
)
def test_an_impossible_value_is_refused_by_name(override: str, fault: str) -> None:
    message = "\n".join(refusal(override))
    assert f"override {override!r}: " in message
    assert fault in message


def test_weights_are_given_to_all_corpora_or_to_none(tmp_path: Path) -> None:
    assert refusal("data.blend.2.weight=null") == [
        "override 'data.blend.2.weight=null': data.blend.2.weight: missing; give every corpus a weight, or none of"
        " them"
    ]
    free = load_yaml(Recipe, SMALL, [f"data.blend.{n}.weight=null" for n in range(5)])
    assert {corpus.weight for corpus in free.data.blend} == {None}
    heir = tmp_path / "heir.yaml"
    heir.write_text(f"base: {SMALL}\ndata:\n  blend:\n    - {{path: a, weight: 1}}\n    - {{path: b}}\n")
    with pytest.raises(RecipeError, match=rf"^{heir}:5: data.blend.1.weight: missing"):
        load_yaml(Recipe, heir)


def budgets(*tokens: str) -> str:
    return f"data.blend=[{', '.join(f'{{path: c{n}, tokens: {t}}}' for n, t in enumerate(tokens))}]"


def test_token_budgets_add_up_to_what_the_curriculum_reads() -> None:
    # 64 samples x (100 x 32 + 300 x 64 + 250 x 128 + 50 x 256) tokens.
    reads = 64 * (100 * 32 + 300 * 64 + 250 * 128 + 50 * 256)
    recipe = load_yaml(Recipe, SMALL, [budgets("3.3e6", str(reads - 3_300_000))])
    assert [corpus.tokens for corpus in recipe.data.blend] == [3_300_000, reads - 3_300_000]
    load_yaml(Recipe, SMALL, [budgets("1e6", f"{reads * 0.96 - 1e6:.0f}")])
    for total in (reads * 0.9, reads * 1.06):
        fault = refusal(budgets("1000000", f"{total - 1e6:.0f}"))[0]
        assert "data.blend.0.tokens: the budgets add up to" in fault
        assert f"the curriculum reads {reads:,}" in fault
    assert "data.blend.1.tokens: missing; give every corpus a budget" in refusal(budgets("4e6", "null"))[0]


def test_a_stage_s_own_masking_rate_stands_before_the_run_s() -> None:
    recipe = load_yaml(Recipe, SMALL, ["curriculum.2.masking_probability=0.3"])
    assert [recipe.masking_probability(stage) for stage in range(4)] == [0.15, 0.15, 0.3, 0.15]
    assert recipe.evaluation.masking_probability == 0.15


def test_spans_are_those_of_the_paper_where_nothing_is_said() -> None:
    recipe = load_yaml(Recipe, SMALL, ["objective.masking_unit=span"])
    assert recipe.objective.span_lengths == (3.8, 10)
    other = load_yaml(
        Recipe, SMALL, ["objective={masking_unit: span, mean_span_length: 2, max_span_length: 4}"]
    )
    assert other.objective.span_lengths == (2.0, 4)


def test_faults_between_sections_are_said_together_at_the_line_of_the_field_to_change() -> None:
    lines = refusal(
        "model.max_position_embeddings=100",
        f"{PP}=3",
        "optimizer.lr_warmup_fraction=null",
        "optimizer.lr_warmup_iters=700",
    )
    assert lines == [
        f"{SMALL}:{line_of('seq_length: 128')}: curriculum.2.seq_length: 128 is more than"
        " model.max_position_embeddings 100; positions are allocated for the longest stage from the start",
        f"{SMALL}:{line_of('seq_length: 256')}: curriculum.3.seq_length: 256 is more than"
        " model.max_position_embeddings 100; positions are allocated for the longest stage from the start",
        f"override '{PP}=3': {PP}: 3 does not divide model.num_layers 4; change one of them",
        "override 'optimizer.lr_warmup_iters=700': optimizer.lr_warmup_iters: 700 steps of warm-up are not fewer"
        " than the 700 of the run",
    ]


def test_stage_names_must_differ() -> None:
    lines = refusal("curriculum.0.name=a", "curriculum.3.name=a")
    assert "curriculum.3.name: another stage is called a too" in lines[0]
    load_yaml(Recipe, SMALL, ["curriculum.0.name=a", "curriculum.3.name=b"])


def test_warm_up_must_fit_every_stage_where_the_schedule_is_per_stage() -> None:
    overrides = ["optimizer.lr_warmup_fraction=null", "optimizer.lr_warmup_iters=50"]
    load_yaml(Recipe, SMALL, overrides)
    assert "not fewer than the 50 of stage 3" in refusal(*overrides, "schedule_scope=stage")[0]


def test_the_fall_of_wsd_must_fit_after_the_warm_up() -> None:
    wsd = ["optimizer.lr_decay_style=WSD", "optimizer.lr_warmup_fraction=0.1"]
    load_yaml(Recipe, SMALL, [*wsd, "optimizer.lr_wsd_decay_iters=630"])
    lines = refusal(*wsd, "optimizer.lr_wsd_decay_iters=631")
    assert (
        "optimizer.lr_wsd_decay_iters: 631 steps of fall and 70 of warm-up are more than the 700 of the run"
        in lines[0]
    )


@pytest.mark.parametrize(
    ("groups", "tensor", "runs"),
    [(1, 4, True), (2, 4, True), (4, 2, True), (12, 8, False), (6, 4, False), (3, 6, True)],
)
def test_query_groups_and_tensor_parallelism_fit_as_megatron_demands(
    groups: int, tensor: int, runs: bool
) -> None:
    overrides = [
        "model={num_layers: 2, hidden_size: 192, ffn_hidden_size: 384, num_attention_heads: 24,"
        f" num_query_groups: {groups}, max_position_embeddings: 256}}",
        f"tokenizer.make_vocab_size_divisible_by={24 * 128}",
        f"{TP}={tensor}",
    ]
    if runs:
        load_yaml(Recipe, SMALL, overrides)
    else:
        assert f"{TP}: {tensor} neither divides model.num_query_groups {groups} nor" in refusal(*overrides)[0]


def test_a_joint_projection_that_tensor_parallelism_cannot_cut_is_refused() -> None:
    overrides = [f"{TP}=4", "model.hidden_size=12", "model.num_query_groups=1"]
    assert refusal(*overrides)[0].endswith(
        "4 does not divide the width of query, key and value, 18; change one of them"
    )


def test_every_field_says_in_words_what_it_is() -> None:
    sections = [Recipe, *(f.annotation for f in Recipe.model_fields.values() if f.annotation in SECTIONS)]
    assert len(sections) == 12
    for section in [*sections, Corpus, Stage]:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_a_number_too_large_to_count_is_refused() -> None:
    huge = 2**31 - 1
    overrides = [
        "model.max_position_embeddings=1000000",
        "curriculum.3.seq_length=1000000",
        f"curriculum.3.train_iters={huge}",
        f"global_batch_size={huge}",
    ]
    assert "more tokens than can be counted" in refusal(*overrides)[0]


def test_a_resolved_recipe_is_written_and_read_back_equal(tmp_path: Path) -> None:
    recipe = load_yaml(
        Recipe, SMALL, ["curriculum.0.name=第一", "optimizer.lr=1e-4", "data.blend.0.path='1e4'"]
    )
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    assert load_yaml(Recipe, tmp_path / "recipe.yaml") == recipe


@settings(deadline=None, max_examples=50)
@given(
    lr=st.floats(1e-300, 1e300),
    warmup=st.none() | st.floats(0.0, 0.9),
    seed=st.integers(0, 2**63 - 1),
    path=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30),
    iters=st.lists(st.integers(1, 10**6), min_size=1, max_size=5),
)
def test_any_recipe_is_written_and_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    lr: float,
    warmup: float | None,
    seed: int,
    path: str,
    iters: list[int],
) -> None:
    content = load_yaml(Recipe, SMALL).model_dump()
    content["seed"] = seed
    content["runs_dir"] = content["tokenizer"]["model"] = path
    content["optimizer"] |= {"lr": lr, "min_lr": lr / 3, "lr_warmup_fraction": warmup}
    content["curriculum"] = [
        {"seq_length": 8 + number, "train_iters": steps, "max_micro_batch_size": 1}
        for number, steps in enumerate(iters)
    ]
    recipe = Recipe.model_validate(content)
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(dump_yaml(recipe), encoding="utf-8")
    assert load_yaml(Recipe, file) == recipe


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_damage_to_a_recipe_ends_in_anything_but_a_recipe_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lines = SMALL.read_text(encoding="utf-8").splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        line = lines[number]
        cut = data.draw(st.integers(0, len(line)))
        lines[number] = line[:cut] + data.draw(st.sampled_from(DAMAGE)) + line[cut + 1 :]
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    try:
        recipe = load_yaml(Recipe, path)
    except RecipeError as error:
        assert str(path) in str(error)
        return
    Curriculum(recipe)
    for step in (0, 1, 10**6):
        assert learning_rate(recipe, step) >= 0
