"""`letgo evaluate --harness`: base, SFT and LWF on tasks of lm-evaluation-harness."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from letgo.evaluation.asking import LABELS, baseline_folders
from letgo.evaluation.harness import harness_model, results_by_metric, run_tasks, task_manager
from letgo.progress import log
from letgo.run.base import load_any
from letgo.run.folder import HARNESS, LWF, require, write_json
from letgo.run.inputs import Run
from letgo.run.provenance import versions


def harness(run: Run, scratch: Path, tasks: Sequence[str]) -> None:
    """Write `harness.json`: by model, task and metric its `value`, `stderr` and `n`.

    Args:
        run: a run with a trained model; `--max_test` limits the documents of each task.
        tasks: names of the harness's tasks or groups, and letgo's own.

    Raises:
        InputError: no trained model, an unknown task, or one whose data cannot be loaded.
    """
    folders = {**baseline_folders(run), "lwf": require(run.folder, LWF)}
    manager = task_manager(tasks)
    figures, task_versions = {}, {}
    for label, folder in folders.items():
        log.info("harness: %s", LABELS[label])
        model = harness_model(load_any(run.config, folder), run.settings.generation_batch_size)
        results = run_tasks(model, tasks, manager, limit=run.settings.max_test, log_samples=False)
        figures[label] = {name: results_by_metric(row) for name, row in results["results"].items()}
        task_versions.update(results["versions"])
    result = {
        "models": figures,
        "max_test": run.settings.max_test,
        "chat_template": run.chat_template is not None,
        "task_versions": task_versions,
        "versions": {**versions(), "lm_eval": metadata.version("lm_eval")},
    }
    write_json(scratch / HARNESS.name, result)
