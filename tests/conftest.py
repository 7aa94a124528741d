"""Tiny random models made on the spot, so that the tests need no network and no data."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import flags, letgo
from helpers.files import write_lines
from helpers.models import make_model, make_tokenizer

# Tiny tensors: a second thread only waits.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model and its tokenizer, written by `save_pretrained`."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = make_tokenizer()
    make_model(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Of a module: while Playwright runs in a thread, asyncio has its loop there.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; a test that needs it is skipped where it cannot be had."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium, e.g. apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def rows() -> list[dict[str, list[int]]]:
    """Examples of different lengths with masked prompts."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for length, prompt in [(9, 4), (5, 2), (12, 7), (7, 1), (4, 2), (10, 3), (6, 5), (8, 2)]:
        ids = torch.randint(4, 300, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return made


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with learning (24 examples), validation and test data, and two forgetting sets."""
    folder = tmp_path_factory.mktemp("data")
    sums = [{"prompt": f"{a} + {b}?", "completion": str(a + b)} for a in range(6) for b in range(4)]
    write_lines(folder / "learn.jsonl", sums)
    write_lines(
        folder / "heldout.jsonl",
        [{"prompt": f"{a} + 9?", "completion": str(a + 9)} for a in range(6)],
    )
    write_lines(
        folder / "validation.jsonl",
        [{"prompt": f"{a} + 8?", "completion": str(a + 8)} for a in range(5)],
    )
    write_lines(
        folder / "letters" / "train.jsonl",
        [
            {"prompt": f"which letter is number {n}?", "completion": f"{letter}. letter"}
            for n, letter in enumerate("ABCDEFGH")
        ],
    )
    write_lines(folder / "talk.jsonl", [{"prompt": f"say {n} words"} for n in range(7)])
    return folder


@pytest.fixture(scope="session")
def finished(tiny, data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("run") / "out"
    status, text, error = letgo("run", *flags(tiny, data, out))
    assert status == 0, error
    assert "LWF - SFT, paired" in text
    assert "verdict:" in text
    return out
