"""All stages in their order, what each depends on, and the run that strings them together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from letgo import config as cfg
from letgo import decisions, models, processes
from letgo.confidence.fisher import fisher
from letgo.confidence.optimum import probe
from letgo.confidence.scoring import score
from letgo.confidence.selection import select
from letgo.config import Config
from letgo.data import MISTAKES, fingerprint, hold_out, sample, set_names, text_fingerprint
from letgo.elicit import elicit
from letgo.errors import InputError
from letgo.evaluate import asked_sets, baseline, evaluate
from letgo.lwf_config import LWFConfig
from letgo.progress import log
from letgo.records import Record, read_records
from letgo.report.folder import is_run
from letgo.report.page import render
from letgo.stages import Run, Stage, check, perform
from letgo.train import train

# The settings of LWFConfig itself, which plain fine-tuning does not depend on.
UNLEARNING = set(vars(LWFConfig)["__annotations__"]) - {"bf16"}
# Settings of transformers that say where and how to tell, not what to compute.
TELLING = {
    "output_dir",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "disable_tqdm",
    "report_to",
    "run_name",
    "project",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "save_on_each_node",
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    "resume_from_checkpoint",
    "skip_memory_metrics",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "use_cpu",
    "per_device_eval_batch_size",
    "local_rank",
}

# Examples beyond them cost more to ask than they tell.
MOST_VALIDATION = 200


def open_run(config: Config) -> Run:
    """Read and check all data of a run; writes nothing.

    Raises:
        InputError: names the flag, file and line of what cannot be used.
    """
    settings, seed = config.run, config.training.seed
    if not config.training.output_dir or config.training.output_dir == "trainer_output":
        raise InputError("--output_dir is missing: give the folder for this run")
    if settings.learn is None:
        raise InputError("--learn is missing: give the learning data")
    if not settings.forget and config.training.unlearning_interval:
        raise InputError("--forget is missing: give forgetting prompts, or --unlearning_interval 0")
    folder = Path(config.training.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir: {folder} is a file; give a folder")
    learn, validation, test = learning_data(config)
    forget = {
        name: sample(
            learn if source == MISTAKES else read_records(source, "--forget", False),
            settings.max_forget,
            seed,
        )
        for name, source in zip(set_names(settings.forget), settings.forget, strict=True)
    }
    for name, records in forget.items():
        forget[name] = _apart_from([*validation, *test], records)
        if not forget[name]:
            raise InputError(f"--forget: all prompts of {name} are test prompts; give other ones")
        if len(forget[name]) < len(records):
            log.warning(
                "%d prompts of the forgetting set %s are also test prompts and left out",
                len(records) - len(forget[name]),
                name,
            )
    batch = config.training.per_device_train_batch_size
    if len(learn) < batch:
        raise InputError(
            f"--learn: {len(learn)} examples are fewer than one batch of {batch}; "
            f"give more, or lower --per_device_train_batch_size"
        )
    # An unknown model is found out before anything is written.
    models.fingerprint(settings.model, config.training.trust_remote_code)
    tokenizer = models.load_base_tokenizer(config)
    source = Path(models.resolve(settings.model)).resolve()
    if any(source.is_relative_to((folder / kept).resolve()) for kept in ("model", "lwf", "probe")):
        raise InputError(f"--output_dir: the run would replace its own --model {settings.model}")
    return Run(folder, config, learn, validation, test, forget, tokenizer.chat_template)


def learning_data(config: Config) -> tuple[list[Record], list[Record], list[Record]]:
    """(learning, validation, test examples), of which no two share a prompt."""
    settings, seed = config.run, config.training.seed
    learn = read_records(settings.learn or "", "--learn", True)
    learn, test = _kept_apart(learn, "learn_test", settings.learn_test, seed)
    validation: list[Record] = []
    # Nothing is to be decided where there is no plain fine-tuning, or nothing else.
    if settings.optimum == "full" and config.training.unlearning_interval:
        learn, validation = _kept_apart(
            learn, "learn_validation", settings.learn_validation, seed, MOST_VALIDATION
        )
        validation = _apart_from(test, validation)
        if not validation:
            raise InputError("--learn_validation: all its prompts are test prompts; give others")
    return (
        sample(learn, settings.max_learn, seed),
        validation,
        sample(test, settings.max_test, 0),  # runs of other seeds are asked the same
    )


def _apart_from(asked: list[Record], records: list[Record]) -> list[Record]:
    """Records whose prompts are not among those that models are asked."""
    prompts = {record.prompt for record in asked}
    return [record for record in records if record.prompt not in prompts]


def _kept_apart(
    learn: list[Record], flag: str, source: str | None, seed: int, most: int | None = None
) -> tuple[list[Record], list[Record]]:
    """Learning examples, and those of `source` or else a tenth of the learning data."""
    if source is None:
        if len({record.prompt for record in learn}) < 2:
            raise InputError(f"--learn: too few examples to keep a tenth apart; give --{flag}")
        return hold_out(learn, seed, most)
    given = read_records(source, f"--{flag}", True)
    kept = _apart_from(given, learn)
    if len(kept) < len(learn):
        log.warning(
            "%d learning examples are also prompts of --%s and are not trained on",
            len(learn) - len(kept),
            flag,
        )
    if not kept:
        raise InputError(f"--{flag}: it holds every learning prompt; give other data")
    return kept, given


def stages(run: Run) -> list[Stage]:
    """Every stage with its inputs; a stage's inputs hold those of the stages before it."""
    config, settings, training = run.config, run.config.run, run.config.training
    base = {
        "model": models.fingerprint(settings.model, training.trust_remote_code),
        **cfg.changed_from_default(config.model, {"model_name_or_path"}),
        "chat_template": text_fingerprint(run.chat_template or ""),
        "eos_token": training.eos_token,
        "model_init_kwargs": training.model_init_kwargs,
        "trust_remote_code": training.trust_remote_code,
    }
    forget = {f"forget {n}": fingerprint(r) for n, r in run.forget.items()}
    generation = {
        "bf16": training.bf16,
        "max_length": training.max_length,
        "generation_batch_size": settings.generation_batch_size,
    }
    elicited = {**base, **forget, **generation, "max_new_tokens": settings.max_new_tokens}
    tuned = {
        **base,
        "learn": fingerprint(run.learn),
        **cfg.changed_from_default(training, UNLEARNING | TELLING),
    }
    optimal = {**tuned, "optimum": settings.optimum}
    informed = {
        **optimal,
        "fisher_kind": settings.fisher_kind,
        "fisher_labels": settings.fisher_labels,
        "skip_non_finite": settings.skip_non_finite,
        "fisher_examples": settings.fisher_examples,
        "tokens_per_batch": settings.tokens_per_batch,
    }
    scored = {**elicited, **informed, "score": settings.score}
    if settings.score == "fisher_distance":
        scored["alpha"] = training.alpha
    selected = {**scored, "forget_fraction": training.forget_fraction}
    if settings.selection != "top":
        selected |= {"selection": settings.selection, "seed": training.seed}
    trained = {**selected, **{name: getattr(training, name) for name in sorted(UNLEARNING)}}
    # `select` takes people's decisions as they are; a model is that of its decisions.
    if decided := decisions.read(run.folder).fingerprint:
        trained["decisions"] = decided
    asked = {f"references {n}": fingerprint(r) for n, r in asked_sets(run).items()}
    compared = {**optimal, **generation, **asked}
    tested = {**trained, **compared}
    return [
        Stage("elicit", ("self_knowledge.parquet",), elicit, elicited, True),
        Stage("probe", ("probe",), probe, optimal, True),
        Stage("fisher", ("fisher.safetensors",), fisher, informed, True),
        Stage("score", ("scores.parquet",), score, scored, True),
        Stage("select", ("selection.parquet",), select, selected),
        Stage("train", ("lwf", "train_log.jsonl"), train, trained),
        Stage("baseline", ("baseline.parquet",), baseline, compared, True),
        Stage("evaluate", ("metrics.json", "answers.parquet", "model"), evaluate, tested),
        Stage("report", ("report.html",), report, tested),
    ]


