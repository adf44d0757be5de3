"""The way back: an export becomes a Megatron checkpoint again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from retrieva_pretrain.export.weights import write_weights
from retrieva_pretrain.recipe.sections import ModelConfig
from retrieva_pretrain.training.checkpoint_files import find_damage, read_description
from tests.command import retrieva
from tests.export.conftest import refused

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def imported(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "back"
    assert "init_from" in retrieva("import", exported, out).stdout
    return out


def test_what_is_imported_is_exported_bit_for_bit_in_one_file_or_several(
    exported: Path, imported: Path, tmp_path: Path
) -> None:
    checkpoint = imported / "checkpoints" / "step_0000000"
    assert find_damage(checkpoint) is None
    model = ModelConfig.model_validate(read_description(checkpoint)["identity"]["model"])
    before = load_file(exported / "model.safetensors")
    for limit, files in ((10**9, 1), (40_000, 3)):
        folder = tmp_path / str(limit)
        folder.mkdir()
        write_weights(checkpoint, model, 448, "bf16", folder, limit)
        shards = sorted(folder.glob("*.safetensors"))
        assert len(shards) >= files
        after = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    index = json.loads((tmp_path / "40000" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == before.keys()
    assert index["metadata"]["total_size"] == sum(t.numel() * 2 for t in before.values())


def test_what_does_not_fit_is_refused_with_one_message(exported: Path, tmp_path: Path) -> None:
    def changed(name: str) -> Path:
        return Path(shutil.copytree(exported, tmp_path / name))

    out = tmp_path / "out"
    assert "config.json" in refused("import", tmp_path / "none", out)
    other = changed("config")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    assert "model_type is 'bert'" in refused("import", other, out)
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 512}))
    assert "`vocab_size` is 512" in refused("import", other, out)
    weights = load_file(exported / "model.safetensors")
    lacking = changed("lacking")
    first = weights.pop("bert.layers.1.self_attn.k_proj.bias")
    save_file(weights, lacking / "model.safetensors")
    assert "k_proj.bias is missing" in refused("import", lacking, out)
    weights["bert.layers.1.self_attn.k_proj.bias"] = first[1:].clone()
    save_file(weights, lacking / "model.safetensors")
    assert "config.json makes it [16]" in refused("import", lacking, out)
    (lacking / "model.safetensors").write_bytes((exported / "model.safetensors").read_bytes()[:-100])
    assert "no whole safetensors file" in refused("import", lacking, out)
    (lacking / "sentencepiece.model").unlink()
    assert "--tokenizer" in refused("import", lacking, out)
    assert not out.exists() and not list(tmp_path.glob(".*"))
