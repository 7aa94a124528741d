"""Settings outside their range, and settings that exclude each other."""

import pytest
from helpers.training import config

from letgo.errors import InputError


def test_rates_and_strengths_exclude_each_other(tmp_path):
    for changes, message in (
        ({"unlearning_rate": 1e-3, "unlearning_strength": 0.1}, "exclude each other"),
        ({"unlearning_schedule": "adaptive", "unlearning_rate": 1e-3}, "adaptive"),
        ({"unlearning_schedule": "sometimes"}, "--unlearning_schedule must be one of"),
        ({"unlearning_loss": "gradient"}, "--unlearning_loss must be one of"),
        ({"unlearning_state": "own"}, "--unlearning_state must be one of"),
        ({"unlearning_strength": -1.0}, "--unlearning_strength must be"),
        ({"unlearning_max_rise": 0.0}, "--unlearning_max_rise must be"),
        ({"regularizer": "dropout"}, "--regularizer must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            config(tmp_path, **changes)
