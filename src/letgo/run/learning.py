"""The learning examples of a run, and those that are held out of them for validation and test."""

from letgo.data.records import Record
from letgo.data.splits import KEEP_NOTHING, WRONG, hold_out, sample
from letgo.errors import InputError
from letgo.progress import log
from letgo.run.config import Config
from letgo.run.reading import all_answers, read
from letgo.run.seen import Prompts

MOST_VALIDATION = 200  # more examples cost time and change little


def learning_data(
    config: Config, prompts: Prompts
) -> tuple[list[Record], list[Record], list[Record], list[Record]]:
    """Learning, validation and test examples, and those to unlearn (with a weight below 0).

    No two of the first three share a prompt, and the last has none of validation and test.
    """
    settings, seed = config.settings, config.training.seed
    found = read(config, settings.learn or "", "--learn", settings.max_learn)
    learn = prompts.unified("--learn", found)
    negative = [record for record in learn if record.weight < 0]
    learn = [record for record in learn if record.weight > 0]
    if not learn:
        raise InputError("--learn: no example has a 'weight' above 0; there is nothing to learn")
    learn, test = _hold_out_set(config, prompts, learn, "learn_test", settings.learn_test, seed)
    validation: list[Record] = []
    audits = WRONG in settings.forget
    if audits and settings.learn_validation is None:
        raise InputError(f"--forget {WRONG} needs --learn_validation: name examples that are right")
    # There is nothing to decide without an SFT baseline, or with nothing to unlearn or to keep.
    changes = config.training.unlearning_interval or named_keep_sets(config)
    evaluates = config.training.eval_strategy != "no"
    if audits or evaluates or (settings.optimum == "full" and changes):
        source = settings.learn_validation
        most = min(MOST_VALIDATION, settings.max_test or MOST_VALIDATION)
        learn, validation = _hold_out_set(
            config, prompts, learn, "learn_validation", source, seed, most
        )
        count = len(validation)
        validation = without_prompts_of(test, validation)
        if count > len(validation) > 0:
            message = "%d validation examples are also test prompts and left out"
            log.warning(message, count - len(validation))
        if not validation:
            raise InputError("--learn_validation: all its prompts are test prompts; use others")
        if not audits:  # the reference models of an audit are fine-tuned on all of it
            validation = sample(validation, settings.max_test, 0)
    test = sample(test, settings.max_test, 0)  # runs of all seeds answer the same prompts
    learn = sample(learn, settings.max_learn, seed)
    if settings.assistant_turns == "all":
        every = prompts.unified("--learn", [turn for r in learn for turn in all_answers(r)])
        learn = without_prompts_of([*validation, *test], every)
    return learn, validation, test, without_prompts_of([*validation, *test], negative)


def named_keep_sets(config: Config) -> list[str]:
    """The sources of `--keep`, without the default."""
    return [source for source in config.settings.keep if source != KEEP_NOTHING]


def text_of(record: Record) -> str:
    """The prompt, or the text of a record without one."""
    return record.prompt or record.completion or ""


def without_prompts_of(others: list[Record], records: list[Record]) -> list[Record]:
    """The records whose prompts (or texts) are not among those of `others`."""
    prompts = {text_of(record) for record in others}
    return [record for record in records if text_of(record) not in prompts]


def _hold_out_set(
    config: Config,
    prompts: Prompts,
    learn: list[Record],
    flag: str,
    source: str | None,
    seed: int,
    most: int | None = None,
) -> tuple[list[Record], list[Record]]:
    """The remaining learning examples, and those of `source` or a tenth of the learning data."""
    if source is None:
        if len({record.prompt for record in learn}) < 2:
            raise InputError(f"--learn: too few examples to hold out a tenth; set --{flag}")
        return hold_out(learn, seed, most)
    limit = config.settings.max_test if flag == "learn_test" else None
    held_out = prompts.unified(f"--{flag}", read(config, source, f"--{flag}", limit))
    remaining = without_prompts_of(held_out, learn)
    if count := len(learn) - len(remaining):
        message = "%d learning examples are also prompts of --%s and are not trained on"
        log.warning(message, count, flag)
    if not remaining:
        raise InputError(f"--{flag}: it contains every learning prompt; use other data")
    return remaining, held_out
