"""Effects of the step size, the optimizer's state and the guards: base-9 addition, SmolLM2-135M.

usage: python studies/doses.py [--seeds 0 1 2] [--arms NAME ...] [--choose]

Every arm learns 240 base-9 sums for one epoch. D_U are 16 answers of the base model to base-10 sums
and everyday questions. The arm `ruin` is gradient ascent as in recipes without guards: at the
learning rate, after every learning step, fifteen epochs over D_U. Every seed draws other sums;
`--choose` runs the candidates on other seeds and sums. Writes studies/doses.json (or
doses_choice.json); arms that the file already has are not run again.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed

from letgo import LWFConfig, LWFTrainer
from letgo.data.base9 import FORGET, LEARN, base9, everyday, sums
from letgo.data.tokens import example_ids, prompt_ids, training_row
from letgo.evaluation.answers import correct, exact
from letgo.evaluation.statistics import paired_difference
from letgo.models.bundled import resolve
from letgo.models.inference import LanguageModel
from letgo.models.loading import load_model, load_tokenizer
from letgo.run.provenance import git_revision, versions

LEARNING_RATE, EXAMPLES, TESTS, BATCH, TEXTS = 1e-4, 240, 300, 4, 16
RUIN = {"unlearning_interval": 1, "unlearning_rate": LEARNING_RATE}
OFF = {"unlearning_max_grad_norm": 1e9, "unlearning_max_rise": 1e9}
ARMS: dict[str, dict[str, Any]] = {
    "sft": {"unlearning_interval": 0},
    "ruin, no guards": {**RUIN, **OFF, "unlearning_loss": "ga"},
    "ruin, guards": RUIN,
    "separate 0.1 (default)": {},
    "separate 1.0": {"unlearning_strength": 1.0},
    "shared 0.1": {"unlearning_state": "shared", "unlearning_strength": 0.1},
    "shared 1.0": {"unlearning_state": "shared", "unlearning_strength": 1.0},
    "adaptive": {"unlearning_schedule": "adaptive"},
    "separate 0.03": {"unlearning_strength": 0.03},
    "separate 0.3": {"unlearning_strength": 0.3},
    "separate 0.1, re-scored": {"rescore_interval": 8},
    "adaptive, re-scored": {"unlearning_schedule": "adaptive", "rescore_interval": 8},
    "ruin, separate, no guards": {
        "unlearning_interval": 1,
        "unlearning_strength": 1.0,
        **OFF,
        "unlearning_loss": "ga",
    },
    "ruin, separate, guards": {"unlearning_interval": 1, "unlearning_strength": 1.0},
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "sft": {"unlearning_interval": 0},
    "ruin, ceiling 4": {**RUIN, "unlearning_ceiling": 4.0},
    "ruin, ceiling 2": {**RUIN, "unlearning_ceiling": 2.0},
    "separate 0.1, ceiling 4": {"unlearning_ceiling": 4.0},
    "separate 0.1, ceiling 2": {"unlearning_ceiling": 2.0},
    "separate 0.03, ceiling 2": {"unlearning_strength": 0.03, "unlearning_ceiling": 2.0},
}


def answers(model: Any, tokenizer: Any, prompts: list[str], most: int) -> list[list[int]]:
    """Greedy continuations of at most so many tokens, as token ids."""
    rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    continuations: list[list[int]] = []
    for i in range(0, len(rows), 32):
        continuations += LanguageModel(model, tokenizer).generate(rows[i : i + 32], most)
    return continuations


def trained(
    settings: dict[str, Any],
    seed: int,
    data: dict[str, Any],
    folder: str,
    callbacks: Sequence[TrainerCallback] = (),
) -> LWFTrainer:
    """Train one arm."""
    set_seed(seed)
    path = resolve("smollm2-135m")
    tokenizer, model = load_tokenizer(path), load_model(path)
    arguments = LWFConfig(
        output_dir=folder,
        seed=seed,
        learning_rate=LEARNING_RATE,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **{"unlearning_interval": 4, **settings},
    )
    trainer = LWFTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(data["learn"]),
        forget_dataset=Dataset.from_list(data["forget"]),
        processing_class=tokenizer,
        callbacks=[*callbacks],
    )
    trainer.train()
    return trainer


def tested(
    model: Any, tokenizer: Any, test: Sequence[dict[str, Any]], bf16: bool
) -> tuple[list[bool], float]:
    """Whether each sum is right, and the mean NLL of the references, nats per token."""
    lm = LanguageModel(model.eval(), tokenizer, bf16)
    texts = answers(model, tokenizer, [r["prompt"] for r in test], 12)
    rows = [training_row(*example_ids(tokenizer, r["prompt"], r["completion"])) for r in test]
    nll = [loss for i in range(0, len(rows), 32) for loss in lm.losses(rows[i : i + 32])]
    decoded = tokenizer.batch_decode(texts, skip_special_tokens=True)
    right = [correct(exact, t, r["completion"]) for t, r in zip(decoded, test, strict=True)]
    return right, statistics.fmean(nll)


def run(settings: dict[str, Any], seed: int, data: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train one arm and test it."""
    trainer = trained(settings, seed, data, folder)
    right, nll = tested(
        trainer.model, trainer.processing_class, data["test"], bool(trainer.args.bf16)
    )
    history = trainer.state.log_history
    unlearned = [entry for entry in history if "unlearn/nll" in entry]
    strengths = [entry["unlearn/strength"] for entry in unlearned]
    return {
        "right": right,
        "test_nll": nll,
        "learning_loss": statistics.mean([e["loss"] for e in history if "loss" in e][-5:]),
        "unlearning_steps": len(unlearned),
        "unlearning_nll": [round(entry["unlearn/nll"], 3) for entry in unlearned],
        "strength": round(statistics.mean(strengths), 4) if strengths else None,
        "guards": trainer.tracker.guard_counts if unlearned else None,
    }


