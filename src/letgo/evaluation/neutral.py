"""Text that belongs to no task: its likelihood shows what training changed besides the task."""

from importlib import resources

from letgo.data.records import text_fingerprint
from letgo.data.tokens import training_row
from letgo.models.inference import LanguageModel, context_length

BATCH = 8


def neutral_texts() -> dict[str, str]:
    """Paragraphs by id: everyday prose and passages from well-known books, in English."""
    file = resources.files("letgo.evaluation").joinpath("neutral.txt")
    paragraphs = file.read_text(encoding="utf-8").strip().split("\n\n")
    return {text_fingerprint(text): text for text in paragraphs}


def neutral_nll(lm: LanguageModel) -> dict[str, float]:
    """Mean NLL of every paragraph by its id, nats per token, over all tokens but the first.

    The model reads the text without a chat template, cut at its context length.
    """
    limit = context_length(lm.model.config, None)
    ids = {name: lm.tokenizer(text)["input_ids"][:limit] for name, text in neutral_texts().items()}
    names = sorted(ids, key=lambda name: (len(ids[name]), name))
    nll: dict[str, float] = {}
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        losses = lm.losses([training_row(ids[name][:1], ids[name][1:]) for name in batch])
        nll.update(zip(batch, losses, strict=True))
    return nll
