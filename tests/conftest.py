"""Tiny random models made on the spot, so that the tests need no network and no data."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Tiny tensors: a second thread only waits.
torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["what is the sum of one and two", "a b c d 1 2 3 4 5"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def make_model(seed: int = 0, tied: bool = True, vocabulary: int = 320) -> LlamaForCausalLM:
    """A two-layer Llama of a few thousand weights, large enough for its losses to differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


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


def write_lines(file: Path, records: list[dict]) -> Path:
    """A JSONL file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


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
