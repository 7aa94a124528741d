"""The commands that use the models of a finished run: chat, merge and push."""

from collections.abc import Sequence
from pathlib import Path

from letgo.errors import Parser

MODELS = ("base", "sft", "lwf")


def use(command: str, arguments: Sequence[str]) -> None:
    """Parse the flags of `chat`, `merge` or `push`, and execute it.

    Raises:
        InputError: unusable flags, or a folder without the models.
    """
    {"chat": _chat, "merge": _merge, "push": _push}[command](arguments)


def _chat(arguments: Sequence[str]) -> None:
    text = "Talk to the models of a run: base, plain fine-tuning (sft) and LWF, side by side."
    parser = Parser(prog="letgo chat", description=text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    text = "which of base, sft and lwf answer [all that the run has]"
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[], help=text)
    text = "answer this and end; may be repeated, as the messages of one conversation"
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help=text)
    text = "longest answer in tokens [256]"
    parser.add_argument("--max_new_tokens", type=int, default=256, metavar="N", help=text)
    flags = parser.parse_args(list(arguments))
    if flags.max_new_tokens < 1:
        parser.error("--max_new_tokens must be 1 or more")
    from letgo.cli.chat import chat

    chat(flags.folder, flags.models, flags.prompt, flags.max_new_tokens)


def _merge(arguments: Sequence[str]) -> None:
    text = "Merge the adapter of a run into the weights of its base model."
    parser = Parser(prog="letgo merge", description=text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    text = "folder for the whole model [DIR/merged]"
    parser.add_argument("--to", type=Path, metavar="FOLDER", help=text)
    text = "store the weights in this precision [float32]"
    choices = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=choices, default="float32", help=text)
    flags = parser.parse_args(list(arguments))
    from letgo.cli.merging import merge

    merge(flags.folder, flags.to or flags.folder / "merged", flags.dtype)


def _push(arguments: Sequence[str]) -> None:
    text = (
        "Upload the model that a run returned to the Hugging Face Hub, with a card that shows what "
        "was learned, let go and kept. Without --yes it only prints what would be uploaded."
    )
    parser = Parser(prog="letgo push", description=text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's --output_dir")
    parser.add_argument("repository", metavar="USER/NAME", help="the repository on the hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--yes", action="store_true", help="upload")
    flags = parser.parse_args(list(arguments))
    from letgo.cli.pushing import push

    push(flags.folder, flags.repository, flags.private, flags.yes)
