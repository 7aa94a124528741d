"""The command line: parse, call, print. Nothing here imports torch before a command is known."""

import os
import sys

from letgo.errors import InputError

USAGE = """\
letgo: fine-tune a language model and let go of the knowledge that stands in the way
(Learning With Forgetting, arXiv 2505.19715; not Learning without Forgetting, LwF)

usage: letgo COMMAND [--FLAG VALUE ...]

  run        all stages below, one after the other; goes on where an interrupted run stood
  study      a grid of runs, with statistics: does forgetting help?
  demo       run on built-in data with the built-in model (about six minutes on two cores)
  review     see in the browser what would be forgotten, and decide
  show       the same in the terminal, to look at
  runs       every run below a folder, and its verdict

  elicit     1  the base model answers the forgetting prompts     self_knowledge.parquet
  probe      2  plain fine-tuning: the optimum and the baseline    probe/
  fisher     3  Fisher information of the learning task            fisher.safetensors
  score      4  forgetting confidence of every text                scores.parquet
  select     5  the most confident texts                           selection.parquet
  train      6  fine-tuning with periodic unlearning               lwf/, train_log.jsonl
  baseline   7  base and SFT on held-out data                      baseline.parquet
  evaluate   8  base, SFT and LWF on held-out data                 metrics.json, answers.parquet,
                and which of SFT and LWF to keep                   model/
  report     9  one page with pictures                             report.html

example: letgo run --model smollm2-135m --learn train.jsonl --learn_test test.jsonl \\
                   --forget other.jsonl --output_dir runs/mine

letgo COMMAND --help lists every flag: letgo's own, LWFConfig and TRL's SFTConfig and ModelConfig.
A stage's command takes its settings from the run folder where flags do not say otherwise.
"""
STAGES = ("elicit", "probe", "fisher", "score", "select", "train", "baseline", "evaluate", "report")
LOOKING = ("review", "show", "runs")
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
        sys.exit(_complain(f"no command {command!r}; letgo --help lists them"))
    # Nothing about a run leaves the machine, and libraries keep their chatter to themselves.
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
        sys.exit(_complain("interrupted; the same command goes on where it stood", status=130))
    except Exception as error:
        from letgo.cli.failures import explain

        sentence = explain(error, rest)
        if sentence is None:
            raise
        sys.exit(_complain(sentence))


def _complain(sentence: str, status: int = 2) -> int:
    print(f"letgo: {' '.join(sentence.split())}", file=sys.stderr)
    return status
