"""All stages in their order, what each depends on, and the run that strings them together."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from letgo import processes
from letgo.data.records import Record, fingerprint, text_fingerprint
from letgo.data.splits import MISTAKES, WRONG
from letgo.errors import InputError
from letgo.evaluation.asking import evaluated_sets, open_judged
from letgo.evaluation.rules import LEARN, rule_inputs
from letgo.models import loading as models
from letgo.progress import log
from letgo.run import config as cfg
from letgo.run import decisions, first_examples
from letgo.run import folder as files
from letgo.run.folder import Row
from letgo.run.inputs import FORGET_SET, Run, open_run
from letgo.run.learning import without_prompts_of
from letgo.run.lock import exclusive
from letgo.run.provenance import write_config
from letgo.run.reading import read
from letgo.run.seen import load_prompts
from letgo.run.stage import Stage, check, run_stage, tidy
from letgo.scoring.scores import SCORES
from letgo.stages.audit import audit
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


# What an audit depends on besides the model, the learning data and the training.
AUDITING = ("clean", "audit_score", "wrong_fraction", "tokens_per_batch")


def _base_inputs(run: Run) -> Row:
    """What the base model and its tokenizer depend on."""
    settings, training = run.settings, run.training
    return {
        "model": models.fingerprint(settings.model, training.trust_remote_code),
        **cfg.changed_from_default(run.config.adapter, {"model_name_or_path"}),
        "chat_template": text_fingerprint(run.chat_template or ""),
        "eos_token": training.eos_token,
        "model_init_kwargs": training.model_init_kwargs,
        "trust_remote_code": training.trust_remote_code,
    }


def _data_inputs(use: str, sets: dict[str, list[Record]]) -> Row:
    """The fingerprints of sets of records, by what they are used for."""
    return {f"{use} {name}": fingerprint(records) for name, records in sets.items()}


def _evaluation_inputs(run: Run) -> Row:
    """What evaluations while training depend on, besides the settings that TRL has."""
    if run.training.eval_strategy == "no":
        return {}
    return {
        "learn_validation": fingerprint(run.validation),
        "early_stopping_patience": run.settings.early_stopping_patience,
        "per_device_eval_batch_size": run.training.per_device_eval_batch_size,
    }


def _score_inputs(run: Run, elicited: Row, informed: Row) -> Row:
    """What the scores depend on, from the inputs of the texts and of the Fisher information."""
    scored = {**elicited, **informed, "score": run.settings.score}
    if SCORES[run.settings.score].uses_alpha:
        scored["alpha"] = run.training.alpha
    return scored


def _selection_inputs(run: Run, scored: Row) -> Row:
    """What the selection depends on, from the inputs of the scores."""
    selected = {**scored, "forget_fraction": run.training.forget_fraction}
    if run.settings.selection != "top":
        selected |= {"selection": run.settings.selection, "seed": run.training.seed}
    return selected


def _training_inputs(run: Run, selected: Row, kept: Row, compared: Row, audited: Row) -> Row:
    """What training depends on, from the inputs of other stages."""
    trained = {**selected, **kept, "require_headroom": run.settings.require_headroom}
    trained |= {name: getattr(run.training, name) for name in sorted(UNLEARNING)}
    if run.audits:
        trained |= {name: audited[name] for name in AUDITING}
    if run.negative:
        trained["learn, weight below 0"] = fingerprint(run.negative)
    # A review may change decisions after `select`, which follows them; a trained model does not.
    if decided := decisions.read(run.folder).fingerprint:
        trained["decisions"] = decided
    return trained | compared if run.settings.require_headroom else trained


def _baseline_inputs(run: Run, tuned: Row) -> Row:
    """What the answers of base and SFT depend on, from what training and generation do."""
    settings = run.settings
    references = _data_inputs("references", evaluated_sets(run) | run.held_out)
    inputs = {**tuned, **references, "keep_top_k": run.training.keep_top_k}
    inputs |= rule_inputs(settings)
    if settings.likelihood_accuracy:
        inputs["likelihood_accuracy"] = True
    if run.habits:
        inputs |= {"habits": sorted(run.habits), "forget_pattern": settings.forget_pattern}
    return inputs


def stages(run: Run) -> list[Stage]:
    """Every stage with its inputs; a stage's inputs hold those of the stages before it."""
    settings, training = run.settings, run.training
    base = _base_inputs(run)
    generation = {
        "bf16": training.bf16,
        "max_length": training.max_length,
        "generation_batch_size": settings.generation_batch_size,
        "max_new_tokens": settings.max_new_tokens,
    }
    elicited = {**base, **_data_inputs("forget", run.forget), **generation}
    if MISTAKES in settings.forget:
        elicited |= rule_inputs(settings, LEARN)
    if run.habits:
        asked = [training.asks(habit.name) for habit in run.habits.values()]
        elicited |= {"forget_pattern": settings.forget_pattern, "asked": asked}
    kept = {**base, **_data_inputs("keep", run.keep), **generation}
    kept |= {"keep_loss": training.keep_loss, "keep_top_k": training.keep_top_k}
    tuned = {
        **base,
        "learn": fingerprint(run.learn),
        **cfg.changed_from_default(training, UNLEARNING.union(REPORTING.split())),
        **_evaluation_inputs(run),
    }
    audited = {**tuned, "clean": fingerprint(run.validation)}
    audited |= {name: getattr(settings, name) for name in AUDITING[1:]}
    optimal = {**tuned, "optimum": settings.optimum}
    informed = {
        **optimal,
        "fisher_kind": settings.fisher_kind,
        "fisher_labels": settings.fisher_labels,
        "skip_non_finite": settings.skip_non_finite,
        "fisher_examples": settings.fisher_examples,
        "tokens_per_batch": settings.tokens_per_batch,
    }
    scored = _score_inputs(run, elicited, informed)
    selected = _selection_inputs(run, scored)
    compared = _baseline_inputs(run, {**optimal, **generation})
    trained = _training_inputs(run, selected, kept, compared, audited)
    relearned = {**trained, **compared, "relearn": settings.relearn}
    tested = {**relearned, "margin": settings.margin}
    evaluation = files.METRICS, files.ANSWERS, files.MODEL
    baselines = files.BASELINE, files.HELD_OUT, files.HEADROOM
    scores, unlearns = (files.SCORES,), bool(run.forget)
    relearns = settings.relearn > 0 and any(n.startswith(FORGET_SET) for n in run.held_out)
    informs = unlearns and fisher_is_needed(SCORES[settings.score], settings.optimum)
    return [
        Stage("audit", (files.AUDIT,), audit, audited, shared=True, needed=run.audits),
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
    run = open_judged(config)
    all_stages = stages(run)
    wanted = [stage for stage in all_stages if stage.needed]
    # A run may have an audit that it does not depend on.
    before = [stage for stage in all_stages if stage.needed or stage.name != "audit"]
    if only is not None:
        by_name = {stage.name: stage for stage in all_stages}
        wanted = [by_name[name] for name in (*by_name[only].brings, only)]
        # A single stage builds on the outputs of those before it, which must be of the same run.
        before = before[: before.index(wanted[-1]) + 1]
    if processes.several() and not all(stage.parallel for stage in wanted):
        raise InputError(
            "only `letgo score` shares its work among processes; start the others without "
            "accelerate launch"
        )
    with exclusive(run.folder, f"letgo {only or 'run'}"):
        _execute(run, all_stages, before, wanted, show=only is None)
    return run


def _execute(
    run: Run, every: list[Stage], before: list[Stage], wanted: list[Stage], show: bool
) -> None:
    """Run the wanted stages after those before them have been checked.

    Args:
        show: whether the first example of each set is printed.
    """
    overwritten = wanted if run.settings.overwrite else []
    if overwritten and processes.is_first():
        _forget_damaged_records(run.folder)
    check(run.folder, [stage for stage in before if stage not in overwritten])
    file = run.folder / "config.yaml"
    if file.exists() and not files.is_run(run.folder):
        raise InputError(f"--output_dir: letgo did not create {file}; choose another folder")
    if processes.is_first():
        tidy(run.folder, every)
        write_config(run, every[0].inputs["model"])
        first_examples.write(run.folder, run.first_examples, show)
    for stage in wanted:
        run_stage(run, stage)


def _forget_damaged_records(folder: Path) -> None:
    """Remove a `stages.json` that cannot be read: all that it recorded is made again."""
    try:
        files.read_stages(folder)
    except InputError as error:
        log.warning("%s", str(error).partition(";")[0])
        (folder / "stages.json").unlink()


def execute_audit(config: cfg.Config, clean: str | None) -> Run:
    """Write `audit.parquet`; in a folder that is no run yet, as the first stage of one.

    Args:
        config: settings of a run, or of an audit alone.
        clean: source of clean learning examples; by default `--learn_validation`.

    Raises:
        InputError: unusable input, or a folder that belongs to another run.
    """
    settings = config.settings
    if not (clean or settings.learn_validation):
        raise InputError("--clean is missing: name learning examples whose answers are right")
    clean = str(clean or settings.learn_validation)
    if WRONG not in settings.forget:
        if files.is_run(Path(config.training.output_dir or "")):
            return _audit_of(config, clean)
        settings.forget = [*settings.forget, WRONG]
    settings.learn_validation = clean
    return execute(config, "audit")


def _audit_of(config: cfg.Config, clean: str) -> Run:
    """The audit of a run whose training does not depend on it; the run stays as it is."""
    run = open_run(config)
    flag = "--learn_validation (--clean)"
    records = load_prompts(config).unified(flag, read(config, clean, flag))
    learn = without_prompts_of(records, run.learn)
    if not learn:
        raise InputError("--clean: it contains every learning prompt; use other data")
    run = replace(run, learn=learn, validation=records)
    stage = next(stage for stage in stages(run) if stage.name == "audit")
    with exclusive(run.folder, "letgo audit"):
        check(run.folder, [stage])
        run_stage(run, stage)
    return run


def execute_harness(config: cfg.Config, tasks: Sequence[str], options: Row) -> Run:
    """Write `harness.json`: base, SFT and LWF on tasks of lm-evaluation-harness.

    The run's models must be trained. Other tasks or options than last time replace the files.
    `options` are those of `lm_eval.simple_evaluate`.

    Raises:
        InputError: unusable input, a folder that belongs to another run, or an unknown task.
        ModuleNotFoundError: lm_eval is not installed.
    """
    from letgo.stages.harness import harness  # needs an extra

    run = open_run(config)
    before = [stage for stage in stages(run) if stage.name != "report"]
    asked = {"max_test": config.settings.max_test, "harness": list(tasks), **options}
    work = partial(harness, tasks=tasks, options=options)
    outputs = files.HARNESS, files.HARNESS_SAMPLES
    stage = Stage("harness", outputs, work, {**before[-1].inputs, **asked})
    with exclusive(run.folder, "letgo evaluate --harness"):
        check(run.folder, before)
        run_stage(run, stage)
    return run
