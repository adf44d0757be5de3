"""A preflight finds what would cost hours, names the node at fault, and runs whole on a machine without a GPU."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.planning.measured import read_measured
from retrieva_pretrain.preflight.judge import Finding, Promised, judge
from tests.command import retrieva

RECIPE = Path(__file__).resolve().parents[1] / "recipe" / "small.yaml"
STAGE = {
    "stage": 0,
    "seq_length": 128,
    "tokens_per_second": 57_000.0,
    "mfu": 0.41,
    "peak_memory": 60 * 2**30,
    "micro_batch_size": 64,
    "too_large": [],
}
H100 = Promised(gpus_per_node=8, peak_tflops=989.0, memory_bandwidth=3350.0)


def eight_gpus() -> list[dict[str, Any]]:
    """What two nodes of four healthy H100 would measure."""
    rank = {
        "platform": "cuda",
        "versions": {
            "Python": "3.11.7",
            "torch": "2.8",
            "Transformer Engine": "2",
            "Apex": "1",
            "flash-attention": "2",
        },
        "matmul_tflops": 680.0,
        "copy_gb_per_second": 2900.0,
        "gpu": {"driver": "550", "uncorrected_errors": "0", "slowdown": "Not Active", "clock": "1755"},
        "all_reduce_in_node": 300.0,
        "all_reduce_of_all": 150.0,
        "clock_offset": 0.002,
        "parity": None,
    }
    ranks = []
    for number in range(8):
        node, local_rank = divmod(number, 4)
        mine = deepcopy(rank) | {"rank": number, "local_rank": local_rank, "node": node, "host": f"n{node}"}
        if local_rank == 0:
            mine |= {
                "sign": {"seen": True},
                "free_bytes": 10**13,
                "corpora": {"gb_per_second": 1.5, "bytes": 1},
            }
        ranks.append(mine)
    ranks[0]["parity"] = {"difference": 0.004, "good": True}
    return ranks


@pytest.fixture
def recipe(tmp_path: Path, make_corpus: Callable[..., Path], small_tokenizer: Tokenizer) -> list[Any]:
    """A small recipe with a corpus of its own, as words of a command."""
    prefix = make_corpus(tmp_path / "data", "a", [list(range(50, 150))] * 100)
    return [RECIPE, f"tokenizer.model={small_tokenizer.path}", f"data.blend=[{{path: {prefix}}}]"]


def by_check(ranks: list[dict[str, Any]], **more: Any) -> dict[str, Finding]:
    more = {"stage_times": {"stages": [STAGE]}, **more}
    return {finding.check: finding for finding in judge(ranks, H100, **more)}


def test_healthy_nodes_are_green() -> None:
    found = by_check(eight_gpus(), checkpoint_bytes=10**11)
    assert {finding.level for finding in found.values()} == {"green"}
    assert found["matrix product"].said == "680 to 680 TFLOP/s, 69% of the peak 989"


@pytest.mark.parametrize(
    ("times", "check", "level", "said"),
    [
        (
            {"stages": [STAGE]},
            "training at length 128",
            "green",
            "57,000 tokens/s per GPU, 41.0% MFU, 60.0 GiB",
        ),
        (
            {"stages": [STAGE | {"too_large": [128]}]},
            "training at length 128",
            "yellow",
            "micro-batches of 64; 128 did not fit",
        ),
        (
            {"stages": [{"seq_length": 128, "error": "RuntimeError: a kernel"}]},
            "training at length 128",
            "yellow",
            "could not be timed: RuntimeError: a kernel",
        ),
        ({"stages": [STAGE], "error": "not done after 360 s"}, "training speed", "yellow", "not done after"),
        ({"error": "one copy of the model takes 16"}, "training speed", "yellow", "one copy of the model"),
    ],
)
def test_what_the_timing_of_the_stages_found_is_said_and_hides_no_other_check(
    times: dict[str, Any], check: str, level: str, said: str
) -> None:
    found = by_check(eight_gpus(), checkpoint_bytes=10**11, stage_times=times)
    assert found[check].level == level
    assert said in found[check].said
    assert {f.level for name, f in found.items() if not name.startswith("training")} == {"green"}


@pytest.mark.parametrize(
    ("changes", "check", "level", "said"),
    [
        ({"matmul_tflops": 400.0}, "matrix product", "red", "n1 GPU 1 only 400"),
        ({"matmul_tflops": 590.0}, "matrix product", "yellow", "n1 GPU 1 only 590"),
        (
            {"matmul_tflops": {"error": "RuntimeError: CUDA error"}},
            "matrix product",
            "red",
            "rank 5 on n1: RuntimeError",
        ),
        ({"copy_gb_per_second": 900.0}, "memory copy", "red", "n1 GPU 1 only 900"),
        ({"versions": {"Python": "3.12"}}, "versions", "red", "others on n1"),
        (
            {"gpu": {"driver": "550", "uncorrected_errors": "3"}},
            "GPU health",
            "red",
            "n1 GPU 1: 3 uncorrected",
        ),
        ({"gpu": {"driver": "550", "slowdown": "Active"}}, "GPU health", "red", "n1 GPU 1: slowed down"),
        (
            {"gpu": {"driver": "550", "clock": "1200"}},
            "GPU health",
            "yellow",
            "slower than the others: n1 GPU 1 1200",
        ),
        ({"gpu": {"driver": "535"}}, "versions", "red", "driver 535/550"),
        ({"clock_offset": -3.0}, "clocks", "red", "3.000 s apart from the others (n1)"),
        ({"clock_offset": 0.5}, "clocks", "yellow", "(n1)"),
        ({"sign": {"seen": False}}, "shared folder", "red", "on n1"),
        (
            {"corpora": {"error": "there is no corpus data/x"}},
            "corpora",
            "red",
            "n1: there is no corpus data/x",
        ),
        ({"free_bytes": 10**9}, "disk", "red", "1 GB free, the checkpoints need 100.0 GB"),
    ],
)
def test_what_is_wrong_with_one_process_is_found_and_its_node_named(
    changes: dict[str, Any], check: str, level: str, said: str
) -> None:
    ranks = eight_gpus()
    ranks[5] |= changes
    found = by_check(ranks, checkpoint_bytes=10**11)
    assert found[check].level == level
    assert said in found[check].said
    assert {f.level for name, f in found.items() if name != check} == {"green"}


def test_slow_everywhere_is_held_against_the_peak_and_what_is_missing_is_said_with_its_use() -> None:
    ranks = eight_gpus()
    for rank in ranks:
        rank["matmul_tflops"] = 300.0
        del rank["versions"]["Transformer Engine"]
    found = by_check(ranks)
    assert found["matrix product"].level == "red"
    assert "30% of the peak" in found["matrix product"].said
    # Nothing that a run needs by default.
    assert found["Transformer Engine"].level == "none"
    assert "only kernels.transformer_impl: transformer_engine" in found["Transformer Engine"].said


def test_a_node_without_its_gpus_is_red() -> None:
    ranks = [rank | {"platform": "cpu", "gpu": None} for rank in eight_gpus()]
    assert by_check(ranks)["processes"].level == "red"


@pytest.mark.engine
def test_a_machine_without_a_gpu_is_measured_whole_and_the_plan_reads_its_speed(
    tmp_path: Path, recipe: list[Any]
) -> None:
    recipe += ["model.num_layers=1", "model.hidden_size=32", "model.ffn_hidden_size=48"]
    # The kernels of CUDA by name, or the plan would refuse a measurement of the CPU's. Fusions would only compile.
    recipe += [f"kernels.{name}=false" for name in ("bias_activation_fusion", "bias_dropout_fusion")]
    recipe += ["kernels.attention_backend=sdpa", "kernels.gradient_accumulation_fusion=true"]
    measured = tmp_path / "measured.json"
    words = ["preflight", "--processes", 2, "--json", "--measured", measured, "--recipe", *recipe]
    done = retrieva(*words, cwd=tmp_path)
    result = json.loads(done.stdout)
    levels = {finding["check"]: finding["level"] for finding in result["findings"]}
    assert levels["GPU health"] == levels["matrix product"] == "none"
    assert levels["shared folder"] == levels["all-reduce in a node"] == "green"
    # Processes that wait for a CPU answer late, which looks like clocks that differ.
    assert levels["clocks"] != "red", result["findings"]
    assert levels["corpora"] == levels["disk"] == "green", result["findings"]
    assert [rank["rank"] for rank in result["ranks"]] == [0, 1]
    assert all(rank["matmul_tflops"] > 0 and rank["copy_gb_per_second"] > 0 for rank in result["ranks"])
    times = result["stage_times"]
    assert "error" not in times, times
    assert [stage["seq_length"] for stage in times["stages"]] == [32, 64, 128, 256]
    # Of the run on both processes: 64 samples a step.
    assert [stage["micro_batch_size"] for stage in times["stages"]] == [32, 32, 16, 8]
    # The command that it shows at its end.
    shown = done.stderr.strip().splitlines()[-1].partition(": ")[2]
    assert shown.startswith("retrieva plan ")
    assert shown.endswith(f"--measured {measured}")
    file = read_measured(measured)
    assert [entry.seq_length for entry in file.entries] == [32, 64, 128, 256]
    assert all(entry.tokens_per_second > 0 and entry.mfu is None for entry in file.entries)
    assert "measured on" in retrieva(*shlex.split(shown)[1:], cwd=tmp_path).stdout


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said", "corpora"),
    [
        (
            "kernels.transformer_impl=transformer_engine",
            "needs Transformer Engine, which is not installed",
            "green",
        ),
        ("tokenizer.model=gone.model", "gone.model", "red"),
    ],
)
def test_what_training_would_refuse_is_red_and_hides_nothing(
    tmp_path: Path, recipe: list[Any], change: str, said: str, corpora: str
) -> None:
    done = retrieva("preflight", "--json", "--recipe", *recipe, change, code=1, cwd=tmp_path)
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["recipe"]["level"] == "red"
    assert said in found["recipe"]["said"]
    assert found["corpora"]["level"] == corpora
    assert found["shared folder"]["level"] == "green"
    assert not list(tmp_path.rglob("measured.json"))


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--measured", "m.json"], "only the stages of a recipe are timed"),
        (["--measured", "m.json", "--recipe", RECIPE, "--no-speed"], "only the stages of a recipe are timed"),
        (["--measured", "gone/m.json", "--recipe", RECIPE], "there is no folder gone"),
        (["--cluster", "tsubame4", "--set", "group=a", "--processes", 5], "tsubame4 has 4 GPUs a node"),
    ],
)
def test_what_could_not_be_done_is_refused_before_a_job(
    tmp_path: Path, words: list[Any], refusal: str
) -> None:
    refused = retrieva("preflight", "--dry-run", *words, code=1, cwd=tmp_path)
    assert refusal in refused.stderr


@pytest.mark.slow
@pytest.mark.engine
def test_a_divided_model_is_timed_by_the_processes_of_one_copy(tmp_path: Path, recipe: list[Any]) -> None:
    recipe += ["parallelism.pipeline_model_parallel_size=2", "model.num_layers=2"]
    words = ["preflight", "--processes", 2, "--json", "--measured", "measured.json", "--recipe", *recipe]
    result = json.loads(retrieva(*words, cwd=tmp_path).stdout)
    assert "error" not in result["stage_times"]
    entries = read_measured(tmp_path / "measured.json").entries
    assert [entry.pipeline_model_parallel_size for entry in entries] == [2] * 4
    # More processes than the node has: said, and no other check is lost.
    words[2] = 1
    result = json.loads(retrieva(*words, cwd=tmp_path).stdout)
    found = {finding["check"]: finding for finding in result["findings"]}
    assert "takes 2 processes" in found["training speed"]["said"]
    assert found["corpora"]["level"] == "green"


@pytest.mark.slow
def test_a_corpus_that_is_not_there_is_red_and_the_exit_code_says_so(tmp_path: Path) -> None:
    done = retrieva("preflight", "--recipe", RECIPE, code=1, cwd=tmp_path)
    assert "red" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
