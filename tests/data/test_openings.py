"""The built-in keep set."""

from letgo.data.openings import neutral_openings
from letgo.evaluation.neutral import neutral_texts


def test_the_openings_are_distinct_prompts_of_their_own():
    records = neutral_openings()
    assert len({record.prompt for record in records}) == len(records) == 124
    assert all(record.completion is None for record in records)
    texts = " ".join(neutral_texts().values())
    assert not [record.prompt for record in records if record.prompt in texts]
