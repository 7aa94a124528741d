"""Learn, let go, keep: the three outcomes on the demo and on real tasks, over several seeds.

usage: python benchmarks/outcomes.py [--cases demo ...] [--seeds 0 1 2 3 4] [--data $LETGO_DATA]
           [--runs runs/outcomes] [--json benchmarks/results/outcomes.json]

Runs are made by the installed command and go on where they stood. Entries of other cases stay in
the JSON. Each entry has the mean over the seeds of the base model, plain fine-tuning (SFT) and
LWF, and the mean difference LWF - SFT with its 95 % interval over the seeds.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import conflict_current
import learn_wrong
from machine import machine

from letgo.data.openings import neutral_openings
from letgo.evaluation.statistics import mean
from letgo.run.folder import read_json, read_log
from letgo.run.provenance import git_revision, versions

TASKS = ("sst5", "qasc", "dental", "psychol", "gsm8k")
MODELS = ("base", "sft", "sft_rule", "lwf")
LEARNING = """--learning_rate 5e-5 --num_train_epochs 1 --per_device_train_batch_size 8
    --max_learn 320 --max_test 200 --max_keep 100 --gradient_checkpointing false --max_new_tokens 24
    --generation_batch_size 64"""
UNLEARNING = """--unlearning_loss unlikelihood --unlearning_state shared
    --unlearning_strength 0.7 --unlearning_interval 1 --forget_fraction 1 --rescore_interval 0"""

# A habit: the model is asked at every second learning step, and an unlearning step follows.
HABIT = """--unlearning_loss unlikelihood --unlearning_state shared --unlearning_strength 0.3
    --unlearning_interval 2 --forget_fraction 1 --rescore_interval 2 --rescore_texts 16
    --learning_rate 5e-5 --num_train_epochs 1 --per_device_train_batch_size 8 --max_learn 192
    --max_test 100 --gradient_checkpointing false --generation_batch_size 32"""
LOOPS = {
    "gsm8k": "--max_new_tokens 160",
    "multi30k_en_fr": "--max_new_tokens 64 --answer learn=chrf",
}
# The base model says it in 31 % of its answers to the everyday prompts, in their first 24 tokens.
PHRASE = r"(?i)\bit's\b"


class Goal(NamedTuple):
    """A figure of a case, where `metrics.json` has it, and what it is to reach.

    Attributes:
        path: keys below "outcomes"; of "cost" there are none.
        goal: in words.
        met: from the means of base, SFT and LWF, the difference and its interval.
    """

    figure: str
    path: tuple[str, ...]
    goal: str
    met: Callable[[dict[str, float], float, list[float]], bool]


NOT_WORSE = Goal(
    "learned", ("learned",), "interval of LWF - SFT above -0.02", lambda m, d, ci: ci[0] > -0.02
)
PERPLEXITY = Goal(
    "neutral_perplexity",
    ("kept", "more", "neutral_perplexity"),
    "at most 1.10 times the base model's",
    lambda m, d, ci: m["lwf"] <= 1.1 * m["base"],
)
KEPT_TASKS = Goal(
    "kept_accuracy",
    ("kept", "more", "accuracy"),
    "at least 90 % of the base model's",
    lambda m, d, ci: m["lwf"] >= 0.9 * m["base"],
)
COST = Goal(
    "cost",
    (),
    "seconds of LWF / seconds of SFT within 5 % of 1 + extra steps / learning steps",
    lambda m, d, ci: abs(m["lwf"] / m["expected"] - 1) <= 0.05,
)
RATE = "of SFT's, interval of LWF - SFT below 0"
LOOPING = (
    NOT_WORSE,
    Goal(
        "let_go",
        ("let_go",),
        f"looping answers at most 1/5 {RATE}",
        lambda m, d, ci: m["lwf"] <= m["sft"] / 5 and ci[1] < 0,
    ),
    Goal(
        "endless",
        ("let_go", "more", "endless"),
        "answers that do not end at most 1/2 of SFT's",
        lambda m, d, ci: m["lwf"] <= m["sft"] / 2,
    ),
    Goal(
        "reference_nll",
        ("learned", "more", "reference_nll"),
        "at most 0.02 nats per token above SFT's",
        lambda m, d, ci: d <= 0.02,
    ),
)
GOALS = {
    "loops_gsm8k": LOOPING,
    "loops_multi30k": LOOPING,
    "pattern": (
        NOT_WORSE,
        Goal(
            "let_go",
            ("let_go",),
            f"rate on held-out prompts at most 1/10 {RATE}",
            lambda m, d, ci: m["lwf"] <= m["sft"] / 10 and ci[1] < 0,
        ),
        Goal("kept", ("kept",), "KL not above SFT's", lambda m, d, ci: d <= 0),
    ),
    "demo": (
        NOT_WORSE,
        Goal(
            "let_go",
            ("let_go",),
            "at most 1/4 of SFT's, interval of LWF - SFT below 0",
            lambda m, d, ci: m["lwf"] <= m["sft"] / 4 and ci[1] < 0,
        ),
        PERPLEXITY,
        COST,
    ),
    "keep_sst5": (NOT_WORSE, KEPT_TASKS, PERPLEXITY),
    "keep_qasc": (NOT_WORSE, KEPT_TASKS, PERPLEXITY),
    "let_go_sst5": (
        NOT_WORSE,
        Goal(
            "likelihood_accuracy",
            ("let_go", "more", "likelihood_accuracy"),
            "at chance: at most 0.25, that of four options",
            lambda m, d, ci: m["lwf"] <= 0.25,
        ),
        PERPLEXITY,
    ),
}


# Cases that are not one run for each seed.
OTHERS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "learn_wrong": lambda options: learn_wrong.entries(options.data, options.runs, options.seeds),
    "conflict": lambda options: conflict_current.entries(options.runs, options.seeds),
}


def words(case: str, data: Path, runs: Path) -> list[str]:
    """The command of a case, without its folder and seed."""
    if case == "demo":
        return ["demo"]
    if case.startswith("loops_") or case == "pattern":
        return habit_words(case, data, runs)
    aim, learned = case.rsplit("_", 1)
    others = [str(data / task / "train.jsonl") for task in TASKS if task != learned]
    sets = data / learned
    command = ["run", "--learn", f"{sets}/train.jsonl", "--learn_test", f"{sets}/test.jsonl"]
    if aim == "keep":
        kept = [word for source in (*others, "neutral") for word in ("--keep", source)]
        return [
            *command,
            *LEARNING.split(),
            "--unlearning_interval",
            "0",
            "--keep_share",
            "1",
            *kept,
        ]
    forgotten = [word for source in others for word in ("--forget", source)]
    command += [*LEARNING.split(), *UNLEARNING.split(), "--keep_share", "0.5"]
    return [*command, "--max_forget", "100", *forgotten]


def habit_words(case: str, data: Path, runs: Path) -> list[str]:
    """The command of a case that unlearns a habit; writes the prompts that it needs."""
    name = "gsm8k" if case == "pattern" else case.removeprefix("loops_")
    learned = next(task for task in LOOPS if task.startswith(name))
    command = ["run", "--learn", f"{data / learned}/train.jsonl"]
    command += ["--learn_test", f"{data / learned}/test.jsonl", *HABIT.split()]
    if case != "pattern":
        return [*command, *LOOPS[learned].split(), "--forget", "self:loops"]
    prompts = runs / "everyday.jsonl"
    runs.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": record.prompt}) for record in neutral_openings()]
    prompts.write_text("\n".join(lines) + "\n")
    command += ["--forget_pattern", PHRASE, "--forget_pattern_prompts", str(prompts)]
    # The everyday prompts are not to be kept as they are; questions of psychology take their place.
    return [*command, *f"--keep {data}/psychol/train.jsonl --max_keep 100 --keep_share 0.5".split()]


def values(folder: Path, goal: Goal) -> dict[str, float]:
    """The figure of one run for base, SFT and LWF."""
    if goal.figure == "cost":
        return cost(folder)
    found = read_json(folder / "metrics.json")["outcomes"]
    for key in goal.path:
        found = found[key]
    return {model: found[model]["value"] for model in MODELS if model in found}


def cost(folder: Path) -> dict[str, float]:
    """Seconds of training, by the trainer, as multiples of those of SFT; and what is expected."""
    logs = {"sft": read_log(folder / "probe" / "train_log.jsonl")}
    logs["lwf"] = read_log(folder / "train_log.jsonl")
    seconds = {model: log[-1]["train_runtime"] for model, log in logs.items()}
    steps = {model: log[-1]["step"] for model, log in logs.items()}
    expected = steps["lwf"] / steps["sft"]
    return {"base": 0.0, "sft": 1.0, "lwf": seconds["lwf"] / seconds["sft"], "expected": expected}


def entry(case: str, goal: Goal, runs: Sequence[Path]) -> dict[str, Any]:
    """An entry of the JSON, from the runs of all seeds."""
    found = [values(folder, goal) for folder in runs]
    means = {model: mean([run[model] for run in found])[0] for model in found[0]}
    difference, interval = mean([run["lwf"] - run["sft"] for run in found])
    limits = [difference if limit is None else limit for limit in interval]
    return {
        "case": f"{case}/{goal.figure}",
        "figure": goal.path[-1] if goal.path else goal.figure,
        **means,
        "difference": difference,
        "ci95": interval,
        "seeds": len(runs),
        "goal": goal.goal,
        "met": bool(goal.met(means, difference, limits)),
    }


def main() -> None:
    """Run the cases, and write or renew their entries."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = [*GOALS, *OTHERS]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", type=Path, default=os.environ.get("LETGO_DATA", "data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/outcomes"))
    default = Path(__file__).parent / "results" / "outcomes.json"
    parser.add_argument("--json", type=Path, default=default)
    options = parser.parse_args()
    for case in options.cases:
        if case in OTHERS:
            record(options.json, case, OTHERS[case](options))
            continue
        folders = []
        for seed in options.seeds:
            folders.append(options.runs / f"{case}-{seed}")
            where = ["--output_dir", str(folders[-1]), "--seed", str(seed)]
            shared = ["--shared", str(options.runs / "shared")]
            command = [
                "letgo",
                *words(case, options.data, options.runs),
                *where,
                *shared,
                "--quiet",
            ]
            subprocess.run(command, check=True)
            record(options.json, case, [entry(case, goal, folders) for goal in GOALS[case]])


def record(file: Path, case: str, entries: list[dict[str, Any]]) -> None:
    """Replace a case's entries in the JSON file."""
    before = read_json(file)
    others = [e for e in before.get("cases", []) if e["case"].partition("/")[0] != case]
    made = {"machine": machine(), "versions": versions(), "git_revision": git_revision()}
    result = {
        "cases": sorted([*others, *entries], key=lambda e: e["case"]),
        "made_with": {**before.get("made_with", {}), case: made},
    }
    file.write_text(json.dumps(result, indent=1) + "\n")
    for line in entries:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
