"""Small studies: their STUDY.yaml, and files of finished cells."""

import json

import numpy as np
import yaml

from letgo.run.folder import write_json

SETTINGS = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "bf16": False,
    "max_new_tokens": 4,
    "unlearning_interval": 2,
    "generation_batch_size": 8,
    "gradient_checkpointing": False,
    "rescore_interval": 0,
}


def write_study(file, tiny, data, **changes):
    """STUDY.yaml of a small grid with a method that fails."""
    sums = {"learn": str(data / "learn.jsonl"), "learn_test": str(data / "heldout.jsonl")}
    against_sft = {"method": "lwf", "baseline": "sft", "forget": "mixed"}
    study = {
        "settings": {"model": str(tiny), **SETTINGS},
        "learn": {"sums": sums},
        "forget": {
            "talk": "$LETGO_TALK",
            "mixed": [str(data / "talk.jsonl"), str(data / "letters")],
        },
        "methods": {
            "lwf": {"forget": ["mixed"]},
            "broken": {
                "settings": {"learning_rate": 1e30, "max_grad_norm": 0},
                "forget": ["talk"],
                "seeds": [0],
            },
        },
        "seeds": [0, 1],
        "claims": {
            "mixed_vs_sft": against_sft,
            "returned_vs_sft": {**against_sft, "returned": True},
        },
        **changes,
    }
    file.write_text(yaml.safe_dump(study))
    return file


def results_of(root):
    """The statistics in results.json, without versions."""
    results = json.loads((root / "results.json").read_text())
    return {key: results[key] for key in ("cells", "effects", "claims", "made_with")}


def answers(correct, nll):
    """Answers of one model on one set, as a cell file has them; ids are positions."""
    ids = [f"{i:03}" for i in range(len(correct))]
    return {"ids": ids, "correct": list(correct), "reference_nll": list(nll)}


def held_out(old, kl=None):
    """Answers to held-out prompts without right answers; old: by prompt, whether it is the old."""
    nothing = [None] * len(old)
    columns = {"old_answer": list(old), "old_nll": [1.0] * len(old), "kl": kl or nothing}
    return {**answers(nothing, nothing), **columns}


def synthetic(root, study, seed=0):
    """Files of finished cells in which the method gains fifteen points on task b."""
    rng = np.random.default_rng(seed)
    (root / "cells").mkdir(parents=True)
    difficulty = rng.normal(size=200)
    losses = [[1, 2, 3], [2.0, 1.0, 0.5]]
    for cell in study.cells():
        gain = 0.6 if (cell.task, cell.method) == ("b", "lwf") else 0.0
        models = {}
        for model, shift in (("base", -1.0), ("sft", 0.0), ("lwf", gain)):
            correct = [int(d + rng.normal() + shift > 0) for d in difficulty]
            models[model] = {"learn": answers(correct, rng.gamma(2, size=200).tolist())}
        content = {
            "seconds": {"train": 60.0},
            "answers": models,
            "rescored": [],
            "curves": {"sft": losses, "method": losses},
        }
        write_json(root / "cells" / f"{cell.name}.json", content)
