"""Where a run comes from: versions, git revision, and `config.yaml`."""

import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from letgo.data.records import Record, fingerprint
from letgo.models import loading as models
from letgo.run import config as cfg
from letgo.run.inputs import Run


def versions() -> dict[str, str]:
    """Versions of letgo and of what it stands on."""
    names = ("letgo", "torch", "transformers", "trl", "datasets", "accelerate", "peft", "pyarrow")
    return {name: metadata.version(name) for name in names}


def git_revision() -> str | None:
    """The commit letgo was run from, "+" if its tree had changes; None if it is installed."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # Installed into an environment inside somebody's repository, letgo is not of that commit.
        subprocess.check_output([*git, "ls-files", "--error-unmatch", here.name], stderr=-3)
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=-3).strip()
        dirty = subprocess.check_output([*git, "status", "--porcelain"], text=True, stderr=-3)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty.strip() else "")


def write_config(run: Run, model: str) -> None:
    """Write `config.yaml`: all settings, and where they came from; `model` is its fingerprint."""
    data: dict[str, Sequence[Record]] = {"learn": run.learn, "learn_test": run.test}
    if run.validation:
        data["learn_validation"] = run.validation
    data.update({f"forget {name}": records for name, records in run.forget.items()})
    provenance: dict[str, Any] = {
        "versions": versions(),
        "device": models.device_name(),
        "git_revision": git_revision(),
        "model": model,
        "data": {name: fingerprint(records) for name, records in data.items()},
        "examples": {name: len(records) for name, records in data.items()},
    }
    settings = cfg.settings(run.config)
    text = "# letgo run --config THIS_FILE --output_dir NEW repeats this run\n"
    text += yaml.safe_dump({**settings, "provenance": provenance}, sort_keys=False)
    part = run.folder / "config.yaml.part"
    part.write_text(text, encoding="utf-8")
    part.replace(run.folder / "config.yaml")
