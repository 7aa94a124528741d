"""A finished study of a tiny model."""

import pytest
from helpers.commands import letgo
from helpers.study import write_study


@pytest.fixture(scope="session", autouse=True)
def talk(data):
    """$LETGO_TALK, the path of one of the forgetting sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LETGO_TALK", str(data / "talk.jsonl"))
        yield


@pytest.fixture(scope="session")
def finished_study(tiny, data, tmp_path_factory):
    """The folder of a study that ran to its end, and what it printed."""
    folder = tmp_path_factory.mktemp("study")
    file = write_study(folder / "small.yaml", tiny, data)
    status, out, error = letgo("study", file, "--output_dir", folder / "out", "--jobs", 2)
    assert status == 2
    assert "1 of 3 runs failed, first sums--talk--broken--0" in error
    return folder / "out", out, error
