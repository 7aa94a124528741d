"""Base, SFT and LWF on tasks of lm-evaluation-harness (`letgo evaluate --harness TASKS`)."""

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from letgo.errors import InputError, first_line
from letgo.evaluation.asking import LABELS, baseline_models
from letgo.models.inference import stop_ids
from letgo.progress import log
from letgo.run import config as cfg
from letgo.run.base import load_base_tokenizer, load_trained
from letgo.run.folder import write_json
from letgo.run.inputs import Run
from letgo.run.provenance import versions
from letgo.run.stage import require

OWN_TASKS = Path(__file__).with_name("harness_tasks")


def harness(run: Run, tasks: Sequence[str]) -> dict[str, Any]:
    """Write `harness.json`: the harness's figures of base, SFT and LWF.

    Prompts go through the tokenizer's chat template if there is one, as everywhere in letgo.

    Args:
        run: a run with a trained model; `--max_test` is the most documents of each task.
        tasks: names of the harness's tasks or groups, and letgo's own.

    Returns:
        what is in the file: by model, task and metric its `value`, `stderr` (None where the
        harness gives none) and `n`, the number of documents; and the settings.

    Raises:
        InputError: no trained model, an unknown task, or one whose data cannot be had.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    models = baseline_models(run)
    models["lwf"] = partial(load_trained, run.config, require(run, "lwf", "train"))
    manager = task_manager(tasks)
    figures, task_versions = {}, {}
    for label, load in models.items():
        log.info("harness: %s", LABELS[label])
        lm = language_model(run.config, load())
        found = ask(lm, tasks, manager, limit=run.settings.max_test, log_samples=False)
        figures[label] = {name: _figures(row) for name, row in found["results"].items()}
        task_versions.update(found["versions"])
    result = {
        "models": figures,
        "max_test": run.settings.max_test,
        "chat_template": run.chat_template is not None,
        "task_versions": task_versions,
        "versions": {**versions(), "lm_eval": metadata.version("lm_eval")},
    }
    write_json(run.folder / "harness.json", result)
    return result


def task_manager(tasks: Sequence[str]) -> TaskManager:
    """The harness's tasks and letgo's; `tasks` are there and can be loaded.

    Raises:
        InputError: one is not, or cannot.
    """
    manager = TaskManager(include_path=OWN_TASKS)
    own = ", ".join(sorted(file.stem for file in OWN_TASKS.glob("*.yaml")))
    for task in tasks:
        if task not in manager.all_tasks:
            raise InputError(
                f"--harness: there is no task {task!r}; `lm-eval ls tasks` lists the "
                f"harness's, letgo adds {own}"
            )
        try:
            manager.load([task])
        except InputError:
            raise
        except Exception as error:  # the hub's client has no common exception
            raise InputError(
                f"--harness: the data of {task} cannot be loaded: {first_line(error)}"
            ) from error
    return manager


def language_model(config: cfg.Config, model: Any) -> HFLM:
    """A model as the harness takes it, asked with letgo's tokens, stops and precision."""
    tokenizer = load_base_tokenizer(config)
    # The harness cuts answers at the tokenizer's end-of-text token only.
    model.generation_config.eos_token_id = sorted(stop_ids(model, tokenizer))
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=config.settings.generation_batch_size,
        mixed_precision_dtype="bfloat16" if config.training.bf16 else None,
        # A chat template says itself what a text begins with.
        add_bos_token=None if tokenizer.chat_template is None else False,
    )


def ask(lm: HFLM, tasks: Sequence[str], manager: TaskManager, **options: Any) -> dict[str, Any]:
    """The harness's results for one model."""
    template = lm.tokenizer.chat_template is not None
    bars = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    with nullcontext() if bars else redirect_stderr(StringIO()):
        return lm_eval.simple_evaluate(
            lm, tasks=list(tasks), task_manager=manager, apply_chat_template=template, **options
        )


def _figures(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By metric, of a row of the harness's results, whose keys are "METRIC,FILTER"."""
    figures = {}
    for key, value in row.items():
        metric, comma, filtered = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = row.get(f"{metric}_stderr,{filtered}")
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            figures[name] = {
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, float) else None,
                "n": row["sample_len"],
            }
    return figures
