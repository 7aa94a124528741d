"""Time and memory of reading and checking a million records.

usage: python benchmarks/reading.py [--records 1000000]   writes benchmarks/results/reading.json
"""

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine

from letgo.data.records import read_records

RESULTS = Path(__file__).parent / "results" / "reading.json"
CHARACTERS = 200  # of a prompt and its answer together
WORDS = [
    "river",
    "stone",
    "window",
    "garden",
    "letter",
    "travel",
    "silver",
    "market",
    "winter",
    "engine",
]


def pairs(count: int) -> Iterator[tuple[str, str]]:
    """Distinct prompts and answers of 200 characters in all."""
    rng = random.Random(0)
    for number in range(count):
        prompt = f"{number}: {' '.join(rng.choices(WORDS, k=24))}"[: CHARACTERS - 40]
        yield prompt, " ".join(rng.choices(WORDS, k=8))[:40].ljust(40, "x")


def strings(prompt: str, answer: str) -> dict[str, Any]:
    """A record of two strings."""
    return {"prompt": prompt, "completion": answer}


def messages(prompt: str, answer: str) -> dict[str, Any]:
    """The same record as two messages."""
    roles = (("user", prompt), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in roles]}


def write_jsonl(file: Path, form: Callable[[str, str], dict[str, Any]], count: int) -> None:
    """Write the records as JSON lines."""
    with file.open("w") as lines:
        lines.writelines(json.dumps(form(*pair)) + "\n" for pair in pairs(count))


def write_csv(file: Path, _: object, count: int) -> None:
    """Write the records as CSV."""
    with file.open("w") as lines:
        lines.write("prompt,completion\n")
        lines.writelines(f"{prompt},{answer}\n" for prompt, answer in pairs(count))


def write_parquet(file: Path, form: Callable[[str, str], dict[str, Any]], count: int) -> None:
    """Write the records as Parquet."""
    pq.write_table(pa.Table.from_pylist([form(*pair) for pair in pairs(count)]), file)


CASES = {
    "strings, JSON lines": ("jsonl", write_jsonl, strings),
    "strings, CSV": ("csv", write_csv, strings),
    "strings, Parquet": ("parquet", write_parquet, strings),
    "messages, JSON lines": ("jsonl", write_jsonl, messages),
}


def measure(file: str, results: Any) -> None:
    """Read a file; puts the number of records, seconds and peak memory of this process."""
    start, cpu = time.perf_counter(), time.process_time()
    count = len(read_records(file, "--learn", True))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    found = {
        "records": count,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        # Not that of `getrusage`, which begins with what the parent had.
        "peak_memory_mb": round(int(status.split("VmHWM:")[1].split()[0]) / 1e3),
    }
    results.put(found)


def main() -> None:
    """Write the files, read each in a process of its own, and write the results."""
    from letgo.run.provenance import git_revision, versions  # with torch, which no reader needs

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    count = parser.parse_args().records
    context, found = multiprocessing.get_context("spawn"), {}
    with TemporaryDirectory() as folder:
        for name, (suffix, write, form) in CASES.items():
            file = Path(folder) / f"records.{suffix}"
            write(file, form, count)
            results = context.Queue()
            process = context.Process(target=measure, args=(str(file), results))
            process.start()
            found[name] = {"megabytes": round(file.stat().st_size / 1e6), **results.get()}
            process.join()
            print(name, found[name], flush=True)
            file.unlink()
    result = {
        "records": count,
        "characters_of_a_record": CHARACTERS,
        "cases": found,
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
