"""What a training log tells: curves over learning steps, and counts of unlearning."""

from typing import Any, NamedTuple


class Training(NamedTuple):
    """A run of training as curves; every step is a learning step, so that runs compare.

    Attributes:
        learning: learning steps done and the loss logged there.
        unlearning: learning steps done and the NLL of the texts unlearned there.
        unlearning_steps: how many unlearning steps were taken.
        guards: learning steps done when a guard acted, and how often it did there: "skipped" texts
            were above the ceiling, "clipped" steps had a gradient above its bound, "paused" ones
            were left out because the learning loss had risen, "idle" ones found no text that helps.
    """

    learning: tuple[list[int], list[float]]
    unlearning: tuple[list[int], list[float]]
    unlearning_steps: int
    guards: dict[str, tuple[list[int], list[int]]]


def read_curves(log: list[dict[str, Any]]) -> Training:
    """Return the curves of a training log, whose own steps count learning and unlearning.

    Args:
        log: the lines of `train_log.jsonl` in order; keys a line lacks are passed over.
    """
    learning: tuple[list[int], list[float]] = ([], [])
    unlearning: tuple[list[int], list[float]] = ([], [])
    guards: dict[str, tuple[list[int], list[int]]]
    guards = {name: ([], []) for name in ("skipped", "clipped", "paused", "idle")}
    unlearned = 0
    for line in log:
        if "step" not in line:
            continue
        unlearned = int(line.get("unlearn/steps") or unlearned)
        done = line["step"] - unlearned
        # The mean over no texts is logged as zero.
        idle = line.get("unlearn/nll") == 0
        for name, (steps, counts) in guards.items():
            if count := int(idle if name == "idle" else line.get(f"unlearn/{name}") or 0):
                steps.append(done)
                counts.append(count)
        for curve, key in ((learning, "loss"), (unlearning, "unlearn/nll")):
            if line.get(key) is not None and not (idle and curve is unlearning):
                curve[0].append(done)
                curve[1].append(float(line[key]))
    return Training(learning, unlearning, max(unlearned, len(unlearning[0])), guards)
