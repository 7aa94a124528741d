"""Random input to letgo's readers: whatever they do not like must be an `InputError`."""

import argparse
import os
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from faults import strategies
from letgo.cli.flags import parse
from letgo.data.records import fingerprint, read_records
from letgo.errors import InputError
from letgo.evaluation import answers, rules
from letgo.evaluation.same_answer import options_of, same_answer
from letgo.run import config, decisions
from letgo.study.plan import read_study

_FORMATTER = argparse.HelpFormatter("letgo", width=80)
Try = Callable[[Path, Any], None]


def try_records(folder: Path, drawn: Any) -> None:
    """Read a data file, or a data set of a strange name."""
    (suffix, content), source, completion, texts = drawn
    if source is None:
        file = folder / f"data{suffix}"
        file.write_bytes(content)
        source = str(file)
    fingerprint(read_records(source, "--learn", completion, texts))


def try_config(folder: Path, drawn: Any) -> None:
    """Parse a command line with `--config`, or a saved `config.yaml`, or a STUDY.yaml."""
    content, words, kind = drawn
    file = folder / "config.yaml"
    file.write_bytes(content)
    if kind == "study":
        read_study(file)
    elif kind == "saved":
        parse("select", ["--output_dir", str(folder), *words])
    else:
        _, parsed = parse("run", ["--config", str(file), *words])
        config.plain_settings(parsed)


def try_answers(folder: Path, drawn: Any) -> None:
    """Judge answers by their references."""
    prompts, _, references = zip(*drawn, strict=True)
    answers.reader(references)
    rule = answers.reader(references, prompts)
    options_of(prompts, references)
    for prompt, answer, reference in drawn:
        own = answers.reader_of(rule, reference, prompt)
        for read in (own, None, answers.exact, answers.letter, answers.number):
            same_answer(read, prompt, answer, reference)
        for named in rules.RULES.values():
            rules.measure(named, prompt, [reference], answer)


def try_journal(folder: Path, content: bytes) -> None:
    """Read a journal, and select texts by it."""
    (folder / decisions.JOURNAL).write_bytes(content)
    decided = decisions.read(folder)
    ids = strategies.TEXT_IDS
    table = decisions.selection_table(ids, range(len(ids)), 0.5, "top", decided)
    decisions.is_current(table.schema, decided)


TARGETS: dict[str, tuple[st.SearchStrategy[Any], Try]] = {
    "records": (
        st.tuples(
            strategies.data_files(),
            st.none() | st.none() | st.none() | strategies.sources,
            st.booleans(),
            st.booleans(),
        ),
        try_records,
    ),
    "configs": (
        st.tuples(
            strategies.config_files,
            strategies.flags,
            st.sampled_from(["given", "given", "saved", "study"]),
        ),
        try_config,
    ),
    "answers": (strategies.answer_sets, try_answers),
    "journal": (strategies.journals, try_journal),
}


def fuzz(name: str, attempts: int, number: int) -> dict[str, Any]:
    """Try so many inputs; `number` makes them other ones than those of another call.

    Returns:
        `attempts`, `other_exceptions`, and under `first` for each place that raised one the
        shortest input.
    """
    strategy, attempt = TARGETS[name]
    found: Counter[str] = Counter()
    first: dict[str, str] = {}
    count = 0

    def once(drawn: Any) -> None:
        nonlocal count
        if count >= attempts:
            return
        count += 1
        try:
            attempt(folder, drawn)
        except InputError:
            pass
        except (Exception, SystemExit) as error:
            _note(found, first, _where(error), error, drawn)

    quick = settings(
        max_examples=attempts,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with tempfile.TemporaryDirectory() as temporary, _undisturbed(temporary):
        folder = Path(temporary)
        for again in range(20):  # hypothesis stops early where it finds nothing new
            if count < attempts:
                seed(1000 * number + again)(quick(given(strategy)(once)))()
    return {"attempts": count, "other_exceptions": found.total(), "first": first}


def _note(
    found: Counter[str], first: dict[str, str], where: str, error: BaseException, drawn: Any
) -> None:
    """Count an error, and keep the shortest input that led to it."""
    found[where] += 1
    shown = f"{str(error)[:200]!a} <- {ascii(drawn)[:600]}"
    if where not in first or len(shown) < len(first[where]):
        first[where] = shown


def _where(error: BaseException) -> str:
    """The class of an error, and the last line of letgo that it passed."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if "letgo" in f.filename]
    place = f"{Path(lines[-1].filename).name} {lines[-1].name}" if lines else "?"
    return f"{type(error).__name__} in {place}"


@contextmanager
def _undisturbed(folder: str) -> Iterator[None]:
    """In a folder of its own, without output, and with the environment restored at the end."""
    before, here = dict(os.environ), Path.cwd()
    # Half of the time that a parser takes: whether its help can be shown, for each of 200 flags.
    check = argparse.ArgumentParser._get_formatter
    argparse.ArgumentParser._get_formatter = lambda parser: _FORMATTER
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.chdir(folder)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        argparse.ArgumentParser._get_formatter = check
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
