"""What the commands do, and what they print."""

import json
import logging
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from letgo import config as cfg
from letgo import demo, processes, progress, ranking
from letgo.confidence.explain import explain
from letgo.errors import InputError, missing_extra
from letgo.evaluate import LABELS
from letgo.pipeline import execute, reopen
from letgo.report.drawing import FORMATS
from letgo.report.figures import save_figures
from letgo.stages import Run, read_json


def execute_command(command: str, arguments: list[str]) -> None:
    """Parse, call, print.

    Raises:
        InputError: unusable flags or data.
    """
    _hush_libraries()
    if command == "study":
        return _study(arguments)
    wanted = command == "score" and "--explain" in arguments
    arguments = [word for word in arguments if not (wanted and word == "--explain")]
    formats: list[str] = []
    if command == "report":
        formats, arguments = _figures(arguments)
    tasks = None
    if command == "evaluate":
        tasks, arguments = cfg.take_flag("--harness", arguments)
    if command == "rank":
        arguments = [re.sub("^--candidates(?=$|=)", "--forget", word) for word in arguments]
    config = cfg.parse(command, arguments, _defaults(command, arguments))
    progress.configure(config.run.quiet or not processes.is_first())
    if command == "demo":
        demo.generate_data(Path(config.training.output_dir) / "data")
    if command == "rank":
        return _rank(config)
    if tasks is not None:
        return _harness(config, tasks.split(","))
    run = execute(config, None if command in ("run", "demo") else command)
    processes.leave()
    if not processes.is_first():
        return
    if wanted:
        print(explain(run.folder / "scores.parquet"))
    if command in ("run", "demo", "evaluate"):
        print(result_table(read_json(run.folder / "metrics.json")))
    if command == "demo":
        print(texts(run.folder))
    for file in save_figures(run.folder, formats) if formats else []:
        print(f"figure: {file}")
    if command in ("run", "demo", "report"):
        print(f"report: {run.folder / 'report.html'}")
        print(_verdict(run))


def _figures(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The formats that `--figures` asks for, and the arguments without it."""
    given, rest = cfg.take_flag("--figures", arguments)
    formats = given.split(",") if given is not None else []
    for name in formats:
        if name not in FORMATS:
            raise InputError(
                f"--figures must be one or several of {', '.join(FORMATS)}, joined by commas, not "
                f"{given}"
            )
    return formats, rest


def _rank(config: cfg.Config) -> None:
    """Every stage up to the scores, and what they promise."""
    for stage in ("elicit", "probe", "fisher", "score"):
        run = execute(config, stage)
    candidates = ranking.rank(run.folder / "scores.parquet", config.training.forget_fraction)
    print(ranking.table(candidates))


def _study(arguments: list[str]) -> None:
    try:
        from letgo.study.command import study_command
    except ModuleNotFoundError as error:
        raise missing_extra("letgo study", error, "study") from error
    study_command(arguments)


def _harness(config: cfg.Config, tasks: list[str]) -> None:
    try:
        from letgo.harness import harness, table
    except ModuleNotFoundError as error:
        raise missing_extra("--harness", error, "harness") from error
    print(table(harness(reopen(config, "train"), tasks)))


def _defaults(command: str, arguments: list[str]) -> dict[str, Any]:
    """The demo's settings, or for a single stage those of the run folder."""
    given = cfg.output_dirs(arguments)
    if command == "demo":
        folder = given[-1] if given else "runs/demo"
        text = json.dumps(demo.SETTINGS).replace("{data}", f"{folder}/data")
        return {**json.loads(text), "output_dir": folder}
    if command == "rank":
        return ranking.SETTINGS
    file = Path(given[-1]) / "config.yaml" if given else Path()
    if command != "run" and cfg.take_flag("--config", arguments)[0] is None and file.is_file():
        return {**cfg.read(file), "overwrite": False, "quiet": False}
    return {}


def _hush_libraries() -> None:
    """Warnings that name no choice of letgo's user, and bars beside letgo's own."""
    import datasets
    import huggingface_hub.utils.logging as hub_logging
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|peft|transformers")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


def result_table(metrics: dict[str, Any]) -> str:
    """Accuracy of base, SFT and LWF with intervals, and the paired difference, as text."""
    sets = list(metrics["models"]["lwf"])
    lines = [f"{'accuracy, 95 % interval':26}" + "".join(f"{name:>24}" for name in sets)]
    for model, label in LABELS.items():
        if model in metrics["models"]:
            cells = [_cell(metrics["models"][model].get(name)) for name in sets]
            lines.append(f"{label:26}" + "".join(f"{cell:>24}" for cell in cells))
    lines.append(f"{'n':26}" + "".join(f"{metrics['models']['lwf'][n]['n']:>24}" for n in sets))
    neutral = ", ".join(f"{m} {value:.2f}" for m, value in metrics["neutral_perplexity"].items())
    neutral = f"perplexity of neutral text: {neutral}"
    if not metrics["lwf_minus_sft"]:
        return "\n".join([*lines, neutral])
    paired = [metrics["lwf_minus_sft"][name] for name in sets]
    cells = [f"{p['difference']:+.3f} [{p['ci95'][0]:+.3f}, {p['ci95'][1]:+.3f}]" for p in paired]
    lines.append(f"{'LWF - SFT, paired':26}" + "".join(f"{cell:>24}" for cell in cells))
    lines.append(f"{'p (McNemar, exact)':26}" + "".join(f"{p['p_value']:>24.3g}" for p in paired))
    return "\n".join([*lines, neutral])


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    return f"{score['accuracy']:.3f} [{score['ci95'][0]:.3f}, {score['ci95'][1]:.3f}]"


def texts(folder: Path, count: int = 3) -> str:
    """The self-generated texts with the highest and the lowest confidence, as text."""
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    known = {t["id"]: t for t in pq.read_table(folder / "self_knowledge.parquet").to_pylist()}
    ranked = sorted(scores, key=lambda row: (-row["confidence"], row["id"]))
    lines = []
    for title, rows in (("highest", ranked[:count]), ("lowest", ranked[-count:])):
        lines.append(f"\n{title} forgetting confidence:")
        for row in rows:
            text = known[row["id"]]
            said = textwrap.shorten(
                f"{text['prompt']} -> {text['completion']}", 90, placeholder=" ..."
            )
            lines.append(f"  {row['confidence']:.4g}  [{row['forget_set']}] {said}")
    return "\n".join(lines) + "\n"


def _verdict(run: Run) -> str:
    metrics, kept = read_json(run.folder / "metrics.json"), run.folder / "model"
    count = metrics.get("models", {}).get("lwf", {}).get("validation", {}).get("n")
    return {
        "lwf": f"verdict: LWF gains on {count} validation examples; {kept} is LWF's",
        "sft": f"verdict: no gain shown on {count} validation examples; {kept} is that of plain "
        f"fine-tuning (LWF's: {run.folder / 'lwf'})"
        if count
        else f"verdict: nothing was unlearned; {kept} is that of plain fine-tuning",
        "no baseline": f"{kept} is LWF's; with --optimum full it would be compared with plain "
        "fine-tuning",
        None: "no verdict yet: letgo evaluate asks the models",
    }[metrics.get("verdict")]
