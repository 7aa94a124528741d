"""Failures that a user can mend, in one sentence each; every other failure is a bug of letgo."""

import errno
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from json import JSONDecodeError
from pathlib import Path

from pyarrow import ArrowInvalid
from safetensors import SafetensorError

from letgo.cli.flags import parse_early
from letgo.errors import InputError, first_line, hub_remedy, missing_package, printable
from letgo.unlearning.guards import Diverged

# Some libraries report a full disk without its error number: the free space is checked, too.
NEARLY_FULL = 8 << 20  # bytes
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory")
# Packages that send a training's log elsewhere, by `--report_to`.
TRACKERS = {"azureml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flytekit"}
TRACKERS |= {"mlflow", "neptune", "swanlab", "trackio", "wandb"}


def explain(error: Exception, arguments: Sequence[str]) -> str | None:
    """What happened and what to do next; None for a bug, which needs its traceback."""
    if isinstance(error, Diverged):
        return str(error)
    folder = _output_folder(arguments)
    causes = list(_causes(error))
    if any(_is_disk_full(cause) for cause in causes) or _no_space_left(error, folder):
        return (
            "the disk is full; free some space and run the same command again: it resumes from the "
            "last finished stage or checkpoint"
        )
    if any(isinstance(c, MemoryError) or any(m in str(c) for m in MEMORY) for c in causes):
        return (
            "out of memory; lower --per_device_train_batch_size, --tokens_per_batch or "
            "--generation_batch_size, or use --use_peft, then run the same command again"
        )
    # Not the errors that were being handled when a bug came up, but those it was raised from.
    for cause in _causes(error, only_explicit=True):
        for explained in (_library, _template, _encoding, _damaged):
            if message := explained(cause):
                return message
        if isinstance(cause, OSError) and (message := _path(cause, folder)):
            return message
    return None


def report_bug(error: Exception, arguments: Sequence[str]) -> None:
    """Print the traceback of a bug, and how to report it."""
    print(printable("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    words = list(arguments)
    for index, word in enumerate(words):
        name = word.lstrip("-").replace("-", "_").partition("=")
        if name[0] == "hub_token":
            if name[1]:
                words[index] = "--hub_token=HIDDEN"
            elif index + 1 < len(words):
                words[index + 1] = "HIDDEN"
    line = (
        f"letgo: this is a bug in letgo {metadata.version('letgo')} ({type(error).__name__}: "
        f"{first_line(error)}); please open an issue with the lines above and the command "
        f"`letgo {shlex.join(words)}`"
    )
    print(printable(" ".join(line.split())), file=sys.stderr)


def _causes(error: BaseException | None, only_explicit: bool = False) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if only_explicit else error.__context__)


def _output_folder(arguments: Sequence[str]) -> Path | None:
    with suppress(InputError):
        name = parse_early(arguments).output_dir
        return Path(name) if name else None
    return None


def _is_disk_full(error: BaseException) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return number in DISK_FULL or "No space left on device" in str(error)


def _no_space_left(error: Exception, folder: Path | None) -> bool:
    """Whether a writer failed and the disk of the output folder is (nearly) full."""
    if not isinstance(error, OSError | RuntimeError | SafetensorError):
        return False
    place = folder or Path()
    with suppress(OSError):
        while not place.exists():
            place = place.parent
        usage = shutil.disk_usage(place)
        return usage.total > 0 and usage.free < NEARLY_FULL  # /proc has no space at all
    return False


def _library(error: BaseException) -> str | None:
    """A package that is missing, a tracker that refuses, or a hub that cannot be reached."""
    if package := missing_package(error):
        return f"{package}, or leave out the setting that needs it"
    if remedy := hub_remedy(error):
        return f"{first_line(error)}: {remedy}"
    module = type(error).__module__.split(".")[0]
    if module in TRACKERS:
        return f"--report_to: {module}: {first_line(error)}; mend that, or add --report_to none"
    return None


def _template(error: BaseException) -> str | None:
    """A chat template that has a syntax error, raises, or is stopped by the sandbox."""
    frames = traceback.extract_tb(error.__traceback__)
    if type(error).__module__ == "jinja2.exceptions" or "<template>" in {
        f.filename for f in frames
    }:
        return (
            f"--model: its chat template fails: {first_line(error)}; mend it, or give another by "
            f"--chat_template_path FILE"
        )
    return None


def _encoding(error: BaseException) -> str | None:
    """Text that the locale cannot write, or a path that no system takes."""
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        return (
            f"the locale's encoding is {sys.getfilesystemencoding()}, which cannot write "
            f"{error.object[error.start : error.end]}; set PYTHONUTF8=1"
        )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a path contains a NUL character; remove it"
    return None


def _damaged(error: BaseException) -> str | None:
    """A file that is cut short, or has other content than its name says."""
    reads_table = any("parquet" in file and "write" not in name for file, name in _frames(error))
    is_table = (
        isinstance(error, ArrowInvalid | OSError)
        and reads_table
        and not getattr(error, "errno", None)
    )
    if (
        isinstance(error, JSONDecodeError | SafetensorError)
        or is_table
        or "PytorchStreamReader" in str(error)
    ):
        return (
            f"a file that letgo reads is damaged: {first_line(error)}; replace your own file, or "
            f"remove a file of the run folder and run the same command: its stage makes it again"
        )
    return None


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """The file and the function of every call in an error's traceback."""
    return [(frame.filename, frame.name) for frame in traceback.extract_tb(error.__traceback__)]


def _path(error: OSError, folder: Path | None) -> str | None:
    """A path that cannot be used, or a folder that is gone."""
    path = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
    inside = folder is not None and (path is None or _is_about(path, folder.absolute()))
    if isinstance(error, FileNotFoundError):
        if inside and folder is not None and not folder.exists():
            return (
                f"--output_dir: {folder} cannot be made, or was removed or renamed while letgo was "
                f"at work; give a folder that can be written, or run the same command again"
            )
        if path is not None and (inside or not path.parent.exists()):
            return f"{path}: it was removed while letgo was at work; run the same command again"
        return None  # letgo looks before it reads: this is a bug
    if path is None or error.strerror is None:
        return None
    if inside:
        return f"--output_dir: {path}: {error.strerror}; choose another --output_dir, or mend it"
    return f"{path}: {error.strerror}; mend that, or choose another place for it"


def _is_about(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, or one of the folders above it."""
    return path.is_relative_to(folder) or folder.is_relative_to(path)
