"""Time and memory of unlearning, compared with plain fine-tuning in the same run.

usage: python benchmarks/training.py [--quick] --json FILE

Short runs of TRL's SFTTrainer and of LWFTrainer (N_u = 10) alternate on SmolLM2-135M with equal
batch shapes; ratios are medians over the rounds. Peak memory is measured in separate processes. The
cost of re-scoring is measured separately, because its interval is a setting.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, TOKENS, INTERVAL = 4, 32, 10
LOSSES = ("ga", "bounded_ga", "npo", "simnpo", "wga", "kl_uniform", "graddiff")
QUICK_LOSSES = ("ga", "bounded_ga", "npo")


def make(kind: str, folder: str, steps: int, loss: str, interval: int) -> Any:
    """A trainer of either kind on random tokens of one length."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer

    from letgo import LWFConfig, LWFTrainer
    from letgo.models.bundled import resolve

    path = resolve("smollm2-135m")
    ids = torch.randint(100, 40000, (BATCH * (steps + 2), TOKENS), generator=torch.manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in ids.tolist()]
    arguments = LWFConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=True,
        unlearning_interval=interval,
        unlearning_loss=loss,
        unlearning_ceiling=1e9,
        rescore_interval=0,
    )
    common = {
        "model": AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        "args": arguments,
        "train_dataset": Dataset.from_list(rows[: BATCH * steps]),
        "processing_class": AutoTokenizer.from_pretrained(path),
    }
    if kind == "sft":
        return SFTTrainer(**common)
    return LWFTrainer(**common, forget_dataset=Dataset.from_list(rows[BATCH * steps :]))


def timed(trainer: Any) -> tuple[float, list[float]]:
    """Seconds of one run without its set-up, and of each of its learning steps."""
    from transformers import TrainerCallback

    from letgo.unlearning.schedule import Plan

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.begun = self.total = 0.0
            self.steps: list[float] = []

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.first = time.perf_counter()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps.append(time.perf_counter() - self.begun)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.total = time.perf_counter() - self.first

    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    trainer.remove_callback(watch)
    plan = getattr(trainer, "plan", None) or Plan([])
    learning = [seconds for i, seconds in enumerate(watch.steps) if not plan.is_unlearning(i)]
    return watch.total, learning


def compare(rounds: int) -> dict[str, Any]:
    """Time ratios of LWF to SFT, one per round; the order within a round alternates."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {k: make(k, folder, INTERVAL, "bounded_ga", INTERVAL) for k in ("sft", "lwf")}
        for trainer in trainers.values():
            trainer.args.max_steps = 2
            timed(trainer)  # the first run allocates
            trainer.args.max_steps = INTERVAL
        step_ratios, run_ratios = [], []
        for index in range(rounds):
            order = ("sft", "lwf") if index % 2 else ("lwf", "sft")
            seen = {kind: timed(trainers[kind]) for kind in order}
            run_ratios.append(seen["lwf"][0] / seen["sft"][0])
            steps = {kind: statistics.median(each) for kind, (_, each) in seen.items()}
            step_ratios.append(steps["lwf"] / steps["sft"])
            print(
                f"round {index + 1}: step {step_ratios[-1]:.3f}, run {run_ratios[-1]:.3f}",
                flush=True,
            )
    return {
        "learning_step_ratio": statistics.median(step_ratios),
        "run_ratio_nu10": statistics.median(run_ratios),
        "rounds": {"learning_step_ratio": step_ratios, "run_ratio_nu10": run_ratios},
    }


def rescoring(rounds: int, count: int = 32) -> dict[str, Any]:
    """Time to re-score a text, or to use a learning example for it, in learning examples."""
    from letgo.scoring.scores import DEFAULT_SCORE, SCORES
    from letgo.scoring.weights import trained_weights
    from letgo.unlearning.rescore import Rescore

    with tempfile.TemporaryDirectory() as folder:
        trainer = make("lwf", folder, count // BATCH, "bounded_ga", INTERVAL)
        rows = trainer.train_dataset.to_list()[:count]
        weights, ratios = trained_weights(trainer.model), []
        rescore = Rescore(trainer, rows, SCORES[DEFAULT_SCORE], weights)
        for _ in range(rounds + 1):
            step = statistics.median(timed(trainer)[1])
            begun = time.perf_counter()
            rescore.scores(list(range(count)), rows)
            seconds = time.perf_counter() - begun
            ratios.append(seconds / (2 * count) / (step / BATCH))
    ratios = ratios[1:]  # the first run allocates
    print(f"re-scoring: {statistics.median(ratios):.2f} learning examples each", flush=True)
    return {"rescoring_ratio": statistics.median(ratios), "rescoring_rounds": ratios}


def peak(kind: str, loss: str, times: int) -> float:
    """Median peak resident memory of a short run in a separate process, in bytes."""
    command = [sys.executable, __file__, "--peak", kind, loss]
    peaks = []
    for _ in range(times):
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks.append(float(out.split()[-1]))
    return statistics.median(peaks)


def run_for_peak(kind: str, loss: str) -> None:
    """Two learning steps, the second with AdamW's state in place, and an unlearning step."""
    with tempfile.TemporaryDirectory() as folder:
        make(kind, folder, 2, loss, 2).train()
    # Not `ru_maxrss`, which a child process inherits from its parent.
    status = Path("/proc/self/status").read_text()
    print(float(status.split("VmHWM:")[1].split()[0]) * 1024)


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and losses")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        return run_for_peak(*arguments.peak)
    if arguments.json is None:
        parser.error("--json is missing")
    from machine import machine

    from letgo.run.provenance import git_revision, versions

    result = compare(2 if arguments.quick else 12) | rescoring(1 if arguments.quick else 6)
    times = 1 if arguments.quick else 3
    plain = peak("sft", "ga", times)
    result["memory_ratio"] = {}
    for loss in QUICK_LOSSES if arguments.quick else LOSSES:
        result["memory_ratio"][loss] = peak("lwf", loss, times) / plain
        print(f"memory {loss}: {result['memory_ratio'][loss]:.3f}", flush=True)
    result |= {
        "shape": f"{BATCH}x{TOKENS}",
        "sft_peak_bytes": plain,
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
