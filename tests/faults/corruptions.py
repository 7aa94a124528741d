"""Files of a run that are damaged, and the commands that then read them."""

import json
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from faults import forks
from faults.forks import Done, Kill
from faults.kills import by_stage, scenario
from faults.runs import OUT, results, start_from

DAMAGES = ("cut", "emptied", "changed", "foreign", "keys")
CHANGED = 16  # bytes
# In the order of the run, with their outputs.
STAGES = {
    "elicit": ("self_knowledge.parquet",),
    "keep": ("kept.parquet",),
    "probe": ("probe",),
    "fisher": ("fisher.safetensors",),
    "score": ("scores.parquet",),
    "select": ("selection.parquet",),
    "baseline": ("baseline.parquet", "held_out.parquet", "headroom.json"),
    "train": ("lwf", "train_log.jsonl"),
    "relearn": ("relearned.parquet",),
    "evaluate": ("metrics.json", "answers.parquet", "model"),
    "report": ("report.html",),
}
LOOKING = (["show", OUT], ["runs", "."], ["headroom", OUT])


class Case(NamedTuple):
    """A file to damage, and the command that then reads it.

    Args:
        source: the folder that is copied.
        file: the file in it.
        damage: one of `DAMAGES`.
        command: "run" for the run again, the name of a stage to make anew, or that of a command
            that looks at runs.
    """

    source: str
    file: str
    damage: str
    command: str


class Damaged(NamedTuple):
    """What is damaged.

    Args:
        root: folder of all sources: the uninterrupted run, runs that were killed, and a store.
        words: the command line that finishes a source.
        expected: the files of the uninterrupted run.
        printed: by command what it prints of the undamaged run.
        cases: all that may be tried.
    """

    root: Path
    words: dict[str, list[str]]
    expected: dict[str, dict[str, str]]
    printed: dict[str, str]
    cases: list[Case]


