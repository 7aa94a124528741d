"""`letgo evaluate --harness`: base, SFT and LWF on tasks of lm-evaluation-harness."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.evaluation.asking import LABELS, baseline_folders
from letgo.evaluation.harness import (
    aggregations,
    chat_template,
    harness_model,
    results_by_metric,
    run_tasks,
    task_manager,
)
from letgo.evaluation.harness_pairs import differences, sample_rows, values_of
from letgo.progress import log
from letgo.run.base import load_any
from letgo.run.folder import HARNESS, HARNESS_SAMPLES, LWF, require, write_json
from letgo.run.inputs import Run
from letgo.run.provenance import versions


def harness(run: Run, scratch: Path, tasks: Sequence[str], options: Mapping[str, Any]) -> None:
    """Write `harness.json` and `harness_samples.parquet`, with the results of every document.

    `harness.json` has by model, task and metric its `value`, `stderr` and `n`, and by task and
    metric the paired difference of LWF and SFT.

    Args:
        run: a run with a trained model; `--max_test` limits the documents of each task.
        tasks: names of the harness's tasks or groups, and letgo's own.
        options: of `lm_eval.simple_evaluate`; `limit` takes precedence over `--max_test`.

    Raises:
        InputError: no trained model, an unknown task, one whose data cannot be loaded, or a chat
            template that does not exist.
    """
    folders = {**baseline_folders(run), "lwf": require(run.folder, LWF)}
    manager = task_manager(tasks)
    options = {"limit": run.settings.max_test, **options}
    figures, values, rows, task_versions, used = {}, {}, [], {}, dict(options)
    for label, folder in folders.items():
        log.info("harness: %s", LABELS[label])
        lm = load_any(run.config, folder)
        used["apply_chat_template"] = chat_template(lm, options.get("apply_chat_template"))
        batch_size = run.settings.generation_batch_size
        model = harness_model(lm, batch_size, used["apply_chat_template"])
        results = run_tasks(model, tasks, manager, log_samples=True, **used)
        figures[label] = {name: results_by_metric(row) for name, row in results["results"].items()}
        values[label] = values_of(results["samples"], results["group_subtasks"])
        rows += sample_rows(label, results["samples"])
        task_versions.update(results["versions"])
    paired = {}
    if "sft" in folders:
        aggregates = aggregations(tasks, manager)
        paired = differences(values["lwf"], values["sft"], figures["lwf"], aggregates)
    result = {
        "models": figures,
        "lwf_minus_sft": paired,
        "max_test": run.settings.max_test,
        "chat_template": used["apply_chat_template"],
        "options": used,
        "task_versions": task_versions,
        "versions": {**versions(), "lm_eval": metadata.version("lm_eval")},
    }
    write_json(scratch / HARNESS.name, result)
    pq.write_table(pa.Table.from_pylist(rows), scratch / HARNESS_SAMPLES.name)
