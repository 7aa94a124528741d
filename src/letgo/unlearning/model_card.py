"""The model card's sections on Learning With Forgetting: what was forgotten, what was kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from letgo.unlearning.config import LWFConfig

if TYPE_CHECKING:
    from letgo.unlearning.trainer import LWFTrainer

PAPER = {  # as TRL's trainers name theirs, for the card
    "title": "Graceful Forgetting in Generative Language Models",
    "id": "2505.19715",
    "citation": """\
@inproceedings{jiang2025graceful,
    title     = {{Graceful Forgetting in Generative Language Models}},
    author    = {Jiang, Chunyang and Chan, Chi-Min and Cai, Yiyang and Liu, Yulong and Xue, Wei
                 and Guo, Yike},
    year      = 2025,
    booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language
                 Processing},
    pages     = {13165--13180},
    doi       = {10.18653/v1/2025.emnlp-main.666},
    eprint    = {2505.19715},
    archivePrefix = {arXiv}
}""",
}


def section(
    args: LWFConfig, texts: Sequence[str], writer: str, steps: int, guard_counts: dict[str, int]
) -> str:
    """Markdown on what was unlearned and how.

    Args:
        texts: of `Chosen.describe`.
        writer: the model whose texts they are, base or current.
        steps: unlearning steps.
        guard_counts: by guard.
    """
    unit = "update" if args.unlearning_state == "separate" else "gradient"
    strength = (
        f"strength {args.unlearning_strength:g} of a learning {unit}"
        if args.unlearning_rate is None
        else f"learning rate {args.unlearning_rate:g}"
    )
    counts = ", ".join(f"{name} {count}" for name, count in guard_counts.items())
    lines = [
        *texts,
        f"texts of the {writer} model",
        f"fraction of the texts that may be unlearned: {args.forget_fraction:g}",
        f"{steps} unlearning steps, one for every N_u = {args.unlearning_interval} learning steps, "
        f"schedule {args.unlearning_schedule}",
        f"loss {args.unlearning_loss}, {strength}, {args.unlearning_state} optimizer state",
        f"guards: ceiling {args.unlearning_ceiling:g} nats per token, gradient norm at most "
        f"{args.unlearning_max_grad_norm:g}, pause at {args.unlearning_max_rise:g} nats above the "
        f"lowest learning loss; {counts}",
        f"seeds: training {args.seed}, data {args.data_seed or args.seed}",
    ]
    listed = "\n".join(f"- {line}" for line in lines)
    return (
        f"\n## What was forgotten\n\nLearning With Forgetting (arXiv 2505.19715; not Learning "
        f"without Forgetting): while the model was fine-tuned, some of the texts that the base "
        f"model had generated were unlearned.\n\n{listed}\n"
    )


def kept_section(args: LWFConfig, texts: int, steps: int) -> str:
    """Markdown on what was kept: the number of texts, the number of steps on them, and how."""
    loss = (
        f"kl, the divergence from the base model at each token of a text (its {args.keep_top_k} "
        f"likeliest tokens, all others as one)"
        if args.keep_loss == "kl"
        else "nll, the negative log-likelihood of the texts"
    )
    return (
        f"\n## What was kept\n\nIn some steps the model was trained to stay as the base model was "
        f"on texts to keep.\n\n- {texts} texts to keep\n- {steps} keep steps, {args.keep_share:g} "
        f"for each learning step\n- loss {loss}\n"
    )


# TRL names a model None that is no hub id.
UNNAMED = {
    "version of [None](https://huggingface.co/None)": "version of a model in a local folder",
    'model="None"': 'model="path/to/this/folder"',
}


def append_sections(trainer: "LWFTrainer") -> None:
    """Add what was unlearned and what was kept to the model card, if there is one."""
    card, sections = Path(trainer.args.output_dir) / "README.md", []
    plan, done = trainer.plan, trainer.state.global_step
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
        done = trainer.state.best_global_step
    if trainer.forget_dataset is not None:
        texts, counts = trainer.chosen.describe(), trainer.tracker.guard_counts
        is_current = trainer.rescore is not None and trainer.rescore.current is not None
        writer = "current" if is_current else "base"
        sections.append(section(trainer.args, texts, writer, plan.unlearned(done), counts))
    if trainer.keep_dataset is not None:
        kept = len(trainer.keep_dataset)
        sections.append(kept_section(trainer.args, kept, plan.kept(done)))
    if card.exists():
        text = card.read_text(encoding="utf-8")
        for unnamed, name in UNNAMED.items():
            text = text.replace(unnamed, name)
        card.write_text(text + "".join(sections), encoding="utf-8")
