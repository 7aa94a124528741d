"""Give names to the metrics in cell files of an earlier letgo.

usage: python studies/convert_cells.py FOLDER   converts FOLDER/*.json, once or again

Before, a cell file had `{id: [correct, reference_nll]}` for every model and set; now it has
`{"ids": [...], "correct": [...], "reference_nll": [...]}`.
"""

import argparse
from pathlib import Path

from letgo.run.folder import read_json, write_json

METRICS = ("correct", "reference_nll")


def main() -> None:
    """Convert the files of a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for file in sorted(parser.parse_args().folder.glob("*.json")):
        cell = read_json(file)
        for sets in cell["answers"].values():
            for name, answers in sets.items():
                if "ids" not in answers:
                    columns = zip(*answers.values(), strict=True)
                    values = dict(zip(METRICS, map(list, columns), strict=True))
                    sets[name] = {"ids": list(answers), **values}
        write_json(file, cell, indent=None)


if __name__ == "__main__":
    main()
