"""The `letgo` command on a tiny model."""

import hashlib
import os
import sys

from letgo import cli

STAGE_FILES = {
    "config.yaml",
    "first_examples.json",
    "stages.json",
    "self_knowledge.parquet",
    "probe",
    "scores.parquet",
    "selection.parquet",
    "lwf",
    "train_log.jsonl",
    "kept.parquet",
    "baseline.parquet",
    "held_out.parquet",
    "headroom.json",
    "metrics.json",
    "answers.parquet",
    "model",
    "report.html",
}


COLUMNS = {
    "self_knowledge.parquet": [
        "id",
        "forget_set",
        "prompt",
        "completion",
        "prompt_ids",
        "completion_ids",
        "finish_reason",
        "mean_logprob",
    ],
    "scores.parquet": [
        "id",
        "forget_set",
        "tokens",
        "loss_base",
        "loss_probe",
        "interference",
        "linear",
        "quadratic",
        "inner",
        "learning",
        "norm",
        "confidence",
        "score",
    ],
    "selection.parquet": ["id", "selected", "reason", "decided_by", "decided_at"],
}


def flags(tiny, data, out, **changes):
    """The command line of a small run."""
    settings = {
        "model": tiny,
        "learn": data / "learn.jsonl",
        "learn_test": data / "heldout.jsonl",
        "learn_validation": data / "validation.jsonl",
        "forget": [data / "letters" / "train.jsonl", data / "talk.jsonl"],
        "output_dir": out,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "max_new_tokens": 6,
        "unlearning_interval": 4,
        "generation_batch_size": 4,
        "tokens_per_batch": 60,
        "checkpoint_minutes": 0,
        "gradient_checkpointing": False,
        "unlearning_ceiling": 50,
        "bf16": "false",
        **changes,
    }
    words = []
    for name, value in settings.items():
        if name == "forget" and isinstance(value, list):  # may be given several times
            words += [word for item in value for word in ("--forget", str(item))]
        elif value is not None:
            items = value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, items)]
    return words


def letgo(*words):
    """Run a command in this process: (exit status, standard output and error)."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    old, sys.argv = sys.argv, ["letgo", *map(str, words)]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.argv = old
    return status, out.getvalue(), err.getvalue()


def digest(folder):
    """What two equal runs must share, byte for byte."""
    files = [
        "self_knowledge.parquet",
        "scores.parquet",
        "selection.parquet",
        "metrics.json",
        "answers.parquet",
        "model/model.safetensors",
        "lwf/model.safetensors",
        "probe/model.safetensors",
    ]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def same_files(one, other):
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}
