"""The data and settings of a run, read and checked."""

from dataclasses import dataclass
from pathlib import Path

from trl import ModelConfig

from letgo.data.records import Record, read_records
from letgo.data.splits import MISTAKES, hold_out, sample, set_names
from letgo.errors import InputError
from letgo.models import loading as models
from letgo.models.bundled import resolve
from letgo.progress import log
from letgo.run.base import load_base_tokenizer
from letgo.run.config import Config, RunConfig
from letgo.unlearning.config import LWFConfig


@dataclass(frozen=True)
class Run:
    """A run folder with everything that was given to the run.

    Args:
        folder: the output folder.
        config: all settings.
        learn: learning examples, after `--max_learn`.
        validation: learning examples that decide between LWF and plain fine-tuning; none where
            there is no plain fine-tuning.
        test: held-out learning examples, to be reported.
        forget: prompts (perhaps with references) of each forgetting set.
        chat_template: how the tokenizer shows a prompt to the model, if it has a template.
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

    @property
    def adapter(self) -> ModelConfig:
        """The settings of its adapter, and how the model is loaded."""
        return self.config.adapter


# Examples beyond them cost more to ask than they tell.
MOST_VALIDATION = 200


def open_run(config: Config) -> Run:
    """Read and check all data of a run; writes nothing.

    Raises:
        InputError: names the flag, file and line of what cannot be used.
    """
    settings, seed = config.settings, config.training.seed
    if not config.training.output_dir or config.training.output_dir == "trainer_output":
        raise InputError("--output_dir is missing: give the folder for this run")
    if settings.learn is None:
        raise InputError("--learn is missing: give the learning data")
    if not settings.forget and config.training.unlearning_interval:
        raise InputError("--forget is missing: give forgetting prompts, or --unlearning_interval 0")
    folder = Path(config.training.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir: {folder} is a file; give a folder")
    learn, validation, test = learning_data(config)
    forget = {
        name: sample(
            learn if source == MISTAKES else read_records(source, "--forget", False),
            settings.max_forget,
            seed,
        )
        for name, source in zip(set_names(settings.forget), settings.forget, strict=True)
    }
    for name, records in forget.items():
        forget[name] = _apart_from([*validation, *test], records)
        if not forget[name]:
            raise InputError(f"--forget: all prompts of {name} are test prompts; give other ones")
        if len(forget[name]) < len(records):
            log.warning(
                "%d prompts of the forgetting set %s are also test prompts and left out",
                len(records) - len(forget[name]),
                name,
            )
    batch = config.training.per_device_train_batch_size
    if len(learn) < batch:
        raise InputError(
            f"--learn: {len(learn)} examples are fewer than one batch of {batch}; "
            f"give more, or lower --per_device_train_batch_size"
        )
    # An unknown model is found out before anything is written.
    models.fingerprint(settings.model, config.training.trust_remote_code)
    tokenizer = load_base_tokenizer(config)
    source = Path(resolve(settings.model)).resolve()
    if any(source.is_relative_to((folder / kept).resolve()) for kept in ("model", "lwf", "probe")):
        raise InputError(f"--output_dir: the run would replace its own --model {settings.model}")
    return Run(folder, config, learn, validation, test, forget, tokenizer.chat_template)


def learning_data(config: Config) -> tuple[list[Record], list[Record], list[Record]]:
    """(learning, validation, test examples), of which no two share a prompt."""
    settings, seed = config.settings, config.training.seed
    learn = read_records(settings.learn or "", "--learn", True)
    learn, test = _kept_apart(learn, "learn_test", settings.learn_test, seed)
    validation: list[Record] = []
    # Nothing is to be decided where there is no plain fine-tuning, or nothing else.
    if settings.optimum == "full" and config.training.unlearning_interval:
        learn, validation = _kept_apart(
            learn, "learn_validation", settings.learn_validation, seed, MOST_VALIDATION
        )
        validation = _apart_from(test, validation)
        if not validation:
            raise InputError("--learn_validation: all its prompts are test prompts; give others")
    return (
        sample(learn, settings.max_learn, seed),
        validation,
        sample(test, settings.max_test, 0),  # runs of other seeds are asked the same
    )


def _apart_from(asked: list[Record], records: list[Record]) -> list[Record]:
    """Records whose prompts are not among those that models are asked."""
    prompts = {record.prompt for record in asked}
    return [record for record in records if record.prompt not in prompts]


def _kept_apart(
    learn: list[Record], flag: str, source: str | None, seed: int, most: int | None = None
) -> tuple[list[Record], list[Record]]:
    """Learning examples, and those of `source` or else a tenth of the learning data."""
    if source is None:
        if len({record.prompt for record in learn}) < 2:
            raise InputError(f"--learn: too few examples to keep a tenth apart; give --{flag}")
        return hold_out(learn, seed, most)
    given = read_records(source, f"--{flag}", True)
    kept = _apart_from(given, learn)
    if len(kept) < len(learn):
        log.warning(
            "%d learning examples are also prompts of --%s and are not trained on",
            len(learn) - len(kept),
            flag,
        )
    if not kept:
        raise InputError(f"--{flag}: it holds every learning prompt; give other data")
    return kept, given
