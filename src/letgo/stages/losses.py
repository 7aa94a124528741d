"""The losses of many rows under a model, saved chunk by chunk: shared by score and audit."""

from pathlib import Path

from letgo.models.inference import LanguageModel, Row
from letgo.run import folder as files
from letgo.run.stage import in_chunks


def losses_by_index(
    name: str, scratch: Path, lm: LanguageModel, rows: list[Row], batches: list[list[int]]
) -> dict[int, float]:
    """Mean NLL of each row, nats per token, by its index.

    Args:
        name: for the progress bar; distinct within the stage.
        batches: lists of indices into `rows`.
    """

    def losses(batch: list[int]) -> list[files.Row]:
        values = lm.losses([rows[i] for i in batch])
        return [{"index": i, "loss": loss} for i, loss in zip(batch, values, strict=True)]

    return {row["index"]: row["loss"] for row in in_chunks(name, scratch, batches, losses)}
