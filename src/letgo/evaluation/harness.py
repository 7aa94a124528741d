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
from letgo.evaluation.harness_pairs import metric_name
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


def chat_template(lm: LanguageModel, wanted: bool | str | None) -> bool | str:
    """Whether prompts go through the tokenizer's chat template, or the name of the one that does.

    Args:
        lm: the model.
        wanted: `--apply_chat_template`; by default there is one if the tokenizer has one, as
            everywhere in letgo.

    Raises:
        InputError: the tokenizer has no template, or none of this name.
    """
    template = lm.tokenizer.chat_template
    if wanted is None:
        return template is not None
    if wanted and template is None:
        raise InputError("--apply_chat_template: the tokenizer has no chat template; leave it out")
    if isinstance(wanted, str) and not (isinstance(template, dict) and wanted in template):
        names = ", ".join(template) if isinstance(template, dict) else "one without a name"
        raise InputError(
            f"--apply_chat_template: the tokenizer has no template {wanted!r} (it has {names}); "
            f"give true instead"
        )
    return wanted


def harness_model(lm: LanguageModel, batch_size: int, template: bool | str = True) -> HFLM:
    """A model as the harness takes it, with letgo's tokens, stop tokens and precision.

    Args:
        lm: the model.
        batch_size: of its answers.
        template: of `chat_template`.
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
        add_bos_token=False if template and lm.tokenizer.chat_template is not None else None,
    )


def run_tasks(
    lm: HFLM, tasks: Sequence[str], manager: TaskManager, **options: Any
) -> dict[str, Any]:
    """The harness's results for one model, with one entry of `samples` for each document.

    Args:
        lm: of `harness_model`.
        tasks: names of tasks and groups.
        manager: of `task_manager`.
        options: of `lm_eval.simple_evaluate`; prompts go through the tokenizer's chat template if
            it has one, unless `apply_chat_template` says otherwise.
    """
    options.setdefault("apply_chat_template", lm.tokenizer.chat_template is not None)
    show_bars = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    with nullcontext() if show_bars else redirect_stderr(StringIO()):
        return lm_eval.simple_evaluate(lm, tasks=list(tasks), task_manager=manager, **options)


def aggregations(tasks: Sequence[str], manager: TaskManager) -> dict[str, Any]:
    """By task and metric, how the harness makes one number of the documents' values."""
    loaded = manager.load(list(tasks))["tasks"]
    return {name: task.aggregation() for name, task in loaded.items()}


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
            results[metric_name(metric, filter_name)] = {
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, float) else None,
                "n": row["sample_len"],
            }
    return results
