"""What a run is: its settings and its data, read and checked."""

from dataclasses import dataclass
from pathlib import Path

from letgo.data.records import Record, read_records
from letgo.data.splits import MISTAKES, hold_out, sample, set_names
from letgo.errors import InputError
from letgo.models.bundled import resolve
from letgo.models.loading import fingerprint
from letgo.progress import log
from letgo.run.base import load_base_tokenizer
from letgo.run.config import Config, RunConfig
from letgo.run.folder import LWF, MODEL, PROBE
from letgo.unlearning.config import LWFConfig


@dataclass(frozen=True)
class Run:
    """A run folder, its settings and its data.

    Args:
        learn: learning examples, after `--max_learn`.
        validation: learning examples that decide between LWF and SFT; none without a baseline.
        test: held-out learning examples, for the report.
        forget: prompts of each forgetting set, some with references.
        chat_template: the tokenizer's chat template, if it has one.
    """

    folder: Path
    config: Config
    learn: list[Record]
    validation: list[Record]
    test: list[Record]
    forget: dict[str, list[Record]]
    chat_template: str | None

    @property
    def settings(self) -> RunConfig:
        """The data and the scale of the run."""
        return self.config.settings

    @property
    def training(self) -> LWFConfig:
        """The settings of its training."""
        return self.config.training


MOST_VALIDATION = 200  # more examples cost time and change little


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
    if not settings.forget and config.training.unlearning_interval:
        raise InputError("--forget is missing: name prompts, or set --unlearning_interval 0")
    folder = Path(config.training.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir: {folder} is a file; choose a folder")
    learn, validation, test = learning_data(config)
    forget = _forgetting_sets(config, learn, [*validation, *test])
    check_batch(len(learn), config.training.per_device_train_batch_size)
    # An unknown model is refused before anything is written.
    fingerprint(settings.model, config.training.trust_remote_code)
    tokenizer = load_base_tokenizer(config)
    source = Path(resolve(settings.model)).resolve()
    outputs = [(folder / output.name).resolve() for output in (MODEL, LWF, PROBE)]
    if any(source.is_relative_to(output) for output in outputs):
        raise InputError(f"--output_dir: the run would replace its own --model {settings.model}")
    return Run(folder, config, learn, validation, test, forget, tokenizer.chat_template)


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


def learning_data(config: Config) -> tuple[list[Record], list[Record], list[Record]]:
    """Learning, validation and test examples; no two of these sets share a prompt."""
    settings, seed = config.settings, config.training.seed
    learn = read_records(settings.learn or "", "--learn", True)
    learn, test = _hold_out_set(learn, "learn_test", settings.learn_test, seed)
    validation: list[Record] = []
    # There is nothing to decide without an SFT baseline, or without unlearning.
    if settings.optimum == "full" and config.training.unlearning_interval:
        learn, validation = _hold_out_set(
            learn, "learn_validation", settings.learn_validation, seed, MOST_VALIDATION
        )
        validation = _without_prompts_of(test, validation)
        if not validation:
            raise InputError("--learn_validation: all its prompts are test prompts; use others")
    test = sample(test, settings.max_test, 0)  # runs of all seeds answer the same prompts
    return sample(learn, settings.max_learn, seed), validation, test


def _forgetting_sets(
    config: Config, learn: list[Record], held_out: list[Record]
) -> dict[str, list[Record]]:
    """The prompts of each forgetting set, without those of the validation and test sets."""
    settings, sets = config.settings, {}
    for name, source in zip(set_names(settings.forget), settings.forget, strict=True):
        records = learn if source == MISTAKES else read_records(source, "--forget", False)
        records = sample(records, settings.max_forget, config.training.seed)
        sets[name] = _without_prompts_of(held_out, records)
        if not sets[name]:
            raise InputError(f"--forget: all prompts of {name} are test prompts; use other ones")
        if count := len(records) - len(sets[name]):
            message = "%d prompts of the forgetting set %s are also test prompts and left out"
            log.warning(message, count, name)
    return sets


def _without_prompts_of(others: list[Record], records: list[Record]) -> list[Record]:
    """The records whose prompts are not among those of `others`."""
    prompts = {record.prompt for record in others}
    return [record for record in records if record.prompt not in prompts]


def _hold_out_set(
    learn: list[Record], flag: str, source: str | None, seed: int, most: int | None = None
) -> tuple[list[Record], list[Record]]:
    """The remaining learning examples, and those of `source` or a tenth of the learning data."""
    if source is None:
        if len({record.prompt for record in learn}) < 2:
            raise InputError(f"--learn: too few examples to hold out a tenth; set --{flag}")
        return hold_out(learn, seed, most)
    held_out = read_records(source, f"--{flag}", True)
    remaining = _without_prompts_of(held_out, learn)
    if count := len(learn) - len(remaining):
        message = "%d learning examples are also prompts of --%s and are not trained on"
        log.warning(message, count, flag)
    if not remaining:
        raise InputError(f"--{flag}: it contains every learning prompt; use other data")
    return remaining, held_out
