"""`fisher.safetensors`: the same bytes in every run, and one line if they are damaged."""

import pytest
import torch
from safetensors import safe_open

from letgo.errors import InputError
from letgo.scoring.fisher import Diagonal, load, save

METADATA = dict.fromkeys(("model", "kind", "labels", "examples", "at", "one", "more"), "text")


def test_equal_information_has_equal_bytes(tmp_path):
    contents = set()
    for number in range(6):
        file = tmp_path / f"{number}.safetensors"
        save(file, {"layer": Diagonal.zeros(3, 2, torch.device("cpu"))}, METADATA)
        contents.add(file.read_bytes())
    assert len(contents) == 1
    with safe_open(file, "pt") as stored:
        assert stored.metadata() == METADATA
        assert len(list(stored.keys())) == 1


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 100, "half"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    file = tmp_path / "fisher.safetensors"
    save(file, {"layer": Diagonal.zeros(3, 2, torch.device("cpu"))}, METADATA)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(InputError, match=r"fisher.safetensors is damaged .*`letgo fisher "):
        load(file, None, "text", torch.device("cpu"))
