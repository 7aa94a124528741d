"""`letgo chat`: the models of a run answer side by side, token by token."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text
from transformers import TextStreamer

from letgo.cli.commands import silence_libraries
from letgo.data.conversations import prompt_of
from letgo.data.tokens import prompt_ids
from letgo.errors import InputError, printable
from letgo.models.inference import LanguageModel
from letgo.run import config as cfg
from letgo.run.base import load_to_ask
from letgo.run.folder import LWF, PROBE, Output, require

OUTPUTS: dict[str, Output | None] = {"base": None, "sft": PROBE, "lwf": LWF}
ASK, END = "> ", ("/quit", "/exit")

Messages = list[dict[str, str]]


def chat(folder: Path, names: Sequence[str], prompts: Sequence[str], new_tokens: int) -> None:
    """Answer `prompts`, or without them what is typed, as one conversation with each model.

    Raises:
        InputError: the run has not made one of the models.
    """
    silence_libraries()
    models = load_models(folder, names)
    conversations: dict[str, Messages] = {name: [] for name in models}
    console = Console(highlight=False)
    if not prompts and sys.stdin.isatty():
        console.print("/new begins another conversation, /quit ends", style="dim")
    for text in prompts or typed():
        if text == "/new":
            conversations = {name: [] for name in models}
            continue
        for messages in conversations.values():
            messages.append({"role": "user", "content": text})
        answer_all(console, models, conversations, new_tokens)


def load_models(folder: Path, names: Sequence[str]) -> dict[str, LanguageModel]:
    """The models of a run by name; all that it has if no names are given."""
    if not (folder / "config.yaml").exists():
        raise InputError(f"{folder} is no run; give a run's --output_dir")
    config = cfg.of_folder("chat", folder)
    has = [n for n, output in OUTPUTS.items() if output is None or (folder / output.name).exists()]
    chosen = dict.fromkeys(names or has)
    paths = {n: require(folder, output) if (output := OUTPUTS[n]) else None for n in chosen}
    return {name: load_to_ask(config, path) for name, path in paths.items()}


def typed() -> Any:
    """The lines of standard input, up to its end or a command to end."""
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input(ASK if is_terminal else "").strip()
        except EOFError:
            return
        if line in END:
            return
        if line:
            yield line


def answer_all(
    console: Console,
    models: dict[str, LanguageModel],
    conversations: dict[str, Messages],
    new_tokens: int,
) -> None:
    """Print the answer of every model as it is made, and add it to the model's conversation."""
    answers = dict.fromkeys(models, "")

    def panels() -> Columns:
        width = max(20, console.width // len(models) - 1)
        return Columns(
            [Panel(Text(printable(a)), title=n, width=width) for n, a in answers.items()], padding=0
        )

    # A file or pipe gets the finished answers only.
    with Live(panels(), console=console, auto_refresh=False, transient=True) as live:
        for name, lm in models.items():

            def show(piece: str, name: str = name) -> None:
                answers[name] += piece
                live.update(panels(), refresh=console.is_terminal)

            answer(lm, conversations[name], new_tokens, show)
            conversations[name].append({"role": "assistant", "content": answers[name]})
    console.print(panels())


def answer(lm: LanguageModel, messages: Messages, new_tokens: int, show: Any) -> None:
    """Generate the greedy answer to a conversation; `show` gets every piece of its text."""
    ids = prompt_ids(lm.tokenizer, conversation(lm, messages))
    if len(ids) >= lm.limit:
        show("(the conversation fills the context of the model; /new begins another)")
        return
    streamer = TextStreamer(lm.tokenizer, skip_prompt=True, skip_special_tokens=True)
    streamer.on_finalized_text = lambda text, stream_end=False: show(text)
    lm.generate([ids], new_tokens, streamer)


def conversation(lm: LanguageModel, messages: Messages) -> str:
    """The prompt that the messages are; without a chat template the last of them."""
    return prompt_of(messages) if lm.tokenizer.chat_template else messages[-1]["content"]
