"""The numbers in the README against the committed results."""

import json
from pathlib import Path

from letgo.cli.tables import result_table

ROOT = Path(__file__).parents[1]


def test_the_demo_table_matches_the_committed_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    result = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    assert result_table(result["metrics"]) in readme
    assert f"{result['seconds']} seconds and {result['peak_memory_mb'] / 1000:.1f} GB" in readme


def test_the_first_two_code_blocks_are_make_demo_and_make_test():
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```bash\n")[1:3]
    assert [block.split()[:2] for block in blocks] == [["make", "demo"], ["make", "test"]]
