"""Accuracy on base-9 sums over learning steps, of SFT and LWF (the planted conflict).

usage: python studies/steps.py [--seeds 0 1 2]

Sums, texts and settings are those of `doses.py` (240 sums, one epoch, an unlearning step after
every fourth learning step). The model is evaluated on 150 of the test sums after every tenth step.
Writes studies/steps.json and draws studies/steps.png; runs in the file are not repeated.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from doses import ARMS, BATCH, EXAMPLES, own_texts, sums_of, tested, trained
from transformers import TrainerCallback

from letgo.evaluation.statistics import paired_mean
from letgo.models.bundled import resolve
from letgo.models.loading import load_model, load_tokenizer
from letgo.run.folder import read_json, write_json
from letgo.run.provenance import git_revision, versions
from letgo.unlearning.schedule import unlearning_steps

EVERY, TESTED = 10, 150
NAMES = {"sft": "SFT", "separate 0.1 (default)": "LWF"}
FILE = Path(__file__).with_name("steps.json")


class Evaluation(TrainerCallback):
    """Evaluates the model before training and after every `EVERY` learning steps.

    If an unlearning step follows, the evaluation comes after it.

    Args:
        test: the sums.
        unlearning: for every optimizer step, whether it is an unlearning step.
    """

    def __init__(self, test: list[dict[str, Any]], unlearning: list[bool]):
        self.test, self.unlearning = test, unlearning
        self.points: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **at: Any) -> None:
        """Evaluate the base model."""
        self._evaluate(0, args, at)

    def on_step_end(self, args: Any, state: Any, control: Any, **at: Any) -> None:
        """Evaluate if `EVERY` learning steps are done."""
        learned = self.unlearning[: state.global_step].count(False)
        if learned % EVERY == 0 and not any(self.unlearning[state.global_step :][:1]):
            self._evaluate(learned, args, at)

    def _evaluate(self, learned: int, args: Any, at: dict[str, Any]) -> None:
        right, nll = tested(at["model"], at["processing_class"], self.test, bool(args.bf16))
        at["model"].train()
        self.points.append({"step": learned, "accuracy": statistics.mean(right), "nll": nll})


def main() -> None:
    """Run the missing runs, write and draw the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    runs = read_json(FILE).get("runs", {})
    path = resolve("smollm2-135m")
    tokenizer = load_tokenizer(path)
    for seed in seeds:
        data = sums_of(seed, tokenizer)
        data["forget"] = own_texts(data["prompts"], seed, tokenizer, load_model(path))
        for arm, name in NAMES.items():
            if str(seed) in runs.setdefault(name, {}):
                continue
            interval = ARMS[arm].get("unlearning_interval", 4)
            unlearning = unlearning_steps("periodic", EXAMPLES // BATCH, interval, seed)
            evaluation = Evaluation(data["test"][:TESTED], unlearning)
            with tempfile.TemporaryDirectory() as folder:
                trained(ARMS[arm], seed, data, folder, [evaluation])
            runs[name][str(seed)] = evaluation.points
            print(name, seed, evaluation.points[-1], flush=True)
            write_json(
                FILE,
                {
                    "against_sft": differences(runs),
                    "versions": versions(),
                    "git_revision": git_revision(),
                    "runs": runs,
                },
            )
    draw(runs)


def differences(runs: dict[str, Any]) -> dict[str, Any]:
    """By arm and step, the mean difference to SFT over the seeds that both have."""
    sft, *arms = NAMES.values()
    results: dict[str, Any] = {}
    for arm in arms:
        seeds = [seed for seed in runs.get(arm, {}) if seed in runs[sft]]
        pairs = [(runs[arm][seed], runs[sft][seed]) for seed in seeds]
        results[arm] = [
            {
                "step": points[0]["step"],
                "seeds": len(seeds),
                **{
                    metric: paired_mean(
                        [p[metric] for p in points[0::2]], [p[metric] for p in points[1::2]]
                    )
                    for metric in ("accuracy", "nll")
                },
            }
            for points in zip(*[curve for pair in pairs for curve in pair], strict=True)
        ]
    return results


def draw(runs: dict[str, Any]) -> None:
    """Accuracy over learning steps: a thin line per seed, a thick one for their mean."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, (name, by_seed) in enumerate(runs.items()):
        curves = [[100 * point["accuracy"] for point in points] for points in by_seed.values()]
        steps = [point["step"] for point in next(iter(by_seed.values()))]
        for curve in curves:
            axes.plot(steps, curve, color=f"C{i}", alpha=0.3, linewidth=0.8)
        means = [statistics.mean(values) for values in zip(*curves, strict=True)]
        axes.plot(steps, means, color=f"C{i}", linewidth=2, label=name)
    axes.set(xlabel="learning steps (4 sums each)", ylabel=f"right of {TESTED} held-out sums, %")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(FILE.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
