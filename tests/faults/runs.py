"""The commands whose faults are tried: a run with every stage, and a study, on a tiny model.

They are as small as they can be. A command runs in a folder of its own, and names files relative to
it: the model and the data lie in the folder above.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.commands import flags
from helpers.files import write_lines
from helpers.models import make_model, make_tokenizer
from helpers.study import SETTINGS, write_study
from safetensors.numpy import load_file

MODEL, DATA, OUT, STORE = Path("../tiny"), Path("../data"), "out", "store"
# Every stage has something to do: Fisher information, keep texts, relearning.
EVERY_STAGE = {
    "forget": DATA / "letters.jsonl",
    "keep": DATA / "talk.jsonl",
    "num_train_epochs": 1,
    "max_new_tokens": 4,
    "unlearning_interval": 3,
    "score": "fisher_distance",
    "rescore_interval": 0,
    "relearn": 3,
    "generation_batch_size": 4,
}


def write_inputs(root: Path) -> None:
    """The model and the data below `root`."""
    tokenizer = make_tokenizer()
    make_model(vocabulary=len(tokenizer)).save_pretrained(root / MODEL.name)
    tokenizer.save_pretrained(root / MODEL.name)
    data = root / DATA.name
    sums = [{"prompt": f"{a} + {b}?", "completion": str(a + b)} for a in range(6) for b in range(4)]
    write_lines(data / "learn.jsonl", sums)
    for name, other in (("heldout", 9), ("validation", 8)):
        rows = [{"prompt": f"{a} + {other}?", "completion": str(a + other)} for a in range(3)]
        write_lines(data / f"{name}.jsonl", rows)
    letters = [
        {"prompt": f"which letter is number {n}?", "completion": f"{letter}. letter"}
        for n, letter in enumerate("ABCDEFGH")
    ]
    write_lines(data / "letters.jsonl", letters)
    write_lines(data / "talk.jsonl", [{"prompt": f"say {n} words"} for n in range(7)])
    settings = {"model": str(MODEL), **SETTINGS, "keep": "none", "checkpoint_minutes": 0}
    write_study(
        root / "study.yaml",
        MODEL,
        DATA,
        settings=settings,
        forget={"letters": str(EVERY_STAGE["forget"])},
        methods={"lwf": {}},
        claims={"lwf_vs_sft": {"method": "lwf", "baseline": "sft", "forget": "letters"}},
    )


def run_words(**changes: Any) -> list[str]:
    """The command line of the run."""
    return ["run", *flags(MODEL, DATA, OUT, **{**EVERY_STAGE, **changes})]


def study_words() -> list[str]:
    """The command line of the study: two runs, which share stages."""
    return ["study", "../study.yaml", "--output_dir", OUT]


# Their content tells times, paths or versions; that they exist is compared.
NOT_COMPARED = {
    "config.yaml",
    "stages.json",
    "digests.json",
    "report.html",
    "README.md",
    "results.md",
    "study.yaml",
}
NOT_COMPARED_ENDINGS = (".lock", ".log", ".png", ".yaml")
TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "seconds")
# A training that was interrupted logs these of its last part.
OF_LAST_PART = ("num_tokens", "train_loss")


def results(folder: Path) -> dict[str, str]:
    """The digest of each file below a folder, of what two equal runs must share."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(b"".join(_content(file))).hexdigest()[:16]
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.relative_to(folder).parts[0] != "log"
    }


def _content(file: Path) -> Iterator[bytes]:
    if file.name in NOT_COMPARED or file.name.endswith(NOT_COMPARED_ENDINGS):
        return
    if file.suffix == ".safetensors":  # the order of the tensors means nothing
        try:
            for name, value in sorted(load_file(file).items()):
                yield f"{name} {value.dtype} {value.shape}".encode() + value.tobytes()
        except Exception:  # a damaged file differs in any case
            yield file.read_bytes()
    elif file.suffix == ".jsonl":
        for line in file.read_bytes().splitlines():
            yield _without_times(line)
    elif file.parent.name == "cells" or file.name == "results.json":
        yield _without_times(file.read_bytes())
    else:
        yield file.read_bytes()


def _without_times(text: bytes) -> bytes:
    try:
        content = json.loads(text)
    except ValueError:
        return text
    for name in (*TIMES, *OF_LAST_PART, "versions", "git_revision", "provenance"):
        content.pop(name, None)
    return json.dumps(content, sort_keys=True).encode()


def start_from(template: Path | None, folder: Path) -> Path:
    """An empty folder, or a copy of another one, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    if template is None:
        folder.mkdir()
    else:
        shutil.copytree(template, folder)
    return folder
