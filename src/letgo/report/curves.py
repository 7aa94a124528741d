"""Loss curves and guard counts of a training log, over learning steps."""

from typing import NamedTuple

from letgo.run.folder import Row

Guards = dict[str, tuple[list[int], list[int]]]  # steps and counts, by guard


class TrainingCurves(NamedTuple):
    """The curves of one training, over learning steps, so that SFT and LWF can be compared.

    Attributes:
        learning: learning steps and the learning loss logged there.
        unlearning: learning steps and the NLL of the texts unlearned there.
        unlearning_steps: number of unlearning steps.
        validation: learning steps and the loss on the validation set there, where the model was
            evaluated while it trained.
        guards: by guard, the learning steps at which it acted and its counts there: "skipped" texts
            were above the ceiling, "clipped" steps had their gradient clipped, "paused" steps were
            left out because the learning loss had risen, "idle" steps had no text that helps.
    """

    learning: tuple[list[int], list[float]]
    unlearning: tuple[list[int], list[float]]
    unlearning_steps: int
    guards: Guards
    validation: tuple[list[int], list[float]] = ([], [])


def read_curves(log: list[Row]) -> TrainingCurves:
    """The curves of a training log, whose steps count learning, unlearning and keeping together.

    `log` holds the lines of `train_log.jsonl` in order; any key may be missing.
    """
    learning: tuple[list[int], list[float]] = ([], [])
    unlearning: tuple[list[int], list[float]] = ([], [])
    validation: tuple[list[int], list[float]] = ([], [])
    curves = ((learning, "loss"), (unlearning, "unlearn/nll"), (validation, "eval_loss"))
    guards: Guards = {name: ([], []) for name in ("skipped", "clipped", "paused", "idle")}
    unlearning_steps = keep_steps = 0
    for line in log:
        if "step" not in line:
            continue
        unlearning_steps = int(line.get("unlearn/steps") or unlearning_steps)
        keep_steps = int(line.get("keep/steps") or keep_steps)
        learning_step = line["step"] - unlearning_steps - keep_steps
        # The mean NLL over no texts is logged as zero.
        idle = line.get("unlearn/nll") == 0
        for name, (steps, counts) in guards.items():
            if count := int(idle if name == "idle" else line.get(f"unlearn/{name}") or 0):
                steps.append(learning_step)
                counts.append(count)
        for curve, key in curves:
            if line.get(key) is not None and not (idle and curve is unlearning):
                curve[0].append(learning_step)
                curve[1].append(float(line[key]))
    unlearning_steps = max(unlearning_steps, len(unlearning[0]))
    return TrainingCurves(learning, unlearning, unlearning_steps, guards, validation)
