"""The commands that only read runs; they need neither torch nor the settings of a run."""

import math
from argparse import ArgumentTypeError
from pathlib import Path

from letgo.errors import Parser, requires_extra


def look(command: str, arguments: list[str]) -> None:
    """Parse the flags of a command that reads runs, and execute it.

    Raises:
        InputError: unusable flags, a folder that is not a run, or a missing extra.
    """
    looks = {"show": _show, "runs": _runs, "review": _review, "headroom": _headroom}
    looks["compare"] = _compare
    looks[command](arguments)


def _show(arguments: list[str]) -> None:
    from letgo.review.terminal import show

    parser = Parser(prog="letgo show", description="The texts of a run, most confident first.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="number of texts [20]")
    parser.add_argument("--set", default="", metavar="NAME", help="only this forgetting set")
    text = "only texts that match this regular expression, ignoring case"
    parser.add_argument("--grep", default="", metavar="RE", help=text)
    flags = parser.parse_args(arguments)
    if flags.top < 1:
        parser.error("--top must be 1 or more")
    show(flags.folder, flags.top, flags.set, flags.grep)


def _runs(arguments: list[str]) -> None:
    from letgo.review.terminal import runs

    parser = Parser(prog="letgo runs", description="Every run below a folder, with its verdict.")
    parser.add_argument("root", type=Path, nargs="?", default="runs", metavar="ROOT", help="[runs]")
    runs(parser.parse_args(arguments).root)


def _headroom(arguments: list[str]) -> None:
    from letgo.review.terminal import headroom

    text = "How often plain fine-tuning errs with the base model's own answer."
    parser = Parser(prog="letgo headroom", description=text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    headroom(parser.parse_args(arguments).folder)


def _compare(arguments: list[str]) -> None:
    text = (
        "The answers of B against those of A, by paired statistics. Both are run folders, or "
        "folders of runs that differ in their seeds, or JSONL files of answers."
    )
    parser = Parser(prog="letgo compare", description=text)
    text = "a folder or file; PATH:MODEL compares another model: base, sft, lwf [lwf] or returned"
    parser.add_argument("a", metavar="A", help=text)
    parser.add_argument("b", metavar="B", help="as A")
    text = "the difference worth finding: points, or hundredths of another metric's unit [2.0]"
    parser.add_argument("--difference", type=float, default=2.0, metavar="POINTS", help=text)
    text = "columns of JSONL files by letgo's names: id=question_id correct=acc reference=gold"
    parser.add_argument(
        "--columns",
        type=_column,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=COLUMN",
        help=text,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    flags = parser.parse_args(arguments)
    if not 0 < flags.difference < math.inf:
        parser.error("--difference must be above 0")
    # It imports torch, which takes seconds.
    from letgo.cli.comparing import print_comparison

    print_comparison(flags.a, flags.b, dict(flags.columns), flags.difference / 100, flags.json)


def _column(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise ArgumentTypeError(f"must be NAME=COLUMN, not {text}")
    return name, column


def _review(arguments: list[str]) -> None:
    text = "View in the browser which texts would be unlearned, and change the selection."
    parser = Parser(prog="letgo review", description=text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    text = "another run to compare with; may be repeated"
    parser.add_argument(
        "--compare", type=Path, action="append", default=[], metavar="OTHER", help=text
    )
    parser.add_argument("--port", type=int, default=0, help="[any free port]")
    text = "address to listen on [127.0.0.1]; others open the review to those who know its token"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    flags = parser.parse_args(arguments)
    with requires_extra("letgo review", "review"):
        from letgo.review.server import serve
    serve(flags.folder, flags.compare, flags.host, flags.port)
