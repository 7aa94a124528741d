"""Schedules: which steps are unlearning steps, and how strong they are."""

import pytest
from helpers.training import FORGET, config, same, train, weights
from trl import SFTTrainer

from letgo import LWFTrainer
from letgo.unlearning.schedule import SCHEDULES, Plan, unlearning_steps


def test_schedules_differ_only_in_where_unlearning_steps_are():
    assert unlearning_steps("early", 7, 3, 0) == [True] * 2 + [False] * 7
    drawn = unlearning_steps("random", 40, 4, 1)
    assert (drawn.count(True), drawn.count(False)) == (10, 40)
    assert drawn == unlearning_steps("random", 40, 4, 1) != unlearning_steps("random", 40, 4, 2)
    for name in ("periodic", "warmup", "decay", "adaptive"):
        assert unlearning_steps(name, 4, 2, 0) == [False, False, True] * 2
    assert all(
        unlearning_steps(name, 5, 0, 0) == [False] * 5 for name in ("periodic", "early", "random")
    )


def test_warmup_and_decay_are_linear():
    strengths = {
        name: [Plan([False, True] * 4, name).strength(step) for step in (1, 3, 5, 7)]
        for name in SCHEDULES
    }
    assert strengths.pop("warmup") == [0.25, 0.5, 0.75, 1.0]
    assert strengths.pop("decay") == [1.0, 0.75, 0.5, 0.25]
    assert all(each == [1.0] * 4 for each in strengths.values())
    assert Plan([False, True], "warmup").strength(0) == 0


def test_a_plan_counts_steps_and_epochs():
    plan = Plan([False, True, False, False, True], steps_per_epoch=2)
    assert [plan.is_unlearning(step) for step in range(6)] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert [plan.learned(step) for step in range(7)] == [0, 1, 1, 2, 3, 3, 3]
    assert [plan.unlearned(step) for step in range(7)] == [0, 0, 1, 1, 1, 2, 2]
    assert [plan.epoch_ends(step) for step in range(6)] == [False, False, False, True, False, False]
    assert Plan([False, False, True], steps_per_epoch=2).epoch_ends(3)  # not before the 3rd step
    assert not Plan([False, False, True], steps_per_epoch=2).epoch_ends(2)
    assert len(Plan([])) == Plan([]).learned(3) == 0


@pytest.mark.parametrize("schedule", ["early", "random", "warmup", "decay"])
def test_learning_steps_are_the_same_whatever_the_schedule(tmp_path, schedule):
    """With strength 0 any schedule gives plain fine-tuning."""
    arguments = config(tmp_path, unlearning_schedule=schedule, unlearning_strength=0.0)
    ours = train(LWFTrainer, arguments, FORGET)
    assert ours.plan.steps == unlearning_steps(schedule, 12, 3, 5)
    assert same(weights(ours), weights(train(SFTTrainer, config(tmp_path))))
