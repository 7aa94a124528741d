"""A forgetting score of your own, in a whole run from the data to the report.

    python examples/own_score.py --output_dir runs/own_score

All further flags are those of `letgo run`, for example `--model` and `--max_learn`. The score is
named and explained in report.html, and is the column `confidence` of scores.parquet.
"""

import argparse
import sys
from pathlib import Path

from letgo.cli import main
from letgo.data.demo import generate_data
from letgo.scoring.scores import SCORES, LearningStats, Numbers, Score


def influence(text: Numbers, stats: LearningStats) -> float:
    """Minus the influence of a text on the learning loss (TracIn, arXiv 2002.08484): -<g_L, g_x>.

    Unlike the score `gradient` it does not divide by the lengths of the two gradients, and so
    prefers texts with a large gradient: those that the model finds unlikely.
    """
    return -text["learning"]


SCORES["influence"] = Score(
    influence,
    needs=frozenset({"learning"}),  # a number of scores.parquet: <g_L, g_x>
    meaning="how far a step of ascent on a text lowers the loss of the learning task",
    direction="learning",  # `letgo score --explain` splits this product by layer
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_dir", default="runs/own_score")
    options, flags = parser.parse_known_args()
    data = f"{options.output_dir}-data"
    generate_data(Path(data))
    # The settings of a small run; where a flag is given twice, the second value counts.
    sys.argv = ["letgo", "run", "--score", "influence", "--output_dir", options.output_dir]
    sys.argv += ["--learn", f"{data}/capitals.jsonl", "--learn_test", f"{data}/capitals_test.jsonl"]
    sys.argv += ["--forget", f"{data}/old_capitals.jsonl"]
    sys.argv += ["--learning_rate", "1e-4", "--num_train_epochs", "1", *flags]
    main()
