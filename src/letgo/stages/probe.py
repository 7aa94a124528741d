"""Stage 2a: the learning task's optimum, and the way to it from the base model."""

import copy
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file

from letgo.run.base import load_base
from letgo.run.inputs import Run
from letgo.scoring.weights import scored_weights
from letgo.stages.fit import fit
from letgo.stages.optimum import mean_gradient


def probe(run: Run, scratch: Path) -> None:
    """Write `probe/`: the optimum of the learning task, as `--optimum` says.

    `full` is plain fine-tuning with the settings of the run, which is also its baseline; `steps:N`
    the first N steps of it; `lora` an adapter on all linear layers at ten times the learning rate;
    `gradient` the mean learning gradient at the base model alone.
    """
    settings = run.settings
    if settings.optimum == "gradient":
        (scratch / "probe").mkdir(exist_ok=True)
        model = load_base(run.config)
        gradient = mean_gradient(run, model, scored_weights(model))
        save_file(
            {n: g.cpu() for n, g in gradient.items()}, scratch / "probe" / "gradient.safetensors"
        )
        return
    training, adapter = copy.deepcopy(run.training), None
    if settings.optimum.startswith("steps:"):
        training.max_steps = int(settings.optimum.removeprefix("steps:"))
    if settings.optimum == "lora":
        adapter = LoraConfig(
            target_modules="all-linear", r=16, lora_alpha=32, task_type="CAUSAL_LM"
        )
        training.learning_rate *= 10
    shorter = Run(**{**vars(run), "config": run.config._replace(training=training)})
    fit(shorter, scratch, scratch / "probe", "fine-tune (SFT)", adapter=adapter)
    (scratch / "train_log.jsonl").rename(scratch / "probe" / "train_log.jsonl")
