"""What produced a run: `config.yaml`, with all settings, versions and data fingerprints."""

import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from letgo.data.files import atomic_write
from letgo.data.records import Record, fingerprint
from letgo.models import loading as models
from letgo.run.config import plain_settings
from letgo.run.inputs import Run


def versions() -> dict[str, str]:
    """Versions of letgo and of the libraries it depends on."""
    names = ("letgo", "torch", "transformers", "trl", "datasets", "accelerate", "peft", "pyarrow")
    return {name: metadata.version(name) for name in names}


def git_revision() -> str | None:
    """The commit of letgo's source, with "+" if files have changed; None if it is installed."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # Fails if letgo is merely installed into an environment inside another repository.
        _output([*git, "ls-files", "--error-unmatch", here.name])
        changes = _output([*git, "status", "--porcelain"])
        return _output([*git, "rev-parse", "HEAD"]) + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _output(command: list[str]) -> str:
    return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()


def write_config(run: Run, model: str) -> None:
    """Write `config.yaml`: all settings and their provenance; `model` is a fingerprint."""
    data: dict[str, Sequence[Record]] = {"learn": run.learn, "learn_test": run.test}
    if run.validation:
        data["learn_validation"] = run.validation
    if run.negative:
        data["learn, weight below 0"] = run.negative
    data.update({f"forget {name}": records for name, records in run.forget.items()})
    data.update({f"keep {name}": records for name, records in run.keep.items()})
    provenance: dict[str, Any] = {
        "versions": versions(),
        "device": models.device_name(),
        "git_revision": git_revision(),
        "model": model,
        "data": {name: fingerprint(records) for name, records in data.items()},
        "examples": {name: len(records) for name, records in data.items()},
    }
    content = {**plain_settings(run.config), "provenance": provenance}
    text = "# `letgo run --config THIS_FILE --output_dir NEW` repeats this run.\n"
    text += yaml.safe_dump(content, sort_keys=False)
    with atomic_write(run.folder / "config.yaml") as part:
        part.write_text(text, encoding="utf-8")