def sums_of(seed: int, tokenizer: Any) -> dict[str, Any]:
    """Base-9 sums for learning and testing, and base-10 sums as prompts for the base model."""
    pairs = random.Random(seed).sample(
        [(a, b) for a in range(9, 81) for b in range(9, 81)], EXAMPLES + TESTS + TEXTS // 2
    )
    learn = sums(LEARN, pairs[:EXAMPLES], base9)
    return {
        "learn": [
            training_row(*example_ids(tokenizer, r["prompt"], r["completion"])) for r in learn
        ],
        "test": sums(LEARN, pairs[EXAMPLES : EXAMPLES + TESTS], base9),
        "prompts": [FORGET.format(a, b) for a, b in pairs[EXAMPLES + TESTS :]],
    }


def own_texts(sums: list[str], seed: int, tokenizer: Any, base: Any) -> list[dict[str, list[int]]]:
    """D_U: the base model's answers to these sums and to everyday questions."""
    questions = [record["prompt"] for record in everyday()]
    prompts = sums + random.Random(seed).sample(questions, TEXTS // 2)
    own = answers(base, tokenizer, prompts, 32)
    return [training_row(prompt_ids(tokenizer, p), a) for p, a in zip(prompts, own, strict=True)]


def main() -> None:
    """Run the missing arms and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--choose", action="store_true")
    arguments = parser.parse_args()
    arms = CANDIDATES if arguments.choose else ARMS
    results = Path(__file__).with_name("doses_choice.json" if arguments.choose else "doses.json")
    content = json.loads(results.read_text()) if results.exists() else {"runs": {}}
    path = resolve("smollm2-135m")
    tokenizer = load_tokenizer(path)
    for seed in arguments.seeds:
        data = sums_of(1000 + seed if arguments.choose else seed, tokenizer)
        data["forget"] = own_texts(data["prompts"], seed, tokenizer, load_model(path))
        for arm in arguments.arms or arms:
            runs = content["runs"].setdefault(arm, {})
            if str(seed) in runs:
                continue
            with tempfile.TemporaryDirectory() as folder:
                runs[str(seed)] = {"settings": arms[arm], **run(arms[arm], seed, data, folder)}
            share = statistics.mean(runs[str(seed)]["right"])
            print(f"RESULT {arm}, seed {seed}: {share:.3f}", flush=True)
            results.write_text(json.dumps(summary(content)) + "\n")


def summary(content: dict[str, Any]) -> dict[str, Any]:
    """The runs, and each arm against SFT over the seeds that both have."""
    table = {}
    sft = content["runs"]["sft"]
    for arm, runs in content["runs"].items():
        seeds = [seed for seed in runs if seed in sft]
        right = [r for seed in seeds for r in runs[seed]["right"]]
        reference = [r for seed in seeds for r in sft[seed]["right"]]
        table[arm] = {
            "accuracy": statistics.mean(right),
            "by_seed": [statistics.mean(runs[seed]["right"]) for seed in seeds],
            "test_nll": [runs[seed].get("test_nll") for seed in seeds],
            "minus_sft": paired_difference(right, reference),
            "guards": [runs[seed]["guards"] for seed in seeds],
            "last_unlearning_nll": [(runs[seed]["unlearning_nll"] or [None])[-1] for seed in seeds],
        }
    threads = torch.get_num_threads()
    return {
        "table": table,
        "versions": versions(),
        "git_revision": git_revision(),
        "threads": threads,
        "runs": content["runs"],
    }


if __name__ == "__main__":
    main()
