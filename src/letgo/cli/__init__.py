"""The command line. Nothing here imports torch before the command is known."""

import os
import sys

from letgo.errors import InputError

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
  headroom   how much forgetting could improve the learning task of a run

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
LOOKING = ("review", "show", "runs", "headroom")
COMMANDS = ("run", "study", "demo", *LOOKING, *STAGES)


def main() -> None:
    """Entry point of the `letgo` command; exits with 2 on bad input, 130 when interrupted."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"letgo {version('letgo')}")
        return
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        sys.exit(_complain(f"no command {command!r}; letgo --help lists all commands"))
    # No telemetry, and no messages of libraries that users cannot act on.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        if command in LOOKING:
            from letgo.cli.looking import look

            return look(command, rest)
        from letgo.cli.commands import execute_command

        execute_command(command, rest)
    except InputError as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted; run the same command again to resume", status=130))
    except Exception as error:
        from letgo.cli.failures import explain

        message = explain(error, rest)
        if message is None:
            raise
        sys.exit(_complain(message))


def _complain(message: str, status: int = 2) -> int:
    """Print an error in one line; the exit status is returned."""
    print(f"letgo: {' '.join(message.split())}", file=sys.stderr)
    return status