def report(run: Run, scratch: Path) -> None:
    """Write `report.html` from the files of the run folder."""
    (scratch / "report.html").write_text(render(run.folder), encoding="utf-8")


def execute(config: Config, only: str | None = None) -> Run:
    """Run all stages, or one; finished ones are kept.

    Args:
        config: all settings.
        only: the name of a single stage.

    Raises:
        InputError: unusable input, or a folder that belongs to another run.
    """
    if processes.several() and only != "score":
        raise InputError(
            "only `letgo score` shares its work among processes; start the others without "
            "accelerate launch"
        )
    run = open_run(config)
    line = stages(run)
    names = [stage.name for stage in line]
    # A single stage builds on what is there: the stages before it must be of the same run.
    last = len(line) if only is None else names.index(only) + 1
    wanted = line[:last] if only is None else line[last - 1 : last]
    if only == "evaluate":
        wanted = line[last - 2 : last]  # what it compares with is asked if it has not been
    check(run.folder, [s for s in line[:last] if not (config.run.overwrite and s in wanted)])
    own = run.folder / "config.yaml"
    if own.exists() and not is_run(run.folder):
        raise InputError(f"--output_dir: {own} is not letgo's; give another folder")
    run.folder.mkdir(parents=True, exist_ok=True)
    if processes.is_first():
        write_config(run, line[0].inputs["model"])
    for stage in wanted:
        perform(run, stage)
    return run


def reopen(config: Config, last: str) -> Run:
    """A run whose stages up to `last` were made with these settings; writes nothing.

    Raises:
        InputError: unusable input, or a folder that belongs to another run.
    """
    run = open_run(config)
    line = stages(run)
    check(run.folder, line[: [stage.name for stage in line].index(last) + 1])
    return run


def write_config(run: Run, model: str) -> None:
    """Write `config.yaml`: all settings, and where they came from; `model` is its fingerprint."""
    data: dict[str, Sequence[Record]] = {"learn": run.learn, "learn_test": run.test}
    if run.validation:
        data["learn_validation"] = run.validation
    data.update({f"forget {name}": records for name, records in run.forget.items()})
    provenance: dict[str, Any] = {
        "versions": cfg.versions(),
        "device": models.device_name(),
        "git_revision": cfg.git_revision(),
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
