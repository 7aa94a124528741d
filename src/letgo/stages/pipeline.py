"""All stages in their order, what each depends on, and the run that strings them together."""

from letgo import processes
from letgo.data.records import fingerprint, text_fingerprint
from letgo.errors import InputError
from letgo.evaluation.asking import asked_sets
from letgo.models import loading as models
from letgo.run import config as cfg
from letgo.run import decisions
from letgo.run.config import Config
from letgo.run.folder import is_run
from letgo.run.inputs import Run, open_run
from letgo.run.provenance import write_config
from letgo.run.stage import Stage, check, run_stage
from letgo.scoring.scores import SCORES
from letgo.stages.baseline import baseline
from letgo.stages.elicit import elicit
from letgo.stages.evaluate import evaluate
from letgo.stages.fisher import fisher
from letgo.stages.probe import probe
from letgo.stages.report import report
from letgo.stages.score import score
from letgo.stages.select import select
from letgo.stages.train import train
from letgo.unlearning.config import LWFConfig

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


def stages(run: Run) -> list[Stage]:
    """Every stage with its inputs; a stage's inputs hold those of the stages before it."""
    config, settings, training = run.config, run.settings, run.training
    base = {
        "model": models.fingerprint(settings.model, training.trust_remote_code),
        **cfg.changed_from_default(config.adapter, {"model_name_or_path"}),
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
    if SCORES[settings.score].uses_alpha:
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
    check(run.folder, [s for s in line[:last] if not (config.settings.overwrite and s in wanted)])
    own = run.folder / "config.yaml"
    if own.exists() and not is_run(run.folder):
        raise InputError(f"--output_dir: {own} is not letgo's; give another folder")
    run.folder.mkdir(parents=True, exist_ok=True)
    if processes.is_first():
        write_config(run, line[0].inputs["model"])
    for stage in wanted:
        run_stage(run, stage)
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
