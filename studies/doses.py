"""What the dose, the optimizer's state and the guards are worth: base-9 addition, SmolLM2-135M.

usage: python studies/doses.py [--seeds 0 1 2] [--arms NAME ...]   writes studies/doses.json

Every arm learns 160 of the demo's base-9 sums for one epoch; D_U are 16 of the base model's own
answers to base-10 sums and everyday questions. `ruin` is what unguarded recipes do: ascent at the
learning rate after every learning step, ten epochs over D_U. Arms in the file already are kept.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed

from letgo import LWFConfig, LWFTrainer
from letgo.answers import correct, exact
from letgo.config import git_revision, versions
from letgo.data import example_ids, prompt_ids, training_row
from letgo.demo import generate_data
from letgo.inference import generate
from letgo.models import load_model, load_tokenizer, resolve
from letgo.records import read_records
from letgo.statistics import paired_difference

RESULTS = Path(__file__).with_name("doses.json")
LEARNING_RATE, EXAMPLES, BATCH, TEXTS = 1e-4, 160, 4, 16
RUIN = {"unlearning_interval": 1, "unlearning_rate": LEARNING_RATE}
OFF = {"unlearning_max_grad_norm": 1e9, "unlearning_max_rise": 1e9}
ARMS: dict[str, dict[str, Any]] = {
    "sft": {"unlearning_interval": 0},
    "ruin, no guards": {**RUIN, **OFF, "unlearning_loss": "ga"},
    "ruin, guards": RUIN,
    "ruin, separate, no guards": {
        "unlearning_interval": 1, "unlearning_strength": 1.0, **OFF, "unlearning_loss": "ga"},
    "ruin, separate, guards": {"unlearning_interval": 1, "unlearning_strength": 1.0},
    "separate 0.1 (default)": {},
    "separate 1.0": {"unlearning_strength": 1.0},
    "shared 0.1": {"unlearning_state": "shared", "unlearning_strength": 0.1},
    "shared 1.0": {"unlearning_state": "shared", "unlearning_strength": 1.0},
    "adaptive": {"unlearning_schedule": "adaptive"},
}  # fmt: skip


def answers(model: Any, tokenizer: Any, prompts: list[str], most: int) -> list[list[int]]:
    """Greedy continuations, as token ids."""
    asked = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    made: list[list[int]] = []
    for i in range(0, len(asked), 32):
        made += generate(model, tokenizer, asked[i : i + 32], most, False)
    return made


def run(settings: dict[str, Any], seed: int, data: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train one arm and test it."""
    set_seed(seed)
    path = resolve("smollm2-135m")
    tokenizer, model = load_tokenizer(path), load_model(path)
    arguments = LWFConfig(
        output_dir=folder, seed=seed, learning_rate=LEARNING_RATE, num_train_epochs=1,
        per_device_train_batch_size=BATCH, report_to="none", save_strategy="no", logging_steps=1,
        gradient_checkpointing=False, disable_tqdm=True, **{"unlearning_interval": 4, **settings},
    )  # fmt: skip
    trainer = LWFTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(data["learn"]),
        forget_dataset=Dataset.from_list(data["forget"]), processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    model.eval()
    texts = answers(model, tokenizer, [r.prompt for r in data["test"]], 24)
    said = tokenizer.batch_decode(texts, skip_special_tokens=True)
    history = trainer.state.log_history
    unlearned = [entry for entry in history if "unlearn/nll" in entry]
    strengths = [entry["unlearn/strength"] for entry in unlearned]
    return {
        "right": [correct(exact, s, r.completion or "") for s, r in
                  zip(said, data["test"], strict=True)],
        "learning_loss": statistics.mean([e["loss"] for e in history if "loss" in e][-5:]),
        "unlearning_steps": len(unlearned),
        "unlearning_nll": [round(entry["unlearn/nll"], 3) for entry in unlearned],
        "strength": round(statistics.mean(strengths), 4) if strengths else None,
        "guards": trainer.memory.acted if unlearned else None,
    }  # fmt: skip


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    wanted = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        generate_data(Path(folder))
        path = resolve("smollm2-135m")
        tokenizer = load_tokenizer(path)
        learn = read_records(f"{folder}/base9.jsonl", "--learn", True)
        sets = [read_records(f"{folder}/{name}.jsonl", "--forget", False)[: TEXTS // 2]
                for name in ("base10", "everyday")]  # fmt: skip
        prompts = [record.prompt for records in sets for record in records]
        own = answers(load_model(path), tokenizer, prompts, 32)
        data = {
            "learn": [training_row(*example_ids(tokenizer, r.prompt, r.completion or ""))
                      for r in learn[:EXAMPLES]],
            "test": read_records(f"{folder}/base9_test.jsonl", "--learn_test", True),
            "forget": [training_row(prompt_ids(tokenizer, p), a)
                       for p, a in zip(prompts, own, strict=True)],
        }  # fmt: skip
        for seed in wanted.seeds:
            for arm in wanted.arms:
                runs = found["runs"].setdefault(arm, {})
                if str(seed) not in runs:
                    runs[str(seed)] = {"settings": ARMS[arm], **run(ARMS[arm], seed, data, folder)}
                    share = statistics.mean(runs[str(seed)]["right"])
                    print(f"RESULT {arm}, seed {seed}: {share:.3f}", flush=True)
                    RESULTS.write_text(json.dumps(summary(found)) + "\n")


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The runs, and each arm against SFT over the seeds that both have."""
    table = {}
    plain = found["runs"]["sft"]
    for arm, runs in found["runs"].items():
        seeds = [seed for seed in runs if seed in plain]
        right = [r for seed in seeds for r in runs[seed]["right"]]
        reference = [r for seed in seeds for r in plain[seed]["right"]]
        table[arm] = {
            "accuracy": statistics.mean(right),
            "by_seed": [statistics.mean(runs[seed]["right"]) for seed in seeds],
            "minus_sft": paired_difference(right, reference),
            "guards": [runs[seed]["guards"] for seed in seeds],
            "last_unlearning_nll": [(runs[seed]["unlearning_nll"] or [None])[-1] for seed in seeds],
        }
    threads = torch.get_num_threads()
    return {"table": table, "versions": versions(), "git_revision": git_revision(),
            "threads": threads, "runs": found["runs"]}  # fmt: skip


if __name__ == "__main__":
    main()
