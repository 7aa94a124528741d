"""The stream of batches: every learning example once per epoch, unlearning as planned."""

from types import SimpleNamespace

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from letgo.unlearning.losses import LOSSES
from letgo.unlearning.schedule import SCHEDULES, Plan, unlearning_steps
from letgo.unlearning.stream import StepStream


@pytest.mark.parametrize(
    ("steps", "interval", "expected"),
    [
        (7, 3, [0, 0, 0, 1, 0, 0, 0, 1, 0]),
        (4, 1, [0, 1, 0, 1, 0, 1, 0, 1]),
        (3, 5, [0, 0, 0]),
        (3, 0, [0, 0, 0]),
        (6, 3, [0, 0, 0, 1, 0, 0, 0, 1]),
    ],
)
def test_one_unlearning_step_after_every_interval(steps, interval, expected):
    assert unlearning_steps("periodic", steps, interval, 0) == [bool(kind) for kind in expected]


def processes(accumulation, world, rank, mixed=False):
    """The settings of one process, with a loss that mixes in learning examples or does not."""
    return SimpleNamespace(
        gradient_accumulation_steps=accumulation,
        world_size=world,
        process_index=rank,
        seed=1,
        unlearning_loss=next(name for name, loss in LOSSES.items() if loss.mixes_learning is mixed),
    )


def streams(examples, forget, batch, accumulation, world, interval, epochs):
    """For every step whether it is an unlearning step, and the micro-batches of every process."""
    per_step = batch * accumulation * world
    steps = epochs * -(-examples // per_step)
    is_unlearning = unlearning_steps("periodic", steps, interval, 0)
    made = []
    for rank in range(world):
        learning = BatchSampler(SequentialSampler(range(examples)), batch, drop_last=False)
        stream = StepStream(
            Plan(is_unlearning),
            learning,
            examples,
            forget,
            batch,
            processes(accumulation, world, rank),
        )
        made.append(list(stream))
        assert len(made[-1]) == len(stream) == len(is_unlearning) * accumulation
    return is_unlearning, made


@pytest.mark.parametrize("examples", [1, 7, 16, 29])
@pytest.mark.parametrize("forget", [1, 5, 40])
@pytest.mark.parametrize(("batch", "accumulation", "world"), [(4, 1, 1), (2, 2, 1), (3, 2, 2)])
def test_every_example_is_seen_as_planned(examples, forget, batch, accumulation, world):
    epochs = 3
    is_unlearning, made = streams(examples, forget, batch, accumulation, world, 2, epochs)
    empty = examples + forget
    learned, unlearned = [], []
    for step, unlearning in enumerate(is_unlearning):
        part = slice(step * accumulation, (step + 1) * accumulation)
        seen = [i for stream in made for micro in stream[part] for i in micro if i != empty]
        assert all((i >= examples) is unlearning for i in seen)
        assert len(seen) == len(set(seen))  # no example twice in a step
        (unlearned if unlearning else learned).append(seen)
    everything = [i for step in learned for i in step]
    assert sorted(everything) == sorted(list(range(examples)) * epochs)
    for step in unlearned:
        assert len(step) == min(forget, batch * accumulation * world)
    counts = [sum(i in step for step in unlearned) for i in range(examples, empty)]
    assert max(counts) - min(counts) <= 1 + (forget < batch * accumulation * world)


def test_steps_hold_the_same_examples_however_they_are_split():
    whole = streams(29, 11, 4, 1, 1, 2, 2)
    for batch, accumulation, world in [(1, 4, 1), (2, 2, 1), (1, 2, 2), (2, 1, 2), (1, 1, 4)]:
        is_unlearning, made = streams(29, 11, batch, accumulation, world, 2, 2)
        assert is_unlearning == whole[0]
        for step in range(len(is_unlearning)):
            part = slice(step * accumulation, (step + 1) * accumulation)
            seen = {i for stream in made for micro in stream[part] for i in micro} - {40}
            assert seen == set(whole[1][0][step])


def test_the_forget_stream_depends_on_the_seed_only():
    first, again = streams(8, 20, 4, 1, 1, 1, 4)[1], streams(8, 20, 4, 1, 1, 1, 4)[1]
    assert first == again


@settings(max_examples=50, deadline=None)
@given(
    examples=st.integers(1, 40),
    forget=st.integers(1, 15),
    batch=st.integers(1, 3),
    interval=st.integers(1, 5),
)
def test_processes_split_what_one_would_accumulate(examples, forget, batch, interval):
    """1 process x 4 micro-batches = 2 x 2 = 4 x 1, in learning and in unlearning steps."""
    results = []
    for world in (1, 2, 4):
        accumulation = 4 // world
        is_unlearning, made = streams(examples, forget, batch, accumulation, world, interval, 2)
        steps = [
            [
                made[rank][step * accumulation + i]
                for i in range(accumulation)
                for rank in range(world)
            ]
            for step in range(len(is_unlearning))
        ]
        results.append((is_unlearning, steps))
    assert results[0] == results[1] == results[2]


@settings(max_examples=50, deadline=None)
@given(
    examples=st.integers(1, 40),
    batch=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 3),
)
def test_dropped_batches_are_those_that_the_trainer_drops(examples, batch, accumulation, world):
    """With drop_last every process gets the micro-batches that accelerate would give it."""
    for rank in range(world):
        learning = BatchSampler(SequentialSampler(range(examples)), batch, drop_last=True)
        theirs = list(BatchSamplerShard(learning, world, rank))
        steps = -(-len(theirs) // accumulation)
        stream = StepStream(
            Plan([False] * (2 * steps)),
            learning,
            examples,
            3,
            batch,
            processes(accumulation, world, rank),
        )
        assert [b for b in stream if b != [examples + 3]] == theirs * 2


@settings(max_examples=150, deadline=None)
@given(
    examples=st.integers(1, 40),
    forget=st.integers(1, 15),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 3),
    interval=st.integers(0, 7),
    epochs=st.integers(1, 3),
    schedule=st.sampled_from(SCHEDULES),
    mixed=st.booleans(),
)
def test_any_stream_is_complete(
    examples, forget, batch, accumulation, world, interval, epochs, schedule, mixed
):
    """Every learning example once per epoch, unlearning as often as planned, steps of one kind."""
    steps = epochs * -(-examples // (batch * accumulation * world))
    is_unlearning = unlearning_steps(schedule, steps, interval, 7)
    assert is_unlearning.count(False) == steps
    assert is_unlearning.count(True) == (steps // interval if interval else 0)
    empty = examples + forget
    made = []
    for rank in range(world):
        learning = BatchSampler(SequentialSampler(range(examples)), batch, drop_last=False)
        stream = StepStream(
            Plan(is_unlearning),
            learning,
            examples,
            forget,
            batch,
            processes(accumulation, world, rank, mixed),
        )
        made.append(list(stream))
        assert len(made[-1]) == len(stream) == len(is_unlearning) * accumulation
    learned = []
    for step, unlearning in enumerate(is_unlearning):
        micro = [b for m in made for b in m[step * accumulation : (step + 1) * accumulation]]
        seen = [i for b in micro for i in b if i != empty]
        if unlearning:
            own = [i for i in seen if i >= examples]
            assert len(own) == len(set(own)) == stream.texts_per_step
            assert len(seen) == len(own) * (2 if mixed else 1)
        else:
            assert max(seen) < examples
            learned += seen
    assert sorted(learned) == sorted(list(range(examples)) * epochs)
