"""The command line. Nothing here imports torch before the command is known."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType

from letgo.errors import InputError, hub_remedy, printable

USAGE = """\
letgo: fine-tune a language model and let go of the knowledge that stands in the way
(Learning With Forgetting, arXiv 2505.19715; not Learning without Forgetting, LwF)

usage: letgo COMMAND [--FLAG VALUE ...]

  run        all stages below, in this order; resumes an interrupted run
  study      a grid of runs, with statistics: does forgetting help?
  demo       run on built-in data with the built-in model (5 to 10 minutes on two cores)
  review     view in the browser which texts would be unlearned, and change the selection
  show       print these texts
  runs       list every run below a folder, with its verdict
  audit      learning examples at odds with clean ones (--clean)  audit.parquet
  headroom   how much forgetting could improve the learning task of a run
  compare    two runs, or two files of answers: paired differences, and what is needed to find one
  chat       talk to base, SFT and LWF side by side
  merge      an adapter and its base model become one model
  push       upload the returned model to the Hub, with its outcomes (--yes; else a dry run)
  doctor     check versions, device, template, data and disk before a run

  elicit     1  the base model answers the forgetting prompts      self_knowledge.parquet
  keep       2  the base model answers the keep prompts            kept.parquet
  probe      3  the SFT baseline, or what --optimum selects        probe/
  fisher     4  Fisher information of the learning task            fisher.safetensors
  score      5  forgetting confidence of every text                scores.parquet
  select     6  the texts to unlearn, most confident first         selection.parquet
  baseline   7  evaluation of base and SFT, and the headroom       baseline.parquet, headroom.json,
                                                                   held_out.parquet
  train      8  fine-tuning with unlearning and keep steps         lwf/, train_log.jsonl
  relearn       how far old answers return (--relearn K)           relearned.parquet
  evaluate   9  evaluation of LWF, and the choice of SFT or LWF    metrics.json, answers.parquet,
                                                                   model/
  report    10  one page with figures                              report.html

example: letgo run --model smollm2-135m --learn train.jsonl --learn_test test.jsonl \\
                   --forget other.jsonl --output_dir runs/mine

letgo COMMAND --help lists every flag: letgo's own, LWFConfig and TRL's SFTConfig and ModelConfig.
A stage's command reads the settings of the run folder; flags override them.
"""
STAGES = (
    "elicit",
    "keep",
    "probe",
    "fisher",
    "score",
    "select",
    "baseline",
    "train",
    "relearn",
    "evaluate",
    "report",
)
LOOKING = ("review", "show", "runs", "headroom", "compare")
USING = ("chat", "merge", "push")
COMMANDS = ("run", "study", "demo", "doctor", "audit", *LOOKING, *USING, *STAGES)
LONGEST_LINE = 4000  # characters of an error message


def main() -> None:
    """Entry point of the `letgo` command.

    It exits with 2 on bad input, 1 on a bug, 130 when interrupted, 143 when terminated, and 141
    when the reader of its output has gone.
    """
    # No telemetry, and no messages of libraries that users cannot act on.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # It advises to install a package for a kernel that letgo does not need.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what the terminal cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_interrupts():
            status = _run(sys.argv[1:])
    except SystemExit as stop:  # argparse, after --help
        status = stop.code if isinstance(stop.code, int) else 0
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as error:
            # Python would try again at its exit, and print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            is_gone = isinstance(error, BrokenPipeError)
            status = status or (141 if is_gone else _complain(f"the output: {error.strerror}"))
    if status:
        sys.exit(status)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which stops the work as Ctrl-C does."""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:  # a process that a library has forked
            os._exit(128 + number)
        raise _Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str]) -> int:
    """Execute a command line; the exit status is returned."""
    try:
        _execute(arguments)
    except InputError as error:
        remedy = hub_remedy(error.__cause__)
        return _complain(f"{error}; {remedy}" if remedy else str(error))
    except _Terminated:
        return _complain("terminated; run the same command again to resume", status=143)
    except KeyboardInterrupt:
        return _complain("interrupted; run the same command again to resume", status=130)
    except BrokenPipeError:
        return 141
    except Exception as error:
        from letgo.cli.failures import explain, report_bug

        message = explain(error, arguments)
        if message is not None:
            return _complain(message)
        report_bug(error, arguments)
        return 1
    return 0


def _execute(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"letgo {version('letgo')}")
        return
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise InputError(f"no command {command!r}; letgo --help lists all commands")
    _require_text(rest)
    if command in LOOKING:
        from letgo.cli.looking import look

        look(command, rest)
    elif command in USING:
        from letgo.cli.using import use

        use(command, rest)
    elif command == "doctor":
        from letgo.cli.doctor import doctor

        doctor(rest)
    else:
        from letgo.cli.commands import execute_command

        execute_command(command, rest)


def _require_text(arguments: list[str]) -> None:
    """Refuse arguments that are no text: no file of a run could name them."""
    for word in arguments:
        if any("\ud800" <= character <= "\udfff" for character in word):
            encoding = sys.getfilesystemencoding()
            remedy = "rename it" if encoding == "utf-8" else "set PYTHONUTF8=1"
            raise InputError(f"the argument {word} is not text in {encoding}; {remedy}")


def _complain(message: str, status: int = 2) -> int:
    """Print an error in one line; the exit status is returned."""
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:  # the beginning names the flag, the end the remedy
        line = f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}"
    with suppress(OSError):  # the reader of standard error may have gone, too
        print(f"letgo: {printable(line)}", file=sys.stderr, flush=True)
    return status
