"""A metric of the user's own: `--answer FILE.py:FUNCTION`."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from letgo.errors import InputError, first_line
from letgo.run.trust import HOOK
from letgo.run.values import short

Metric = Callable[[str, Sequence[str], str], float]


def hook_file(name: str) -> Path | None:
    """The file of a rule `FILE.py:FUNCTION`; None if it is no such rule."""
    return Path(name.rpartition(":")[0]).expanduser() if HOOK.search(name) else None


def load(name: str) -> Metric:
    """The metric `FILE.py:FUNCTION`, whose results are checked.

    Raises:
        InputError: there is no such file or function, or the file cannot be executed. The metric
            raises it where the function raises, or returns no number from 0 to 1.
    """
    file, function = hook_file(name) or Path(), name.rpartition(":")[2]
    if not file.is_file():
        raise InputError(f"--answer {name}: there is no file {file}; give FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(f"letgo_answer_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"--answer {name}: {file} is no Python file; give FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's file raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"--answer {name}: {file} cannot be executed ({reason})") from error
    metric = getattr(module, function, None)
    if not callable(metric):
        raise InputError(
            f"--answer {name}: {file} has no function {function}; define "
            f"`def {function}(prompt, references, answer): ...`, which returns 0 to 1"
        )
    return checked(metric, name)


def checked(metric: Metric, name: str) -> Metric:
    """The metric, with an `InputError` where it raises or returns no number from 0 to 1."""

    def measured(prompt: str, references: Sequence[str], answer: str) -> float:
        try:
            found = float(metric(prompt, list(references), answer))
        except Exception as error:  # whatever somebody's function raises
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(
                f"--answer {name}: it raised {reason}, for the prompt {short(prompt)!r} and the "
                f"answer {short(answer)!r}; correct the function"
            ) from error
        if not 0 <= found <= 1 or math.isnan(found):
            raise InputError(
                f"--answer {name}: it returned {found} for the prompt {short(prompt)!r}; a metric "
                f"must be a number from 0 (wrong) to 1 (right)"
            )
        return found

    return measured
