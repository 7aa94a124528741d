"""Stage 2a: the learning task's optimum, by fine-tuning (the SFT baseline) or by a gradient."""

import copy
from dataclasses import replace
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file

from letgo.run.base import load_base
from letgo.run.folder import PROBE, TRAIN_LOG
from letgo.run.inputs import Run
from letgo.scoring.weights import scored_weights
from letgo.stages.fit import SFT, fit
from letgo.stages.optimum import GRADIENT, mean_gradient


def probe(run: Run, scratch: Path) -> None:
    """Write `probe/`: the optimum of the learning task, as `--optimum` chooses it.

    `full` is plain fine-tuning with the settings of the run, which is also its baseline; `steps:N`
    the first N steps of it; `lora` an adapter on all linear layers at ten times the learning rate;
    `gradient` only the mean learning gradient at the base model.
    """
    optimum, folder = run.settings.optimum, scratch / PROBE.name
    if optimum == "gradient":
        folder.mkdir()
        lm = load_base(run.config)
        gradient = mean_gradient(run, lm, scored_weights(lm.model))
        save_file({name: g.cpu() for name, g in gradient.items()}, folder / GRADIENT)
        return
    training, lora = copy.deepcopy(run.training), None
    if optimum.startswith("steps:"):
        training.max_steps = int(optimum.removeprefix("steps:"))
        training.eval_strategy, training.load_best_model_at_end = "no", False
    if optimum == "lora":
        lora = LoraConfig(target_modules="all-linear", r=16, lora_alpha=32, task_type="CAUSAL_LM")
        training.learning_rate *= 10
    changed = replace(run, config=run.config._replace(training=training))
    fit(changed, scratch, folder, SFT, adapter=lora)
    (scratch / TRAIN_LOG.name).rename(folder / TRAIN_LOG.name)
