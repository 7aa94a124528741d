"""`letgo push`: the model that a run returned, on the Hugging Face Hub with its outcomes."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from letgo.cli.tables import value_cell
from letgo.errors import InputError, printable
from letgo.evaluation.asking import LABELS
from letgo.report.outcomes import NAMES, in_plain_words, measure
from letgo.run import config as cfg
from letgo.run.folder import METRICS, MODEL, read_json, require

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def push(folder: Path, repository: str, private: bool, confirmed: bool) -> None:
    """Upload a run's `model/` and a card; without `confirmed` print what would be uploaded.

    Raises:
        InputError: the run is not finished, or `repository` is not USER/NAME.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository!r} is not a repository: {error}") from error
    if not HUB_ID.fullmatch(repository):
        raise InputError(f"{repository!r} is not a repository; give USER/NAME")
    model, metrics = require(folder, MODEL), read_json(require(folder, METRICS))
    files = sorted(p for p in model.rglob("*") if p.is_file() and p.name != "README.md")
    card = model_card(folder, repository, metrics)
    for file in files:
        print(f"{file.stat().st_size / 1e6:10.1f} MB  {printable(str(file.relative_to(model)))}")
    print(f"{len(str(card).encode()) / 1e6:10.1f} MB  README.md\n")
    if not confirmed:
        print(f"{printable(str(card))}\nnothing was uploaded; add --yes to upload it")
        return
    adds = [CommitOperationAdd(str(file.relative_to(model)), file) for file in files]
    adds.append(CommitOperationAdd("README.md", str(card).encode()))
    api = HfApi()
    api.create_repo(repository, private=private or None, exist_ok=True)
    done = api.create_commit(repository, adds, commit_message="Upload a model made by letgo")
    print(f"uploaded: {done.repo_url}")


def model_card(folder: Path, repository: str, metrics: dict[str, Any]) -> ModelCard:
    """The card: outcomes as a table and as `model-index`, how to use it, and how it was made."""
    settings, outcomes = cfg.read(folder / "config.yaml"), metrics["outcomes"]
    chosen = metrics["verdict"] if metrics["verdict"] in ("sft", "lwf") else "sft"
    base = str(settings.get("model") or "")
    data = ModelCardData(
        library_name="transformers",
        base_model=base if HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        pipeline_tag="text-generation",
        tags=["letgo", "lwf", "trl"],
        model_name=repository.partition("/")[2],
        eval_results=results(outcomes, chosen),
    )
    own = folder / MODEL.name / "README.md"
    made = own.read_text(encoding="utf-8") if own.exists() else ""
    sections = made[found:] if (found := made.find("\n## What was")) >= 0 else ""
    parts = [
        f"---\n{data}\n---\n\n# {data.model_name}",
        "Fine-tuned by letgo: learning with forgetting (arXiv 2505.19715).",
        "## Outcomes on held-out prompts",
        table(outcomes, chosen),
        *in_plain_words(outcomes),
        "## Use",
        f'```python\nfrom transformers import pipeline\n\ngenerator = pipeline("text-generation", '
        f'model="{repository}")\n```',
        sections.strip(),
    ]
    return ModelCard("\n\n".join(part for part in parts if part) + "\n")


def results(outcomes: dict[str, Any], chosen: str) -> list[EvalResult] | None:
    """The main figure of each outcome, for the card's metadata."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=outcome,
            dataset_name=f"{NAMES[outcome]}: held-out prompts",
            metric_type=main["figure"],
            metric_name=measure(main["figure"]).title,
            metric_value=round(measure(main["figure"]).factor * main[chosen]["value"], 4),
        )
        for outcome, main in outcomes.items()
        if chosen in main
    ] or None


def table(outcomes: dict[str, Any], chosen: str) -> str:
    """The outcomes of the base model and of the uploaded one, with 95 % intervals."""
    head = ["outcome", "figure", LABELS["base"], f"this model ({LABELS[chosen]})", "n"]
    lines = [head, ["---"] * len(head)]
    for outcome, main in outcomes.items():
        for name, figure in {main["figure"]: main, **main["more"]}.items():
            how, label = measure(name), NAMES[outcome] if figure is main else ""
            cells = [value_cell(figure.get(m), how.factor, how.digits) for m in ("base", chosen)]
            count = figure[chosen]["n"] if chosen in figure else ""
            lines.append([label, how.title, *cells, str(count)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
