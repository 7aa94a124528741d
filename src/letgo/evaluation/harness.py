"""Models on tasks of lm-evaluation-harness."""

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import GenerationConfig

from letgo.errors import InputError, first_line
from letgo.models.inference import LanguageModel
from letgo.progress import log

OWN_TASKS = Path(__file__).with_name("harness_tasks")


def task_manager(tasks: Sequence[str]) -> TaskManager:
    """The harness's tasks and letgo's own, after a check that `tasks` exist and can be loaded.

    Raises:
        InputError: a task does not exist, or its data cannot be loaded.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=OWN_TASKS)
    own = ", ".join(sorted(file.stem for file in OWN_TASKS.glob("*.yaml")))
    for task in tasks:
        if task not in manager.all_tasks:
            hint = f"`lm-eval ls tasks` lists the harness's, letgo adds {own}"
            raise InputError(f"--harness: there is no task {task!r}; {hint}")
        try:
            manager.load([task])
        except InputError:
            raise
        except Exception as error:  # the hub's client has no common exception
            message = f"--harness: the data of {task} cannot be loaded: {first_line(error)}"
            raise InputError(message) from error
    return manager


def harness_model(lm: LanguageModel, batch_size: int) -> HFLM:
    """A model as the harness takes it, with letgo's tokens, stop tokens and precision.

    Prompts go through the tokenizer's chat template if there is one, as everywhere in letgo.
    """
    # The harness cuts answers at the tokenizer's end-of-text token only, and fills settings that it
    # does not name from the model's generation_config.json.
    lm.model.generation_config = GenerationConfig(eos_token_id=sorted(lm.stops))
    return HFLM(
        pretrained=lm.model,
        tokenizer=lm.tokenizer,
        batch_size=batch_size,
        mixed_precision_dtype="bfloat16" if lm.bf16 else None,
        # A chat template begins the text itself.
        add_bos_token=None if lm.tokenizer.chat_template is None else False,
    )


def run_tasks(
    lm: HFLM, tasks: Sequence[str], manager: TaskManager, **options: Any
) -> dict[str, Any]:
    """The harness's results for one model."""
    template = lm.tokenizer.chat_template is not None
    show_bars = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    with nullcontext() if show_bars else redirect_stderr(StringIO()):
        return lm_eval.simple_evaluate(
            lm, tasks=list(tasks), task_manager=manager, apply_chat_template=template, **options
        )


def results_by_metric(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Value, standard error (None if there is none) and number of documents, by metric.

    Args:
        row: one task's results, whose keys are "METRIC,FILTER".
    """
    results = {}
    for key, value in row.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = row.get(f"{metric}_stderr,{filter_name}")
            name = metric if filter_name == "none" else f"{metric} ({filter_name})"
            results[name] = {
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, float) else None,
                "n": row["sample_len"],
            }
    return results
