"""Kill letgo, damage its files, give it nonsense to read, and record what becomes of it.

usage: PYTHONPATH=tests python -m faults [--kills 500] [--corruptions 300] [--fuzz 50000] [--jobs 2]

The figures go to benchmarks/results/faults.json, attempts to runs/faults/REVISION/attempts.jsonl.
An interrupted call goes on where it stood. The exit status is 1 if anything went wrong.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

# Before torch: a process that has threads cannot be forked.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from machine import machine

from faults import corruptions, forks, kills, runs
from faults.fuzz import TARGETS, fuzz
from letgo.run.provenance import git_revision, versions

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.json"
BLOCK = 500  # fuzzed inputs at a time
# How often which command is killed; `make test` kills the first only.
SCENARIOS = ("shared", "run", "taken", "study", "overwrite", "shared", "run", "study")


class Task(NamedTuple):
    """One attempt, or one block of fuzzed inputs; `what` is a scenario or a target."""

    kind: str
    what: str
    number: int
    count: int = 1


def main() -> None:
    """Do what is left to do, and write the JSON."""
    flags = _parse()
    root = (flags.folder / str(git_revision())).resolve()
    root.mkdir(parents=True, exist_ok=True)
    log = root / "attempts.jsonl"
    rows = _read(log)
    done = {(row["kind"], row["what"], row["number"]) for row in rows}
    tasks = _tasks(flags)
    remaining = [task for task in tasks if task[:3] not in done]
    rows = [row for row in rows if (row["kind"], row["what"], row["number"]) in _keys(tasks)]
    print(f"{len(tasks) - len(remaining)} of {len(tasks)} done before; {log}", flush=True)
    if remaining:
        forks.preload()
        worker = Worker(root, flags.seed, {task.what for task in tasks}, flags.finished_only)
        rows += _work(worker, remaining, flags.jobs, log)
    figures = _figures(rows)
    print(json.dumps(figures, indent=1))
    if flags.results:
        origin = {"machine": machine(), "versions": versions(), "git_revision": git_revision()}
        flags.results.write_text(json.dumps({**figures, **origin}, indent=1) + "\n")
    sys.exit(int(_is_bad(figures)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=set(SCENARIOS))
    parser.add_argument("--corruptions", type=int, default=300)
    text = "damage the uninterrupted run, but no interrupted ones and no shared store"
    parser.add_argument("--finished_only", action="store_true", help=text)
    parser.add_argument("--fuzz", type=int, default=50000, help="inputs of each of four kinds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def _tasks(flags: argparse.Namespace) -> list[Task]:
    names = flags.scenarios
    counts: Counter[str] = Counter()
    tasks = []
    for name in itertools.islice(itertools.cycle(names), flags.kills):
        tasks.append(Task("kill", name, counts[name]))
        counts[name] += 1
    tasks += [Task("corruption", "file", i) for i in range(flags.corruptions)]
    for name in TARGETS:
        for number, start in enumerate(range(0, flags.fuzz, BLOCK)):
            tasks.append(Task("fuzz", name, number, min(BLOCK, flags.fuzz - start)))
    return tasks


def _keys(tasks: list[Task]) -> set[tuple[str, str, int]]:
    return {task[:3] for task in tasks}


def _read(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]


class Worker:
    """Makes the commands' undisturbed runs once; then every process tries its tasks on copies."""

    def __init__(self, root: Path, seed: int, wanted: set[str], finished_only: bool):
        self.root, self.seed = root, seed
        if not wanted.isdisjoint({*SCENARIOS, "file"}):
            runs.write_inputs(root)
        self.scenarios = {name: kills.scenario(root, name) for name in wanted & set(SCENARIOS)}
        self.damaged = corruptions.damaged(root, finished_only) if "file" in wanted else None

    def __call__(self, task: Task) -> dict[str, Any]:
        """One row of the log."""
        folder, start = self.root / f"attempt-{os.getpid()}", time.monotonic()
        if task.kind == "kill":
            row = kills.attempt(self.scenarios[task.what], task.number, folder, self.seed)
        elif task.kind == "corruption":
            draw = random.Random(f"{self.seed} {task.number}")
            case = corruptions.draw_case(self.damaged.cases, draw)
            row = corruptions.attempt(self.damaged, case, folder, draw)
        else:
            row = fuzz(task.what, task.count, 1000 * self.seed + task.number)
        return {**task._asdict(), **row, "seconds": round(time.monotonic() - start, 1)}


def _work(worker: Worker, tasks: list[Task], jobs: int, log: Path) -> list[dict[str, Any]]:
    """The rows of these tasks, each also written to the log and, if something is wrong, printed."""
    rows: list[dict[str, Any]] = []
    start = time.monotonic()
    # Workers inherit everything: nothing is imported or made twice.
    context = multiprocessing.get_context("fork")
    _PROCESS["worker"] = worker
    with (
        context.Pool(jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool,
        log.open("a") as lines,
    ):
        for row in pool.imap_unordered(_run, tasks):
            rows.append(row)
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            seconds = (time.monotonic() - start) / len(rows) * (len(tasks) - len(rows))
            if _is_bad(_figures([row])) or len(rows) % 20 == 0:
                text = json.dumps(row)[:1500] if _is_bad(_figures([row])) else ""
                print(f"{len(rows)}/{len(tasks)}, {seconds / 60:.0f} min left {text}", flush=True)
    return rows


_PROCESS: dict[str, Worker] = {}


def _run(task: Task) -> dict[str, Any]:
    return _PROCESS["worker"](task)


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all attempts."""
    killed = [row for row in rows if row["kind"] == "kill"]
    outcomes = Counter(row["outcome"] for row in rows if row["kind"] == "corruption")
    fuzzed = [row for row in rows if row["kind"] == "fuzz"]
    return {
        "kills": {
            "attempts": len(killed),
            "same_result": sum(row["same_result"] for row in killed),
            "scratch_left": sum(bool(row["scratch_left"]) for row in killed),
            "stuck": sum(row["stuck"] for row in killed),
            "by_command": dict(Counter(row["what"] for row in killed)),
            "by_stage": dict(Counter(row["stage"] for row in killed)),
        },
        "corruptions": {
            "attempts": outcomes.total(),
            "right": outcomes["right"],
            "refused": outcomes["refused"],
            "silent": outcomes["silent"],
            "tracebacks": outcomes["traceback"],
            "stuck": outcomes["stuck"],
        },
        "fuzz": {
            name: {
                key: sum(row[key] for row in fuzzed if row["what"] == name)
                for key in ("attempts", "other_exceptions")
            }
            for name in TARGETS
        },
    }


def _is_bad(figures: dict[str, Any]) -> bool:
    killed, damaged = figures["kills"], figures["corruptions"]
    wrong = killed["attempts"] - killed["same_result"] + killed["scratch_left"] + killed["stuck"]
    wrong += damaged["silent"] + damaged["tracebacks"] + damaged["stuck"]
    return bool(wrong + sum(row["other_exceptions"] for row in figures["fuzz"].values()))


if __name__ == "__main__":
    main()
