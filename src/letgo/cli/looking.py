"""The commands that look at runs; they need neither torch nor the settings of a run."""

from pathlib import Path

from letgo.errors import Parser, missing_extra


def look(command: str, arguments: list[str]) -> None:
    """Parse, call, print.

    Raises:
        InputError: unusable flags, a folder that is no run, or an extra that is missing.
    """
    {"show": _show, "runs": _runs, "review": _review}[command](arguments)


def _show(arguments: list[str]) -> None:
    from letgo.review.terminal import show

    parser = Parser(prog="letgo show", description="The texts of a run, most confident first.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="so many texts [20]")
    parser.add_argument("--set", default="", metavar="NAME", help="only of this forgetting set")
    told = "only texts that hold this regular expression, in any case"
    parser.add_argument("--grep", default="", metavar="RE", help=told)
    given = parser.parse_args(arguments)
    if given.top < 1:
        parser.error("--top must be 1 or more")
    show(given.folder, given.top, given.set, given.grep)


def _runs(arguments: list[str]) -> None:
    from letgo.review.terminal import runs

    parser = Parser(prog="letgo runs", description="Every run below a folder, and its verdict.")
    parser.add_argument(
        "root", type=Path, nargs="?", default=Path("runs"), metavar="ROOT", help="[runs]"
    )
    runs(parser.parse_args(arguments).root)


def _review(arguments: list[str]) -> None:
    parser = Parser(
        prog="letgo review", description="See in the browser what would be forgotten, and decide."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    parser.add_argument("--compare", type=Path, metavar="OTHER", help="another run beside it")
    parser.add_argument("--port", type=int, default=0, help="[any that is free]")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; any but the default opens the review to "
        "others who know its token [127.0.0.1]",
    )
    given = parser.parse_args(arguments)
    try:
        from letgo.review.server import serve
    except ModuleNotFoundError as error:
        raise missing_extra("letgo review", error, "review") from error
    serve(given.folder, given.compare, given.host, given.port)
