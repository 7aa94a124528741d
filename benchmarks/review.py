"""How long the review takes for a hundred thousand texts.

usage: python benchmarks/review.py [--texts 100000]   writes benchmarks/results/review.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from machine import machine

from letgo.review import html as pieces
from letgo.review import view
from letgo.review.query import Query
from letgo.review.session import Review
from letgo.review.view import Look
from letgo.run import decisions
from letgo.run.provenance import git_revision, versions

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.review_runs import write_texts

RESULTS = Path(__file__).parent / "results" / "review.json"
REPEATS = 9


def milliseconds(work: Callable[[], Any]) -> dict[str, float]:
    """Median and slowest of several calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return {"median": round(statistics.median(times), 1), "slowest": round(max(times), 1)}


def main() -> None:
    """Write a run of generated texts, and time what a reviewer does with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    count = parser.parse_args().texts
    with TemporaryDirectory() as place:
        folder = write_texts(Path(place) / "run", count)
        size = sum(file.stat().st_size for file in folder.iterdir())
        figures = measure(folder)
    result = {
        "texts": count,
        "megabytes": round(size / 1e6, 1),
        "repeats": REPEATS,
        "milliseconds": figures,
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of every act."""
    review = Review(folder)
    shares = iter([0.3, 0.5] * REPEATS)
    acts = iter([decisions.EXCLUDE, decisions.BY_SCORE] * REPEATS)
    trivia = view.found(review, Look(Query("trivia")))

    def show(look: Look) -> Callable[[], Any]:
        return lambda: (
            pieces.status(review),
            pieces.histogram(review),
            view.first_page(review, look),
        )

    command = [sys.executable, "-m", "letgo", "show", str(folder), "--grep", "mountain.*king"]
    return {
        "open the run": milliseconds(review.load),
        "first page": milliseconds(show(Look(Query()))),
        "last page": milliseconds(show(Look(Query(), page=10**6))),
        "filter by text": milliseconds(show(Look(Query(words="mountain KING")))),
        "filter by set": milliseconds(show(Look(Query("trivia")))),
        "order by length": milliseconds(show(Look(Query(sort="shortest first")))),
        "drag the threshold": milliseconds(lambda: pieces.histogram(review, 0.42)),
        "let go of the threshold": milliseconds(lambda: review.move(next(shares))),
        "decide on a third of the texts": milliseconds(
            lambda: review.decide(next(acts), trivia, "trivia")
        ),
        "undo": milliseconds(review.undo),
        "letgo show --grep": milliseconds(
            lambda: subprocess.run(command, check=True, capture_output=True)
        ),
    }


if __name__ == "__main__":
    main()
