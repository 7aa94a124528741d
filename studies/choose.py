"""Choose the SFT baseline's learning rate and epochs, by the NLL of validation examples.

usage: python studies/choose.py DATA FOLDER [--study large] [--jobs N]
       DATA: as studies/split.py writes it; a second call resumes in FOLDER

The baseline of a study must be as strong as possible. Learning With Forgetting uses the learning
rate and epochs chosen for it and is not tuned itself.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import yaml

from letgo.data.records import read_records
from letgo.data.tokens import example_ids, training_row
from letgo.run.base import load_trained
from letgo.run.config import parse
from letgo.run.folder import read_json, write_json

# Candidates: learning rates, an adapter's learning rates, and epochs by task.
RATES = {"paper": (5e-5, 1e-4), "large": (5e-5, 1e-4, 2e-4)}
LORA_RATES = (5e-4, 1e-3, 2e-3)
EPOCHS = {
    "paper": {
        "base9": (1, 2),
        "sst5": (1, 2),
        "base9_64": (2, 4, 8),
        "base9_lora": (4,),
        "qasc": (1,),
        "dental": (1,),
        "psychol": (1,),
        "gsm8k": (1,),
    },
    "large": {"gsm8k": (1,), "sst5": (1, 2), "qasc": (1, 2), "dental": (1, 2), "psychol": (1, 2)},
}
SEED = 100  # no claim uses it


def main() -> None:
    """Fine-tune with every setting and record the NLL of the validation set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--study", choices=EPOCHS, default="paper")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["LETGO_STUDY_DATA"] = arguments.data
    file = Path(__file__).with_name(f"{arguments.study}_choice.json")
    results: dict[str, dict[str, float]] = read_json(file)
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be used in a fork
    with ProcessPoolExecutor(arguments.jobs, mp_context=spawn) as pool:
        submitted = {
            pool.submit(nll, flags): (task, label)
            for task, label, flags in settings(arguments.study, arguments.folder)
            if label not in results.get(task, {})
        }
        for future in as_completed(submitted):
            task, label = submitted[future]
            results.setdefault(task, {})[label] = future.result()
            write_json(file, results)
            print(task, label, results[task][label], flush=True)


def settings(name: str, root: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Every candidate: (task, label, flags of `letgo probe`)."""
    study = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text())
    for task, choices in EPOCHS[name].items():
        for epochs in reversed(choices):  # the longest first
            for rate in LORA_RATES if study["learn"][task].get("use_peft") else RATES[name]:
                options: dict[str, Any] = {
                    **study["settings"],
                    **study["learn"][task],
                    "seed": SEED,
                    "learning_rate": rate,
                    "num_train_epochs": epochs,
                    "unlearning_interval": 0,
                    "output_dir": str(root / f"{task}-{rate:g}-{epochs}"),
                }
                flags = {flag: os.path.expandvars(str(value)) for flag, value in options.items()}
                yield task, f"{rate:g} x {epochs}", flags


@torch.inference_mode()
def nll(flags: dict[str, str]) -> float:
    """Mean NLL of the references after fine-tuning, nats per token."""
    validation = flags.pop("learn_validation")
    flags["learn_test"] = validation
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    subprocess.run([sys.executable, "-m", "letgo", "probe", *words], check=True)
    config = parse("probe", words, {})
    lm = load_trained(config, Path(flags["output_dir"]) / "probe")
    losses: list[float] = []
    for record in read_records(validation, "DATA", True):
        row = training_row(*example_ids(lm.tokenizer, record.prompt, record.completion or ""))
        losses += lm.losses([row])
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
