"""What only a flag may turn on: code of others, uploads, connections to other machines.

A file of settings is data: a run folder, and so its `config.yaml`, may be somebody else's.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from letgo.errors import InputError
from letgo.progress import log
from letgo.run.values import PATHS, short

# None of these changes a result: a run goes on without them.
UPLOADS = (
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
)
LOCAL_TRACKERS = {"none", "tensorboard"}
HOOK = re.compile(r"\.py:[^\W\d]\w*\Z")  # `--answer FILE.py:FUNCTION`
# Arguments of `from_pretrained` that load code or connect to another machine.
LOADS_CODE = ("trust_remote_code", "code_revision", "use_kernels", "kernel_config", "proxies")


def flags_in(arguments: Sequence[str]) -> set[str]:
    """The names of the settings that are flags of this command line."""
    words = (word[2:].split("=")[0] for word in arguments if word.startswith("--"))
    return {word.replace("-", "_") for word in words}


def followed(
    settings: Mapping[str, Any], flags: Collection[str], source: str, of_run: bool
) -> dict[str, Any]:
    """The settings without those that a file cannot turn on; a warning names each of these.

    Args:
        settings: the content of a file.
        source: the file, for messages.
        of_run: whether the file is the `config.yaml` of a run.
    """
    ignored = {name: settings[name] for name in UPLOADS if name in settings}
    if of_run and "shared" in settings:
        ignored["shared"] = settings["shared"]
    trackers = settings.get("report_to")
    names = trackers if isinstance(trackers, list) else [trackers or "none"]
    if not all(isinstance(name, str) and name in LOCAL_TRACKERS for name in names):
        ignored["report_to"] = trackers
    for name, value in ignored.items():
        if value and name not in flags and value != "every_save":  # TRL's default
            remedy = f"add --{name} to this command if you want it"
            if name in ("push_to_hub", "hub_model_id"):
                remedy = "letgo uploads nothing; `hf upload ID OUTPUT_DIR/model` does"
            log.warning("%s: %s is ignored: only a flag turns it on; %s", source, name, remedy)
    return {name: value for name, value in settings.items() if name not in ignored}


def check(
    values: Mapping[str, Any], flags: Collection[str], command: str, source: str, of_run: bool
) -> None:
    """Refuse what would run code of others, or open a URL, because a file says so.

    Args:
        values: all settings after parsing, those of the file and those of the flags.

    Raises:
        InputError: names the setting and the flag that allows it.
    """
    hooks = [item for item in values["answer"] if HOOK.search(item)]
    if hooks and "answer" not in flags and command != "review":
        raise InputError(
            f"{source}: answer would run the code of {short(hooks[0])}, and only a flag allows "
            f"that; add --answer {' '.join(values['answer'])} to this command if you trust it"
        )
    if "trust_remote_code" not in flags:
        kernel = values["attn_implementation"] or ""
        arguments = json.dumps(values["model_init_kwargs"] or {}, default=str)
        kernel_in_arguments = '"attn_implementation": "' in arguments and "/" in arguments
        for name, loads_code in (
            ("trust_remote_code", values["trust_remote_code"]),
            ("attn_implementation", "/" in kernel),
            ("model_init_kwargs", any(f'"{word}"' in arguments for word in LOADS_CODE)),
            ("model_init_kwargs", kernel_in_arguments),
        ):
            if loads_code and name not in flags:
                remedy = f"add --{name} {short(values[name])} to this command if you trust it"
                if command == "review":
                    remedy = "letgo review runs no such code"
                raise InputError(
                    f"{source}: {name} would run code that comes with the model, and only a flag "
                    f"allows that; {remedy}"
                )
    for name in PATHS if of_run else ():
        value = values[name] or []
        for url in [value] if isinstance(value, str) else value:
            if "://" in url and name not in flags:
                raise InputError(
                    f"{source}: {name} is the URL {short(url)}, and only a flag opens one; add "
                    f"--{name} {short(url)} to this command if you trust it"
                )
