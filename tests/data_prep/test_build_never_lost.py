"""A build may be killed at any time, shared out in any way, and never mixes or loses anything."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_prep.build import Cut, Progress, build, build_folder, build_share, merge_shares
from data_prep.build.shard import shard_path
from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest
from tests.data_prep.built import TEXTS, contents
from tests.waiting import wait_until

CUT = Cut(task_bytes=200_000, shard_bytes=400_000)

BUILD = """
import sys
from pathlib import Path
from data_prep.build import Cut, build
from data_prep.corpus import CorpusConfig

cut = Cut(task_bytes=200_000, shard_bytes=400_000)
build(CorpusConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), workers=2, cut=cut)
"""


@pytest.fixture
def config(tmp_path: Path, configure: Any, write_jsonl: Any) -> CorpusConfig:
    """Two plain files that are cut into ranges, and a gzip file of several shards; 3 MB each."""
    draw = random.Random(0)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"):
        rows = [" ".join(draw.choices(TEXTS, k=12)) + str(draw.random()) for _ in range(9000)]
        write_jsonl(tmp_path / name, rows)
    found: CorpusConfig = configure(tmp_path / "*.jsonl*", deduplicate=True)
    return found


def start(config: CorpusConfig, out: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", BUILD, config.model_dump_json(), str(out)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def wait_for_start(process: subprocess.Popen[bytes], folder: Path) -> None:
    wait_until("the build's start", lambda: folder.exists() or process.poll() is not None, look_every=0.01)


def test_killed_at_random_moments_a_build_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, config: CorpusConfig
) -> None:
    build(config, tmp_path / "undisturbed", workers=1)
    draw = random.Random(int.from_bytes(os.urandom(4), "little"))
    finished: dict[str, int] = {}
    folder = build_folder(config, tmp_path / "out")
    for _ in range(8):
        process = start(config, tmp_path / "out")
        wait_for_start(process, folder)
        time.sleep(draw.uniform(0, 1.2))
        victims = []
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(process.pid)
            victims = [main, *main.children(recursive=True)]
            draw.choice(victims).kill()
        assert process.wait(60) != 1 or b"run the same command again" in process.stderr.read()  # type: ignore[union-attr]
        # A worker of a killed build ends by itself.
        psutil.wait_procs(victims, timeout=20)
        assert not any(victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE for victim in victims)
        # No finished shard was written again.
        now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
        assert all(now.get(name, when) == when for name, when in finished.items())
        finished = now
    build(config, tmp_path / "out", cut=CUT)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_finished_shards_are_not_built_again(tmp_path: Path, config: CorpusConfig) -> None:
    build_share(config, tmp_path / "out", 1, 2, cut=CUT)
    before = {path: path.stat().st_mtime_ns for path in build_folder(config, tmp_path / "out").glob("task-*")}
    assert before
    build_share(config, tmp_path / "out", 1, 2, cut=CUT)
    build_share(config, tmp_path / "out", 2, 2, cut=CUT)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("of", [1, 3, 50])
def test_shares_built_by_themselves_and_merged_are_the_same_corpus(
    tmp_path: Path, config: CorpusConfig, of: int
) -> None:
    build(config, tmp_path / "whole", workers=2)
    for number in range(of, 0, -1):
        build_share(config, tmp_path / "out", number, of, cut=CUT, workers=1)
    merge_shares(config, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_shares_run_side_by_side(tmp_path: Path, config: CorpusConfig) -> None:
    command = [sys.executable, "-m", "retrieva_pretrain", "data", "build", str(tmp_path / "c.yaml")]
    (tmp_path / "c.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    processes = [
        subprocess.Popen([*command, "-o", str(tmp_path / "out"), "--shard", f"{number}/3", "--workers", "1"])
        for number in (1, 2, 3)
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    command[4] = "merge"
    subprocess.run([*command, "-o", str(tmp_path / "out")], check=True)
    build(config, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert {name: data for name, data in contents(tmp_path / "out").items() if name in whole} == whole


def test_a_merge_without_all_shares_says_what_is_missing(tmp_path: Path, config: CorpusConfig) -> None:
    with pytest.raises(DataPrepError, match="no shares to merge"):
        merge_shares(config, tmp_path / "out")
    build_share(config, tmp_path / "out", 2, 3)
    with pytest.raises(DataPrepError, match=r"tasks are not finished, the first of them in .*jsonl"):
        merge_shares(config, tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.bin").exists()


def test_a_second_build_on_the_same_output_refuses_and_names_the_first(
    tmp_path: Path, config: CorpusConfig
) -> None:
    process = start(config, tmp_path / "out")
    folder = build_folder(config, tmp_path / "out")
    wait_until(
        "a shard", lambda: bool(list(folder.glob("task-*"))) or process.poll() is not None, look_every=0.01
    )
    process.send_signal(signal.SIGSTOP)
    try:
        assert process.poll() is None
        for second in (
            lambda: build(config, tmp_path / "out"),
            lambda: build_share(config, tmp_path / "out", 1, 2),
            lambda: build(config, tmp_path / "out", overwrite=True),
        ):
            with pytest.raises(
                DataPrepError, match=f"another build is at work here: process {process.pid} on "
            ):
                second()
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait(120) == 0
    assert Manifest.load(tmp_path / "out" / "corpus")


def test_a_share_keeps_a_whole_build_away(tmp_path: Path, config: CorpusConfig) -> None:
    def during(_: Progress) -> None:
        with pytest.raises(DataPrepError, match=f"process {os.getpid()} on "):
            build(config, tmp_path / "out")
        with pytest.raises(DataPrepError, match=f"process {os.getpid()} on "):
            build_share(config, tmp_path / "out", 1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_share(config, tmp_path / "out", 1, 2, progress=during, cut=CUT)


def test_options_and_files_that_changed_since_a_build_began_are_noticed(
    tmp_path: Path, config: CorpusConfig
) -> None:
    build_share(config, tmp_path / "out", 1, 2, cut=CUT)
    other = config.model_copy(update={"deduplicate": False})
    with pytest.raises(
        DataPrepError, match=r"unfinished build of other inputs.*\n  deduplicate: True -> False"
    ):
        build(other, tmp_path / "out")
    data = (tmp_path / "b.jsonl").read_bytes()
    (tmp_path / "b.jsonl").write_bytes(data[:-40] + b"\n" * 40)
    with pytest.raises(DataPrepError, match=r"b\.jsonl: written since the build began"):
        build(config, tmp_path / "out")
    build(config, tmp_path / "out", overwrite=True)
    build(config, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", ["cut", "flipped", "record"])
def test_a_shard_damaged_after_it_was_finished_is_built_again(
    tmp_path: Path, config: CorpusConfig, damage: str
) -> None:
    for number in (1, 2):
        build_share(config, tmp_path / "out", number, 2, cut=CUT)
    folder = build_folder(config, tmp_path / "out")
    path = shard_path(folder, 1, 0, "json" if damage == "record" else "bin")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[100] ^= 1
        path.write_bytes(data)
        with pytest.raises(DataPrepError, match="this shard was damaged"):
            merge_shares(config, tmp_path / "out")
    else:
        path.write_bytes(data[:-7])
    build(config, tmp_path / "out")
    build(config, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_kill_between_the_last_renames_is_mended_by_the_next_run(
    tmp_path: Path, config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "save", killed)
        with pytest.raises(Killed):
            build(config, tmp_path / "out")
    assert (tmp_path / "out" / "corpus.bin").exists()
    build(config, tmp_path / "out")
    build(config, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_full_disk_is_one_message_and_keeps_what_is_finished(tmp_path: Path, config: CorpusConfig) -> None:
    # A limit on the size of a file stands for the full disk: it fails in the same write.
    program = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    program += "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    program += BUILD.replace("build(Corp", "from data_prep.errors import DataPrepError\ntry:\n    build(Corp")
    program += "except DataPrepError as error:\n    print(error)\n    sys.exit(1)\n"
    arguments = [sys.executable, "-c", program, config.model_dump_json(), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")
    assert "File too large" in done.stdout
    assert "run the same command again" in done.stdout
    assert not (tmp_path / "out" / "corpus.bin").exists()
    build(config, tmp_path / "out")
    build(config, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_rebuild_that_was_interrupted_goes_on_and_the_corpus_stays_meanwhile(
    tmp_path: Path, config: CorpusConfig
) -> None:
    build(config.model_copy(update={"deduplicate": False}), tmp_path / "out")
    before = contents(tmp_path / "out")

    def interrupt(state: Progress) -> None:
        if state.source_bytes_done > 1_500_000:
            # The corpus of before is complete, and looking at it takes nothing from the build at work.
            build(config.model_copy(update={"deduplicate": False}), tmp_path / "out")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config, tmp_path / "out", overwrite=True, progress=interrupt, cut=CUT, workers=1)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before
    seen: list[Progress] = []
    build(config, tmp_path / "out", overwrite=True, progress=seen.append, cut=CUT)
    assert next(state for state in seen if state.stage == "reading").source_bytes_done > 1_000_000
    build(config, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_build_that_cannot_keep_to_its_limit_stops_before_its_end(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    rows = [{"text": "abc"} if number % 20 else {"no": "text"} for number in range(400_000)]
    config = configure(write_jsonl(tmp_path / "a.jsonl", rows))
    seen: list[Progress] = []
    with pytest.raises(DataPrepError, match=r"5\.00%.* cannot be read, and max_malformed allows 0\.10%"):
        build(config, tmp_path / "out", progress=seen.append, cut=CUT, workers=1)
    assert seen[-1].stage == "reading"
    assert seen[-1].source_bytes_done < seen[-1].source_bytes * 0.9
