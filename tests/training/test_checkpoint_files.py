"""What is wrong with a checkpoint is found and named; no torch is needed for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.training.checkpoint_files import (
    file_sum,
    find_corruption,
    find_damage,
    read_description,
    share_of_files,
    write_description,
)
from retrieva_pretrain.training.run_folder import RunFolder


def make_checkpoint(folder: RunFolder, step: int) -> Path:
    path = folder.checkpoint(step)
    path.mkdir(parents=True)
    for name, size in (("__0_0.distcp", 5000), ("__1_0.distcp", 7000), (".metadata", 40)):
        (path / name).write_bytes(bytes((step + i) % 256 for i in range(size)))
    files = {p.name: file_sum(p) for p in path.iterdir()}
    write_description(
        path,
        {"step": step, "world_size": 2, "versions": {}, "identity": {"a": 1}, "state": {}, "files": files},
    )
    return path


def whole(path: Path) -> str | None:
    """Both checks, as a run makes them."""
    return find_damage(path) or find_corruption(path, share_of_files(path, 0, 1))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def rewrite(change: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def damage(path: Path) -> None:
        content = json.loads((path / "checkpoint.json").read_text())
        changed = change(content)
        (path / "checkpoint.json").write_text(json.dumps(content if changed is None else changed))

    return damage


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: flip(p / "__1_0.distcp"), "__1_0.distcp is not what was written"),
    (lambda p: flip(p / ".metadata"), ".metadata is not what was written"),
    (lambda p: (p / "__0_0.distcp").write_bytes(b"short"), "__0_0.distcp has 5 bytes instead of 5000"),
    (lambda p: (p / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    (lambda p: (p / "checkpoint.json").unlink(), "checkpoint.json is missing"),
    (lambda p: (p / "checkpoint.json").write_bytes(b""), "checkpoint.json cannot be read"),
    (
        lambda p: (p / "checkpoint.json").write_bytes(b'{"step": "\xff\xfe"}'),
        "checkpoint.json cannot be read",
    ),
    (lambda p: (p / "checkpoint.json").write_text("[" * 100_000), "checkpoint.json cannot be read"),
    (lambda p: (p / "checkpoint.json").write_text("[1]"), "holds a list"),
    (lambda p: (p / "checkpoint.json").write_text("null"), "holds a NoneType"),
    (rewrite(lambda c: c.update(step=True)), "`step` is missing or not a int"),
    (rewrite(lambda c: c.update(files=[])), "`files` is missing or not a dict"),
    (rewrite(lambda c: c["files"].update(x=3)), "files.x is not a size and a checksum"),
    (rewrite(lambda c: c["files"].pop(".metadata") and None), "its own checksum differs"),
    (rewrite(lambda c: c.update(step=c["step"] + 1)), "its own checksum differs"),
    (rewrite(lambda c: c.pop("checksum") and None), "its own checksum differs"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES, ids=[told for _, told in DAMAGES])
def test_damage_is_found_and_named(tmp_path: Path, damage: Callable[[Path], object], told: str) -> None:
    path = make_checkpoint(RunFolder(tmp_path), 3)
    assert whole(path) is None
    damage(path)
    found = whole(path)
    assert found is not None
    assert told in found


def test_processes_check_all_files_between_them(tmp_path: Path) -> None:
    path = make_checkpoint(RunFolder(tmp_path), 3)
    shares = [share_of_files(path, rank, 4) for rank in range(4)]
    assert sorted(name for share in shares for name in share) == sorted(read_description(path)["files"])
    assert shares[0] == ["__1_0.distcp"], "the largest file comes first"


def test_the_newest_whole_checkpoint_counts_not_the_text_of_latest(tmp_path: Path) -> None:
    """A kill between the rename and `latest` must not lose a checkpoint."""
    folder = RunFolder(tmp_path)
    assert folder.newest_checkpoint() is None
    for step in (3, 10, 20):
        make_checkpoint(folder, step)
    (folder.checkpoints / "latest").write_text("step_0000003\n")
    (folder.checkpoint(20) / "__0_0.distcp").unlink()
    assert folder.newest_checkpoint() == folder.checkpoint(10)


def test_a_run_with_damaged_checkpoints_alone_is_not_begun_anew_unasked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (make_checkpoint(folder, 3) / "checkpoint.json").unlink()
    (make_checkpoint(folder, 6) / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of them can be used") as refusal:
        folder.newest_checkpoint()
    assert "step_0000003: checkpoint.json is missing" in str(refusal.value)
    assert "step_0000006: __0_0.distcp has 0 bytes instead of 5000" in str(refusal.value)


def test_what_is_not_a_checkpoint_is_neither_resumed_from_nor_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in ("step_0000003", "step_0000009.bak", "step_12345678", ".step_0000007.abc.partial"):
        (folder.checkpoints / name).mkdir(parents=True)
    assert sorted(folder.checkpoint_folders()) == [
        (3, folder.checkpoint(3)),
        (12345678, folder.checkpoint(12345678)),
    ]


def test_rotation_keeps_the_newest_and_the_last_of_each_stage(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3, 4, 5, 6):
        make_checkpoint(folder, step)
    (folder.checkpoints / "step_0000004.damaged").mkdir()
    (folder.checkpoints / "step_0000009.damaged").mkdir()
    folder.rotate(6, keep=2, for_ever={2, 9})
    names = sorted(p.name for p in folder.checkpoints.iterdir())
    assert names == ["step_0000002", "step_0000005", "step_0000006", "step_0000009.damaged"]
    folder.rotate(6, keep=1, for_ever=())
    assert [step for step, _ in folder.checkpoint_folders()] == [6]


def test_half_written_and_half_removed_folders_are_cleared_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make_checkpoint(folder, 3)
    for name in (".step_0000004.0f0f.partial", ".step_0000001.removed"):
        (folder.checkpoints / name).mkdir()
        (folder.checkpoints / name / "__0_0.distcp").write_bytes(b"half")
    folder.clear_leftovers()
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step_0000003"]
    assert whole(folder.checkpoint(3)) is None


def test_a_checkpoint_replaces_what_stands_under_its_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (make_checkpoint(folder, 3) / "checkpoint.json").write_text("{}")
    partial = make_checkpoint(RunFolder(tmp_path / "elsewhere"), 3)
    hidden = partial.rename(folder.checkpoints / ".step_0000003.1a2b.partial")
    assert folder.publish(hidden, 3) == folder.checkpoint(3)
    assert whole(folder.checkpoint(3)) is None
    assert (folder.checkpoints / "latest").read_text() == "step_0000003\n"
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["latest", "step_0000003"]


def test_sums_are_of_the_bytes_and_the_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"retrieva")
    found = file_sum(tmp_path / "a")
    assert found["size"] == 8
    assert re.fullmatch("[0-9a-f]{32}", found["xxh3_128"])
    (tmp_path / "b").write_bytes(b"retrievb")
    assert file_sum(tmp_path / "b") != found
