"""What a run is: its settings and its data, read and checked."""

from dataclasses import dataclass, field
from pathlib import Path

from letgo.data.habits import Habit, loops, matching
from letgo.data.openings import neutral_openings
from letgo.data.records import Record
from letgo.data.splits import (
    KEEP_NOTHING,
    LOOPS,
    LOOPS_SET,
    MISTAKES,
    NEUTRAL,
    PATTERN,
    PATTERN_SET,
    WRONG,
    elicited,
    hold_out,
    sample,
    set_names,
)
from letgo.errors import InputError
from letgo.models.bundled import resolve
from letgo.models.loading import fingerprint
from letgo.progress import log
from letgo.run.config import Config, RunConfig
from letgo.run.first_examples import LEARN, first_examples
from letgo.run.folder import LWF, MODEL, PROBE, Row
from letgo.run.learning import learning_data, named_keep_sets, text_of, without_prompts_of
from letgo.run.reading import read
from letgo.run.seen import Prompts, load_prompts
from letgo.unlearning.config import LWFConfig


@dataclass(frozen=True)
class Run:
    """A run folder, its settings and its data.

    Args:
        learn: learning examples, after `--max_learn`.
        validation: examples that decide between LWF and SFT, and for `--eval_strategy`; or none.
        test: held-out learning examples, for the report.
        forget: prompts of each forgetting set that are elicited, some with references.
        keep: prompts of each keep set that are kept in training; a text has an empty prompt.
        held_out: prompts of forgetting and keep sets on which nothing is trained or scored, by the
            name of the set in `answers.parquet`.
        negative: learning examples with a weight below 0, which are unlearned.
        chat_template: the tokenizer's chat template, if it has one.
        first_examples: what the model sees of each set (`first_examples.first_examples`).
    """

    folder: Path
    config: Config
    learn: list[Record]
    validation: list[Record]
    test: list[Record]
    forget: dict[str, list[Record]]
    keep: dict[str, list[Record]]
    held_out: dict[str, list[Record]]
    chat_template: str | None
    first_examples: list[Row] = field(default_factory=list)
    negative: list[Record] = field(default_factory=list)

    @property
    def settings(self) -> RunConfig:
        """The data and the scale of the run."""
        return self.config.settings

    @property
    def training(self) -> LWFConfig:
        """The settings of its training."""
        return self.config.training

    @property
    def unlearns(self) -> bool:
        """Whether the training may have unlearning steps."""
        return bool(self.forget and self.training.unlearning_interval)

    @property
    def audits(self) -> bool:
        """Whether learning examples at odds with the validation set are left out or unlearned."""
        return WRONG in self.settings.forget

    @property
    def habits(self) -> dict[str, Habit]:
        """The habits that are to go, by the names of their forgetting sets."""
        found = {LOOPS_SET: loops()} if LOOPS in self.settings.forget else {}
        patterns = self.settings.forget_pattern
        return found | ({PATTERN_SET: matching(patterns)} if patterns else {})

    def habits_in(self, name: str) -> list[Habit]:
        """The habits that are measured on a set of `answers.parquet`."""
        prompts = self.settings.forget_pattern_prompts
        if name in ("learn", VALIDATION):
            others = {PATTERN_SET} if prompts else set()
            return [habit for key, habit in self.habits.items() if key not in others]
        is_pattern = name.removeprefix(f"{VALIDATION}:") == f"{HABIT_SET}{PATTERN_SET}"
        return [self.habits[PATTERN_SET]] if is_pattern else []

    @property
    def keeps(self) -> bool:
        """Whether the training may have keep steps."""
        return bool(self.keep and self.training.keep_share)


# Of a forgetting or keep set a third of the prompts is held out, at most so many: half of them
# for the verdict, half for the report.
HELD_OUT_PART, MOST_HELD_OUT = 3, 200
# Names of sets in `answers.parquet`; what starts with VALIDATION decides, the others are reported.
VALIDATION, FORGET_SET, KEEP_SET = "validation", "forget:", "keep:"
HABIT_SET = "habit:"  # prompts of --forget_pattern_prompts: is the habit gone?


