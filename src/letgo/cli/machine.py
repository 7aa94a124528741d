"""What `letgo doctor` checks of the machine and of the Python environment."""

import importlib.util
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

OK, WARNING, ERROR = "ok", "warning", "error"
EXTRAS = {"review": ["gradio"], "study": ["jsonschema"], "harness": ["lm_eval"]}
LITTLE_DISK = 1 << 30  # bytes: a run with the bundled model needs some hundred megabytes


class Finding(NamedTuple):
    """One line of the report: `OK`, `WARNING` or `ERROR`, of what, and what was found."""

    status: str
    subject: str
    text: str


def versions() -> Iterator[Finding]:
    """The versions of Python, of letgo, and of the libraries that letgo requires."""
    from packaging.requirements import Requirement  # comes with transformers

    found, wrong = [f"Python {platform.python_version()}", f"letgo {metadata.version('letgo')}"], []
    for line in metadata.requires("letgo") or []:
        required = Requirement(line)
        if required.marker and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{required} is not installed")
            continue
        if not required.specifier.contains(version, prereleases=True):
            wrong.append(f"{required} is required, {version} is installed")
        if required.name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets"):
            found.append(f"{required.name} {version}")
    yield Finding(OK, "versions", ", ".join(found))
    for problem in wrong:
        yield Finding(ERROR, "versions", f"{problem}; run pip install --upgrade letgo")


def extras() -> Iterator[Finding]:
    """Which extras are installed, and how to get the others."""
    missing = [
        name for name, modules in EXTRAS.items() if not all(map(importlib.util.find_spec, modules))
    ]
    there = [name for name in EXTRAS if name not in missing]
    text = f"installed: {', '.join(there) or 'none'}"
    if missing:
        text += f"; if you need them: pip install 'letgo[{','.join(missing)}]'"
    yield Finding(OK, "extras", text)


def device() -> Iterator[Finding]:
    """The device that is used, and whether it computes in bfloat16."""
    import torch

    from letgo.models.loading import bf16_is_fast, device_name

    if not torch.accelerator.is_available():
        text = f"CPU, {torch.get_num_threads()} threads"
        if shutil.which("nvidia-smi"):
            text += (
                f"; there is an NVIDIA driver, but torch {torch.__version__} does not use it: "
                "install a torch for it (https://pytorch.org/get-started)"
            )
            yield Finding(WARNING, "device", text)
        else:
            yield Finding(OK, "device", text)
    else:
        yield Finding(OK, "device", device_name())
    fast = "computed natively" if bf16_is_fast() else "not native here; --bf16 false is faster"
    yield Finding(OK, "bfloat16", fast)


def write_access(folder: Path) -> Iterator[Finding]:
    """Whether a run can write its folder, and the bundled model its cache."""
    from letgo.models.bundled import cache_folder

    for path in dict.fromkeys((folder, cache_folder())):
        there = existing(path)
        try:
            with tempfile.TemporaryFile(dir=there):
                yield Finding(OK, "write access", str(path))
        except OSError as error:
            text = f"{path}: {error.strerror} in {there}; choose another --output_dir"
            if path != folder:
                text = f"{path}: {error.strerror} in {there}; set LETGO_CACHE to another folder"
            # Only the bundled model is unpacked into the cache.
            yield Finding(ERROR if path == folder else WARNING, "write access", text)


def disk(folder: Path, needed: int) -> Iterator[Finding]:
    """Whether the disk has room for a run that writes `needed` bytes; 0 if that is unknown."""
    free = shutil.disk_usage(existing(folder)).free
    text = f"{size(free)} free at {existing(folder)}"
    if needed:
        text += f", a run writes about {size(needed)} (three models and a checkpoint)"
    if free < (needed or LITTLE_DISK):
        yield Finding(WARNING, "disk", f"{text}; free some, or choose another --output_dir")
    else:
        yield Finding(OK, "disk", text)


def free_memory() -> int:
    """Bytes of memory that a model could take, of the GPU if there is one."""
    import psutil  # comes with accelerate
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return path if path.is_dir() else existing(path.parent)


def size(count: int) -> str:
    """A number of bytes in gigabytes or megabytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
