"""Evaluation while training: the best model, early stopping, and both when resumed."""

import json
import re
import shutil

import pytest
from helpers.commands import flags, letgo
from safetensors.torch import load_file

from letgo.run import config as cfg
from letgo.run.base import load_any
from letgo.run.inputs import open_run
from letgo.stages import fit

# The loss on validation falls and then rises: the tiny model soon knows its few examples by heart.
CHANGES = {
    "learning_rate": 2e-2,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 6,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": "true",
    "early_stopping_patience": 3,
    "unlearning_strength": 0.05,
}
LOGS = {"probe": "probe/train_log.jsonl", "lwf": "train_log.jsonl"}
TIMES = re.compile("runtime|per_second")


def log_of(folder, model):
    """The lines of a training log, without times."""
    lines = (folder / LOGS[model]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not TIMES.search(k)} for row in rows]


def validation_losses(folder, model):
    return {row["step"]: row["eval_loss"] for row in log_of(folder, model) if "eval_loss" in row}


@pytest.fixture(scope="module")
def evaluated(tiny, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    status, _, error = letgo("run", *flags(tiny, data, out, **CHANGES))
    assert status == 0, error
    assert error.count("is the best: loss") == 2
    return out


@pytest.mark.parametrize("model", ["probe", "lwf"])
def test_the_best_model_is_saved_and_training_stops(evaluated, model):
    losses = validation_losses(evaluated, model)
    best = min(losses, key=losses.get)
    assert 2 < best < max(losses)
    # Three evaluations without a better one, long before the end.
    assert sum(step > best for step in losses) == 3
    steps = [row["step"] for row in log_of(evaluated, model) if "grad_norm" in row]
    assert max(steps) <= max(losses) < 6 * 6
    run = open_run(cfg.parse("evaluate", [], cfg.read(evaluated / "config.yaml")))
    lm = load_any(run.config, evaluated / model)
    rows = fit.learning_rows(lm, run.validation)  # one batch: the loss is the mean over tokens
    labels = [sum(label != -100 for label in row["labels"]) for row in rows]
    nll = sum(n * loss for n, loss in zip(labels, lm.losses(rows), strict=True)) / sum(labels)
    assert nll == pytest.approx(losses[best], rel=1e-3)
    assert nll < losses[max(losses)] - 1e-3


def test_the_report_has_both_curves(evaluated):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert "validation loss of SFT" in page
    assert "validation loss of LWF" in page


def test_a_repeated_command_keeps_everything_and_a_changed_one_is_refused(evaluated, tiny, data):
    words = flags(tiny, data, evaluated, **CHANGES)
    status, _, error = letgo("run", *words)
    assert status == 0
    assert "train: done before, kept" in error
    status, _, error = letgo("run", *words, "--early_stopping_patience", 4)
    assert status == 2
    assert "early_stopping_patience=3" in error


@pytest.mark.parametrize("at", [1, 4, -2, -1])
@pytest.mark.parametrize("model", ["probe", "lwf"])
def test_interrupted_after_a_checkpoint_and_resumed(evaluated, tmp_path, monkeypatch, model, at):
    """Early, at an evaluation, and just before the end; the folder is moved in between."""
    stage = {"probe": "probe", "lwf": "train"}[model]
    out = shutil.copytree(evaluated, tmp_path / "out")
    forget_stage(out, stage, model)
    saved = []
    on_save = fit._TimedCheckpoint.on_save
    end = max(validation_losses(evaluated, model))
    # A checkpoint after every step, but for the evaluation that stops the training.
    last = at if at > 0 else end + at

    def save(self, arguments, state, *others, **more):
        on_save(self, arguments, state, *others, **more)
        saved.append(state.global_step)
        if state.global_step == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit._TimedCheckpoint, "on_save", save)
        assert letgo(stage, "--output_dir", out)[0] == 130
    assert saved == list(range(1, last + 1))
    moved = out.rename(tmp_path / "moved")
    status, _, error = letgo(stage, "--output_dir", moved)
    assert status == 0, error
    assert log_of(moved, model)[:-1] == log_of(evaluated, model)[:-1]
    one, other = (load_file(f / model / "model.safetensors") for f in (moved, evaluated))
    assert all((one[name] == other[name]).all() for name in other)


def forget_stage(folder, stage, model):
    """Remove the outputs of a stage."""
    record = json.loads((folder / "stages.json").read_text())
    record.pop(stage)
    (folder / "stages.json").write_text(json.dumps(record))
    shutil.rmtree(folder / model)
    (folder / LOGS[model]).unlink(missing_ok=True)


def test_evaluations_alone_change_no_weight(finished, tiny, data, tmp_path):
    """Without --load_best_model_at_end and early stopping the models are the same."""
    out = tmp_path / "out"
    words = flags(tiny, data, out, eval_strategy="epoch")
    status, _, error = letgo("run", *words)
    assert status == 0, error
    for model in LOGS:
        assert len(validation_losses(out, model)) == 2
        one, other = (load_file(f / model / "model.safetensors") for f in (out, finished))
        assert all((one[name] == other[name]).all() for name in other)
    # There are as many epochs in either, and they end after as many learning steps.
    epochs = [[r["epoch"] for r in log_of(out, m) if "eval_loss" in r] for m in LOGS]
    assert epochs == [[1.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"load_best_model_at_end": "true"}, "--load_best_model_at_end True needs evaluations"),
        ({"early_stopping_patience": 2}, "--early_stopping_patience 2 needs evaluations"),
        ({"early_stopping_patience": -1}, "--early_stopping_patience must be 0 (off) or more"),
        (
            {"eval_strategy": "epoch", "metric_for_best_model": "bleu"},
            "--metric_for_best_model must be one of loss, mean_token_accuracy, entropy, not bleu",
        ),
        ({"eval_strategy": "sometimes"}, "--eval_strategy"),
    ],
)
def test_settings_that_need_others(tiny, data, tmp_path, changes, message):
    status, _, error = letgo("run", *flags(tiny, data, tmp_path / "out", **changes))
    assert (status, error.count("\n")) == (2, 1)
    assert message in error