def open_run(config: Config) -> Run:
    """Read and check all data of a run; writes nothing.

    Raises:
        InputError: names the flag, file and line of what cannot be used.
    """
    settings = config.settings
    if not config.training.output_dir or config.training.output_dir == "trainer_output":
        raise InputError("--output_dir is missing: name the folder for this run")
    if settings.learn is None:
        raise InputError("--learn is missing: name the learning data")
    folder = Path(config.training.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir: {folder} is a file; choose a folder")
    # An unknown model is refused before anything is written.
    fingerprint(settings.model, config.training.trust_remote_code)
    prompts = load_prompts(config)
    learn, validation, test, negative = learning_data(config, prompts)
    if not (settings.forget or negative) and config.training.unlearning_interval:
        raise InputError("--forget is missing: name prompts, or set --unlearning_interval 0")
    forget, held_forget = _forgetting_sets(config, prompts, learn, [*validation, *test])
    others = [r for sets in (forget, held_forget) for records in sets.values() for r in records]
    keep, held_keep = _keep_sets(config, prompts, [*learn, *validation, *test], others)
    check_batch(len(learn), config.training.per_device_train_batch_size)
    source = Path(resolve(settings.model)).resolve()
    outputs = [(folder / output.name).resolve() for output in (MODEL, LWF, PROBE)]
    if any(source.is_relative_to(output) for output in outputs):
        raise InputError(f"--output_dir: the run would replace its own --model {settings.model}")
    sets = {LEARN: learn, "learn_validation": validation, "learn_test": test}
    for name, records in sets.items():
        prompts.check_answers(f"--{name}", records)
    sets |= {f"forget {name}": records for name, records in forget.items()}
    sets |= {f"keep {name}": records for name, records in keep.items()}
    examples, template = first_examples(prompts.tokenizer, sets), prompts.tokenizer.chat_template
    held_out = held_forget | held_keep
    data = (learn, validation, test, forget, keep, held_out)
    return Run(folder, config, *data, template, examples, negative)


def check_batch(examples: int, batch: int) -> None:
    """Refuse learning data that do not fill one batch.

    Raises:
        InputError: there are fewer examples.
    """
    if examples < batch:
        raise InputError(
            f"--learn: {examples} examples are fewer than one batch of {batch}; "
            f"add more, or lower --per_device_train_batch_size"
        )


Sets = dict[str, list[Record]]


def _forgetting_sets(
    config: Config, prompts: Prompts, learn: list[Record], held_out: list[Record]
) -> tuple[Sets, Sets]:
    """The prompts of each forgetting set, without those of the validation and test sets.

    Returns:
        the prompts to elicit, and those that are held out of them.
    """
    settings = config.settings
    sets: Sets = {}
    held: Sets = {}
    sources = elicited(settings.forget)
    for name, source in zip(set_names(sources), sources, strict=True):
        of_learning, kind = source in (MISTAKES, LOOPS), FORGET_SET
        flag, records = "--forget", learn
        if source == PATTERN:
            flag, kind = "--forget_pattern_prompts", HABIT_SET
            source = settings.forget_pattern_prompts or ""
            of_learning = not source
        if not of_learning:
            records = prompts.unified(flag, read(config, source, flag, settings.max_forget))
        remaining = without_prompts_of(held_out, records)
        if not remaining:
            raise InputError(f"{flag}: all prompts of {name} are test prompts; use other ones")
        if count := len(records) - len(remaining):
            message = "%d prompts of the forgetting set %s are also test prompts and left out"
            log.warning(message, count, name)
        if not of_learning:  # else the learning task's own sets are held out
            held |= _held_out_parts(f"{kind}{name}", remaining, learn, settings.max_test)
        sets[name] = remaining
    trained = _without_held_out(sets, held)
    most, seed = settings.max_forget, config.training.seed
    return {name: sample(records, most, seed) for name, records in trained.items()}, held


def _without_held_out(sets: Sets, held: Sets) -> Sets:
    """The records of each set whose prompts no set has held out."""
    out = [record for records in held.values() for record in records]
    return {name: without_prompts_of(out, records) for name, records in sets.items()}


def _held_out_parts(
    name: str, records: list[Record], learning: list[Record], most: int | None
) -> Sets:
    """The prompts of a set that are held out, for the verdict and for the report.

    They are the same for all seeds, and no learning prompt is among them.

    Args:
        name: of the set in `answers.parquet`.
        records: of the set.
        learning: the learning examples.
        most: upper bound on the prompts of either part.
    """
    candidates = without_prompts_of(learning, records)
    if len({text_of(record) for record in candidates}) < 2:
        log.warning("%s: too few prompts to hold any out; nothing is measured on it", name)
        return {}
    by_text = [record._replace(prompt=text_of(record)) for record in candidates]
    _, held = hold_out(by_text, 0, MOST_HELD_OUT, HELD_OUT_PART)
    several = len({record.prompt for record in held}) > 1
    test, validation = hold_out(held, 0, part=2) if several else (held, held[:0])
    by_id = {record.id: record for record in candidates}
    parts = {name: test, f"{VALIDATION}:{name}": validation}
    return {
        key: [by_id[record.id] for record in sample(part, most, 0)]
        for key, part in parts.items()
        if part
    }


def _keep_sets(
    config: Config, prompts: Prompts, learning: list[Record], forget: list[Record]
) -> tuple[Sets, Sets]:
    """The prompts or texts of each keep set: those to train on, and those that are held out.

    Where nothing is named, the neutral openings are kept if anything is unlearned. With `--keep
    none` they are still measured.

    Raises:
        InputError: too many prompts are also learning or forgetting prompts.
    """
    settings, limit = config.settings, config.training.forget_max_overlap
    sources = named_keep_sets(config) or [NEUTRAL]
    sets: Sets = {}
    held: Sets = {}
    for name, source in zip(set_names(sources), sources, strict=True):
        records = neutral_openings() if source == NEUTRAL else read(config, source, "--keep")
        prompts.check_texts("--keep", records)
        records = prompts.unified("--keep", records)
        remaining = without_prompts_of([*learning, *forget], records)
        count = len(records) - len(remaining)
        message = f"{count} of {len(records)} prompts are also learning or forgetting prompts"
        if source != NEUTRAL and (count > limit * len(records) or not remaining):
            raise InputError(
                f"--keep: {name}: {message}, more than --forget_max_overlap {limit:g}; a model "
                f"cannot keep what it is to learn or to let go. Use other prompts"
            )
        if count:
            log.warning("keep %s: %s and left out", name, message)
        if not remaining:
            continue
        held |= _held_out_parts(f"{KEEP_SET}{name}", remaining, learning, settings.max_test)
        sets[name] = remaining
    sets = {
        name: sample(records, settings.max_keep, 0)
        for name, records in _without_held_out(sets, held).items()
    }
    nothing = KEEP_NOTHING in settings.keep
    default_without_use = not settings.keep and not config.training.unlearning_interval
    return ({} if nothing or default_without_use else sets), held
