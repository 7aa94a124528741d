"""Commands that are killed at a file operation, and started again."""

import random
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from faults import forks
from faults.forks import Kill
from faults.runs import OUT, STORE, results, run_words, start_from, study_words

SECOND_KILL = 1 / 3  # the share of attempts that are killed twice


class Scenario(NamedTuple):
    """A command that is killed.

    Args:
        words: its command line.
        template: the folder that it starts from; None for an empty one.
        operations: those of an uninterrupted attempt.
        expected: `results` of an uninterrupted attempt.
    """

    words: list[str]
    template: Path | None
    operations: list[str]
    expected: dict[str, str]


def scenario(root: Path, name: str) -> Scenario:
    """One of the commands, after an uninterrupted attempt, which is kept below `root`.

    `run` and `study` begin with nothing, `shared` with an empty store, `taken` with a full one,
    `overwrite` in the folder of a run with another seed.

    Raises:
        AssertionError: the uninterrupted command failed.
    """
    template, words = None, run_words()
    if name == "study":
        words = study_words()
    elif name == "other":
        words = run_words(seed=7)
    elif name in ("shared", "taken"):
        words = run_words(shared=STORE)
    elif name == "overwrite":
        scenario(root, "other")
        template, words = root / "template-other", [*words, "--overwrite", "true"]
    if name == "taken":
        scenario(root, "shared")
        template = start_from(root / "template-shared", root / "template-filled")
        shutil.rmtree(template / OUT)
    folder = root / f"template-{name}"
    ended = folder / "log" / "ended"  # by an earlier call
    if not ended.exists():
        done = forks.run(start_from(template, folder), words)
        assert done.status == 0, done.error
        ended.touch()
    forks.preload_all_of(folder)
    operations = (folder / "log" / "operations").read_text().splitlines()
    return Scenario(words, template, operations, results(folder))


def by_stage(operations: list[str]) -> dict[str, list[int]]:
    """The numbers of a command's operations, by the stage that they belong to.

    The removal of a folder's content names only the last part of each path: it belongs to the stage
    of the operation before it.
    """
    stages: dict[str, list[int]] = {}
    stage = "start"
    for number, operation in enumerate(operations):
        parts = operation.split(" ")[-1].split("/")
        names = [part.removesuffix(".part") for part in parts if part.endswith(".part")]
        if names and "." not in names[0]:
            stage = names[0].split("-")[0]
        elif len(parts) > 1 and parts[1] in ("cells", "results.json.part", "results.md"):
            stage = "study"
        stages.setdefault(stage, []).append(number)
    return stages


def places(operations: list[str], seed: int) -> list[tuple[str, list[int]]]:
    """Where a command can be killed, in a random order, each with the stage that it belongs to.

    Operations of a stage that differ only in a number, such as those of its checkpoints, are one
    place.
    """
    alike: dict[tuple[str, str], list[int]] = {}
    for stage, numbers in by_stage(operations).items():
        for number in numbers:
            key = stage, re.sub("[0-9]+", "0", operations[number])
            alike.setdefault(key, []).append(number)
    order = [(stage, numbers) for (stage, _), numbers in alike.items()]
    random.Random(seed).shuffle(order)
    return order


def attempt(scenario: Scenario, number: int, folder: Path, seed: int) -> dict[str, Any]:
    """Kill the command once or twice, then let it end; what became of it, as a row of a log.

    Attempts with successive numbers kill it at all places, one after the other.
    """
    draw = random.Random(f"{seed} {number}")
    order = places(scenario.operations, seed)
    stage, numbers = order[number % len(order)]
    kill = Kill.drawn(draw, draw.choice(numbers))
    row = {"stage": stage, "operation": scenario.operations[kill.at], **kill._asdict()}
    start_from(scenario.template, folder)
    done = forks.run(folder, scenario.words, kill)
    killed = [done.status]
    if draw.random() < SECOND_KILL:
        again = Kill.drawn(draw, draw.randrange(len(scenario.operations)))
        row["again"] = again._asdict()
        done = forks.run(folder, scenario.words, again)
        killed.append(done.status)
    # A study whose run was killed ends with an error, and says that it can be started again.
    done = forks.run(folder, scenario.words)
    found = results(folder)
    left = sorted(set(found) - set(scenario.expected))
    differ = sorted(n for n, digest in scenario.expected.items() if found.get(n) != digest)
    stuck = done.stuck or done.status != 0
    row |= {"killed": killed, "same_result": not stuck and not differ, "differ": differ[:5]}
    row |= {"scratch_left": left[:5], "stuck": stuck}
    return row | ({"error": done.error[-2000:]} if stuck else {})
