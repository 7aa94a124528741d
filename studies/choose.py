"""Choose plain fine-tuning's learning rate and epochs, on validation examples alone.

usage: python studies/choose.py DATA FOLDER   DATA: as studies/split.py writes it; goes on in FOLDER

The baseline of a study must be as strong as it can be made; Learning With Forgetting gets the same
learning rate and epochs, and no tuning of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from letgo.config import parse
from letgo.data import example_ids, training_row
from letgo.inference import autocast, example_losses, pad_rows
from letgo.models import load_base_tokenizer, load_trained
from letgo.records import read_records
from letgo.stages import read_json, write_json

RATES, LORA_RATES = (5e-5, 1e-4), (5e-4, 1e-3, 2e-3)
SEED = 100  # one that no claim uses
EPOCHS = {"base9": (1, 2), "sst5": (1, 2), "base9_64": (2, 4, 8), "base9_lora": (4,),
          "qasc": (1,), "dental": (1,), "psychol": (1,), "gsm8k": (1,)}  # fmt: skip
STUDY = Path(__file__).with_name("paper.yaml")
FILE = STUDY.with_name("paper_choice.json")


def main() -> None:
    """Fine-tune with every setting; keep the NLL of the validation set."""
    data, root = map(Path, sys.argv[1:])
    study, found = yaml.safe_load(STUDY.read_text()), read_json(FILE)
    os.environ["LETGO_STUDY_DATA"] = str(data)
    for task, choices in EPOCHS.items():
        for rate in LORA_RATES if study["learn"][task].get("use_peft") else RATES:
            for epochs in choices:
                name = f"{rate:g} x {epochs}"
                if name not in found.get(task, {}):
                    given = {**study["settings"], **study["learn"][task], "seed": SEED,
                             "learning_rate": rate, "num_train_epochs": epochs,
                             "unlearning_interval": 0,
                             "output_dir": str(root / f"{task}-{rate:g}-{epochs}")}  # fmt: skip
                    flags = {flag: os.path.expandvars(str(value)) for flag, value in given.items()}
                    found.setdefault(task, {})[name] = nll(flags)
                    write_json(FILE, found)
                    print(task, name, found[task][name], flush=True)


@torch.inference_mode()
def nll(flags: dict[str, str]) -> float:
    """Mean NLL of the right answers after fine-tuning, nats per token."""
    validation = flags.pop("learn_validation")
    flags["learn_test"] = validation
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    subprocess.run([sys.executable, "-m", "letgo", "probe", *words], check=True)
    config = parse("probe", words, {})
    model = load_trained(config, Path(flags["output_dir"]) / "probe")
    tokenizer = load_base_tokenizer(config)
    losses: list[float] = []
    for record in read_records(validation, "DATA", True):
        row = training_row(*example_ids(tokenizer, record.prompt, record.completion or ""))
        with autocast(bool(config.training.bf16)):
            losses += example_losses(model, pad_rows([row], tokenizer.pad_token_id)).tolist()
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
