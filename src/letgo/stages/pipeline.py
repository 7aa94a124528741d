"""All stages in their order, what each depends on, and the run that strings them together."""

from collections.abc import Sequence
from functools import partial

from letgo import processes
from letgo.data.records import fingerprint, text_fingerprint
from letgo.errors import InputError
from letgo.evaluation.asking import evaluated_sets
from letgo.models import loading as models
from letgo.run import config as cfg
from letgo.run import decisions
from letgo.run import folder as files
from letgo.run.inputs import Run, open_run
from letgo.run.provenance import write_config
from letgo.run.stage import Stage, check, run_stage
from letgo.scoring.scores import SCORES
from letgo.stages.baseline import baseline
from letgo.stages.elicit import elicit
from letgo.stages.evaluate import evaluate
from letgo.stages.fisher import fisher
from letgo.stages.keep import keep
from letgo.stages.optimum import fisher_is_needed
from letgo.stages.probe import probe
from letgo.stages.relearn import relearn
from letgo.stages.report import report
from letgo.stages.score import score
from letgo.stages.select import select
from letgo.stages.train import train
from letgo.unlearning.config import LWFConfig

# LWFConfig's own settings, on which plain fine-tuning does not depend.
UNLEARNING = set(vars(LWFConfig)["__annotations__"]) - {"bf16"}
# TrainingArguments fields about logging and saving; they do not change the result.
REPORTING = """
    output_dir logging_strategy logging_steps logging_first_step log_level log_level_replica
    log_on_each_node disable_tqdm report_to run_name project save_strategy save_steps
    save_total_limit save_only_model save_on_each_node push_to_hub hub_token hub_private_repo
    hub_model_id hub_strategy hub_always_push hub_revision resume_from_checkpoint
    skip_memory_metrics dataloader_num_workers dataloader_pin_memory trackio_space_id
    trackio_bucket_id trackio_static_space_id use_cpu per_device_eval_batch_size local_rank
"""


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
    to_keep = {f"keep {n}": fingerprint(r) for n, r in run.keep.items()}
    generation = {
        "bf16": training.bf16,
        "max_length": training.max_length,
        "generation_batch_size": settings.generation_batch_size,
    }
    elicited = {**base, **forget, **generation, "max_new_tokens": settings.max_new_tokens}
    kept = {**base, **to_keep, **generation, "max_new_tokens": settings.max_new_tokens}
    kept |= {"keep_loss": training.keep_loss, "keep_top_k": training.keep_top_k}
    tuned = {
        **base,
        "learn": fingerprint(run.learn),
        **cfg.changed_from_default(training, UNLEARNING.union(REPORTING.split())),
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
    trained = {**selected, **kept, "require_headroom": settings.require_headroom}
    trained |= {name: getattr(training, name) for name in sorted(UNLEARNING)}
    # A review may change decisions after `select`, which follows them; a trained model does not.
    if decided := decisions.read(run.folder).fingerprint:
        trained["decisions"] = decided
    answered = evaluated_sets(run) | run.held_out
    references = {f"references {n}": fingerprint(r) for n, r in answered.items()}
    compared = {**optimal, **generation, **references}
    compared |= {"max_new_tokens": settings.max_new_tokens, "keep_top_k": training.keep_top_k}
    if settings.require_headroom:
        trained |= compared
    relearned = {**trained, **compared, "relearn": settings.relearn}
    tested = {**relearned, "margin": settings.margin}
    evaluation = files.METRICS, files.ANSWERS, files.MODEL
    baselines = files.BASELINE, files.HELD_OUT, files.HEADROOM
    scores, unlearns = (files.SCORES,), bool(run.forget)
    relearns = unlearns and settings.relearn > 0
    informs = unlearns and fisher_is_needed(SCORES[settings.score], settings.optimum)
    return [
        Stage("elicit", (files.SELF_KNOWLEDGE,), elicit, elicited, shared=True, needed=unlearns),
        Stage("keep", (files.KEPT,), keep, kept, shared=True, needed=run.keeps),
        Stage("probe", (files.PROBE,), probe, optimal, shared=True),
        Stage("fisher", (files.FISHER,), fisher, informed, shared=True, needed=informs),
        Stage("score", scores, score, scored, shared=True, parallel=True, needed=unlearns),
        Stage("select", (files.SELECTION,), select, selected, needed=unlearns),
        Stage("baseline", baselines, baseline, compared, shared=True),
        Stage("train", (files.LWF, files.TRAIN_LOG), train, trained),
        Stage("relearn", (files.RELEARNED,), relearn, relearned, needed=relearns),
        Stage("evaluate", evaluation, evaluate, tested, brings=("baseline",)),
        Stage("report", (files.REPORT,), report, tested),
    ]


def execute(config: cfg.Config, only: str | None = None) -> Run:
    """Run all stages, or only the one of this name; finished ones are not run again.

    Raises:
        InputError: unusable input, or a folder that belongs to another run.
    """
    run = open_run(config)
    all_stages = stages(run)
    wanted = [stage for stage in all_stages if stage.needed]
    before = all_stages
    if only is not None:
        by_name = {stage.name: stage for stage in all_stages}
        wanted = [by_name[name] for name in (*by_name[only].brings, only)]
        # A single stage builds on the outputs of those before it, which must be of the same run.
        before = all_stages[: all_stages.index(wanted[-1]) + 1]
    if processes.several() and not all(stage.parallel for stage in wanted):
        raise InputError(
            "only `letgo score` shares its work among processes; start the others without "
            "accelerate launch"
        )
    overwritten = wanted if config.settings.overwrite else []
    check(run.folder, [stage for stage in before if stage not in overwritten])
    file = run.folder / "config.yaml"
    if file.exists() and not files.is_run(run.folder):
        raise InputError(f"--output_dir: letgo did not create {file}; choose another folder")
    run.folder.mkdir(parents=True, exist_ok=True)
    if processes.is_first():
        write_config(run, all_stages[0].inputs["model"])
    for stage in wanted:
        run_stage(run, stage)
    return run


def execute_harness(config: cfg.Config, tasks: Sequence[str]) -> Run:
    """Write `harness.json`: base, SFT and LWF on tasks of lm-evaluation-harness.

    The run's models must be trained. Other tasks than last time replace the file.

    Raises:
        InputError: unusable input, a folder that belongs to another run, or an unknown task.
        ModuleNotFoundError: lm_eval is not installed.
    """
    from letgo.stages.harness import harness  # needs an extra

    run = open_run(config)
    before = [stage for stage in stages(run) if stage.name != "report"]
    check(run.folder, before)
    inputs = {**before[-1].inputs, "max_test": config.settings.max_test, "harness": list(tasks)}
    run_stage(run, Stage("harness", (files.HARNESS,), partial(harness, tasks=tasks), inputs))
    return run
