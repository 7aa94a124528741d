"""What a training log tells: curves over learning steps, and counts of unlearning."""

from typing import Any, NamedTuple


class Training(NamedTuple):
    """A run of training as curves; every step is a learning step, so that runs compare.

    Attributes:
        learning: learning steps done and the loss logged there.
        unlearning: learning steps done and the NLL of the texts unlearned there.
        unlearning_steps: how many unlearning steps were taken.
        skipped: how many texts were left out of logged unlearning steps as above the ceiling.
        clipped: how many logged unlearning steps were clipped to their own gradient norm.
        paused: how many were left out because the learning loss had risen.
    """

    learning: tuple[list[int], list[float]]
    unlearning: tuple[list[int], list[float]]
    unlearning_steps: int
    skipped: int
    clipped: int
    paused: int


def follow(log: list[dict[str, Any]]) -> Training:
    """Return the curves of a training log, whose own steps count learning and unlearning.

    Args:
        log: the lines of `train_log.jsonl` in order; keys a line lacks are passed over.
    """
    learning: tuple[list[int], list[float]] = ([], [])
    unlearning: tuple[list[int], list[float]] = ([], [])
    unlearned, acted = 0, {"skipped": 0, "clipped": 0, "paused": 0}
    for line in log:
        if "step" not in line:
            continue
        unlearned = int(line.get("unlearn/steps") or unlearned)
        for guard in acted:
            acted[guard] += int(line.get(f"unlearn/{guard}") or 0)
        for curve, key in ((learning, "loss"), (unlearning, "unlearn/nll")):
            if line.get(key) is not None:
                curve[0].append(line["step"] - unlearned)
                curve[1].append(float(line[key]))
    return Training(learning, unlearning, max(unlearned, len(unlearning[0])), **acted)