def damaged(root: Path, finished_only: bool) -> Damaged:
    """The sources, made below `root`, and all cases; `finished_only`: of the uninterrupted run."""
    run = scenario(root, "run")
    scenario(root, "other")
    words, expected = {"template-run": run.words}, {"template-run": run.expected}
    if not finished_only:
        taken = scenario(root, "taken")
        words["template-filled"], expected["template-filled"] = taken.words, taken.expected
    for stage in () if finished_only else ("elicit", "probe", "score", "train"):
        source = f"template-killed-{stage}"
        numbers = by_stage(run.operations)[stage]
        kill = Kill(numbers[len(numbers) * 2 // 5], torn=False, group=True)
        forks.run(start_from(None, root / source), run.words, kill)
        words[source], expected[source] = run.words, run.expected
    printed = {}
    for command in LOOKING:
        folder = start_from(root / "template-run", root / "template-looked")
        printed[command[0]] = forks.run(folder, command).out
    cases = [case for source in words for case in _cases(root, source)]
    return Damaged(root, words, expected, printed, cases)


def _cases(root: Path, source: str) -> list[Case]:
    folder, cases = root / source, []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if name.startswith("log/") or path.name.endswith(".lock"):
            continue
        if source.startswith("template-killed") and ".part/" not in name:
            continue
        commands = ["run"]
        if source == "template-run":
            commands += _stages_after(name)
            # These read no models.
            commands += [words[0] for words in LOOKING if Path(name).parent == Path(OUT)]
        for damage in DAMAGES:
            if damage == "changed" and source.startswith("template-killed"):
                continue  # what is not finished has no digests
            if damage == "keys" and path.suffix not in (".json", ".jsonl"):
                continue
            if damage == "foreign" and _foreign(root, source, name) is None:
                continue
            cases += [Case(source, name, damage, command) for command in commands]
    return cases


def _stages_after(name: str) -> list[str]:
    """The stages after the one that made a file; all but the first where none did."""
    top = Path(name).parts[1]
    made = next((s for s, outputs in STAGES.items() if top in outputs), "elicit")
    return list(STAGES)[list(STAGES).index(made) + 1 :]


def _foreign(root: Path, source: str, name: str) -> Path | None:
    """The file of the same name of a run with another seed, if it differs."""
    other = root / "template-other" / name
    if source != "template-run" or not other.is_file():
        return None
    return None if other.read_bytes() == (root / source / name).read_bytes() else other


def draw_case(cases: list[Case], draw: random.Random) -> Case:
    """A case: sources, then files, then kinds of damage are equally likely, except the finished
    run, which is as likely as all others."""
    finished = draw.random() < 0.6
    of = [case for case in cases if (case.source == "template-run") == finished] or cases
    for part in ("source", "file", "damage"):
        value = draw.choice(sorted({getattr(case, part) for case in of}))
        of = [case for case in of if getattr(case, part) == value]
    return draw.choice(of)


def attempt(all_of: Damaged, case: Case, folder: Path, draw: random.Random) -> dict[str, Any]:
    """Damage a file, run a command; what became of it, as a row of a log."""
    start_from(all_of.root / case.source, folder)
    for log in folder.glob("log/*"):
        log.unlink()
    _damage(folder / case.file, case, all_of.root, draw)
    if case.command in STAGES:
        for stage in list(STAGES)[list(STAGES).index(case.command) :]:
            for output in STAGES[stage]:
                _remove(folder / OUT / output)
    done = forks.run(folder, _words(all_of, case))
    outcome = _outcome(all_of, case, folder, done)
    row = {**case._asdict(), "status": done.status, "outcome": outcome}
    return row if outcome == "right" else {**row, "error": done.error[-1500:]}


def _words(all_of: Damaged, case: Case) -> list[str]:
    if case.command == "run":
        return all_of.words[case.source]
    if case.command in STAGES:
        return [case.command, "--output_dir", OUT]
    return next(words for words in LOOKING if words[0] == case.command)


def _outcome(all_of: Damaged, case: Case, folder: Path, done: Done) -> str:
    """ "right", "refused", "silent" (another result), "traceback" or "stuck"."""
    if done.stuck:
        return "stuck"
    if done.status not in (0, 2) or "Traceback (most recent call last)" in done.error:
        return "traceback"
    if done.status == 2:
        last = (done.error.strip().splitlines() or [""])[-1]
        return "refused" if last.startswith("letgo: ") else "traceback"
    if case.command in all_of.printed:
        # A list of runs may say of the damaged one what is wrong with it.
        same = done.out == all_of.printed[case.command] or _names(done, case)
        return "right" if same else "silent"
    found, expected = results(folder), all_of.expected[case.source]
    made = [
        name
        for name in expected
        if case.command == "run" or Path(name).parts[1] in STAGES[case.command]
    ]
    differ = {name for name in made if found.get(name) != expected[name]}
    # What a user may change, such as the final model, is left as it is if the command says so.
    return "right" if not differ or (differ == {case.file} and _names(done, case)) else "silent"


def _names(done: Done, case: Case) -> bool:
    """Whether a command has printed the name of the damaged file."""
    return Path(case.file).name in done.error + done.out


def _damage(file: Path, case: Case, root: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    if case.damage == "cut":
        content = content[: draw.randrange(len(content) or 1)]
    elif case.damage == "emptied":
        content = b""
    elif case.damage == "changed":
        start = draw.randrange(max(1, len(content) - CHANGED))
        part = bytes(byte ^ draw.randint(1, 255) for byte in content[start : start + CHANGED])
        content = content[:start] + part + content[start + CHANGED :]
    elif case.damage == "foreign":
        content = (root / "template-other" / case.file).read_bytes()
    else:
        content = _without_a_key(content, draw)
    file.unlink()  # the copy of a folder may share its files with others by links
    file.write_bytes(content)


def _without_a_key(content: bytes, draw: random.Random) -> bytes:
    """JSON, or the lines of a log, without one key or item, at any depth."""
    lines = content.splitlines()
    number = None
    try:
        value = json.loads(content)
    except ValueError:
        number = draw.randrange(len(lines))
        value = json.loads(lines[number])
    inside = [part for part in _parts(value) if part]
    if inside:
        part = draw.choice(inside)
        part.pop(draw.choice(sorted(part) if isinstance(part, dict) else range(len(part))))
    if number is None:
        return json.dumps(value).encode()
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"


def _parts(value: Any) -> list[Any]:
    """All objects and lists in a JSON value."""
    if not isinstance(value, dict | list):
        return []
    items = value.values() if isinstance(value, dict) else value
    return [value, *(part for item in items for part in _parts(item))]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
