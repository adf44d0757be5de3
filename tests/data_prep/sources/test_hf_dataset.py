"""A dataset of the Hugging Face library is streamed, without the network where it is local."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.errors import DataPrepError
from tests.data_prep.sources.reading import TEXTS, lines, read


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache of the test's own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("form", ["jsonl", "parquet", "save_to_disk", "dataset_dict"])
def test_a_local_dataset_is_streamed(tmp_path: Path, form: str) -> None:
    import datasets

    folder = tmp_path / "dataset"
    folder.mkdir()
    data = datasets.Dataset.from_dict({"body": TEXTS})
    if form == "jsonl":
        (folder / "train.jsonl").write_bytes(lines("body", TEXTS))
    elif form == "parquet":
        data.to_parquet(folder / "train.parquet")
    elif form == "save_to_disk":
        data.save_to_disk(folder)
    else:
        datasets.DatasetDict({"train": data}).save_to_disk(folder)
    assert read("hf_dataset", Path("hf_dataset"), path=str(folder), column="body")[0] == TEXTS
    with pytest.raises(DataPrepError, match=r"no 'text'; there is .*'body'"):
        read("hf_dataset", Path("hf_dataset"), path=str(folder))


@pytest.mark.usefixtures("offline")
def test_a_dataset_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataPrepError, match=r"options\.path: the dataset 'absent/here' .* cannot be read"
    ) as refusal:
        read("hf_dataset", Path("hf_dataset"), path="absent/here")
    assert "\n" not in str(refusal.value)
    (tmp_path / "train.jsonl").write_bytes(lines("text", TEXTS))
    with pytest.raises(DataPrepError, match="split 'test'"):
        read("hf_dataset", Path("hf_dataset"), path=str(tmp_path), split="test")
