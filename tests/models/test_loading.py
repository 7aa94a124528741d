"""The fingerprint of a model changes with every file that may change the model."""

import shutil

import pytest

from letgo.models.loading import fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.pt",
        "model.pth",
        "model.ckpt",
        "model.gguf",
        "model.msgpack",
        "modeling_own.py",
        "weights",
        "additional_chat_templates/tools.jinja",
    ],
)
def test_every_file_counts(tiny, tmp_path, name):
    folder = shutil.copytree(tiny, tmp_path / "model")
    prints = [fingerprint(str(folder))]
    (folder / name).parent.mkdir(exist_ok=True)
    for content in ("one", "two"):
        (folder / name).write_text(content)
        prints.append(fingerprint(str(folder)))
    assert len(set(prints)) == 3


@pytest.mark.parametrize("name", [".DS_Store", ".git/index", "README.md"])
def test_hidden_files_and_documents_do_not(tiny, tmp_path, name):
    folder = shutil.copytree(tiny, tmp_path / "model")
    before = fingerprint(str(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("text")
    assert fingerprint(str(folder)) == before
