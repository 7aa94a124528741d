"""Two processes on the CPU against one, started with the accelerate configurations we ship."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from helpers.commands import flags, letgo
from helpers.training import FORGET, KEEP, config, train

from letgo import LWFTrainer

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
CONFIGS = files("letgo") / "accelerate_configs"
# The same optimizer steps of 8 examples: 2 processes x 2 x 2 are 4 x 2 or 1 x 8 on one. The last
# step of an epoch has 6.
ON_TWO = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
ON_ONE = (
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
)
RATE = {"unlearning_rate": 2e-3}  # and with it, shared state
NPO, GRADDIFF = {"unlearning_loss": "npo"}, {"unlearning_loss": "graddiff"}
RATES = {"rate": RATE, "npo, rate": {**NPO, **RATE}, "graddiff, rate": {**GRADDIFF, **RATE}}
STRENGTHS = {"strength": {}, "npo, strength": NPO, "graddiff, strength": GRADDIFF}
# These need norms over all shards: of the gradient, of a learning update, of the estimate before
# the first update, and of the running mean.
SHARDS = {
    "rate": RATE,
    "npo, strength": NPO,
    "strength, shared": {"unlearning_state": "shared"},
    "early": {"unlearning_schedule": "early"},
    "adaptive": {"unlearning_schedule": "adaptive"},
}
# Keep steps use the optimizer of the learning steps.
KEPT = {"kept": {**RATE, "kept": True, "keep_share": 0.5}}
RESCORED = {"rescored": {**RATE, "rescore_interval": 2, "rescore_texts": 9, "forget_fraction": 0.9}}
# DeepSpeed cannot scale a step. With every text above the ceiling an unlearning step has no effect.
DEEPSPEED = {**RATES, "forgotten": {**RATE, "unlearning_ceiling": 1e-6}}


def environment():
    """Environment of a launcher: on the CPU of this machine."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }


@contextmanager
def launched(folder, name, cases):
    """Two running processes of `distributed_worker.py` under one of our configurations.

    Yields a function that waits for their results.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "cases.json").write_text(
        json.dumps({case: {**ON_TWO, **changes} for case, changes in cases.items()})
    )
    log = folder / "log.txt"

    def results():
        assert running.wait(timeout=300) == 0, log.read_text()[-3000:]
        return torch.load(folder / "results.pt", weights_only=True)

    with log.open("w") as output:
        running = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "accelerate.commands.launch",
                "--config_file",
                str(CONFIGS / f"{name}.yaml"),
                "--num_processes",
                "2",
                "--main_process_ip",
                "127.0.0.1",
                "--main_process_port",
                str(port),
                str(TESTS / "helpers" / "distributed_worker.py"),
                str(folder / "cases.json"),
                str(folder / "results.pt"),
            ],
            env=environment(),
            stdout=output,
            stderr=output,
        )
        try:
            yield results
        finally:
            running.terminate()  # the launcher ends its processes
            running.wait()


def alone(folder, changes):
    """Weights and log of the same run in this process."""
    keep = KEEP if changes.pop("kept", False) else None
    trainer = train(LWFTrainer, config(folder, **changes), FORGET, keep=keep)
    return trainer.model.state_dict(), trainer.state.log_history


def assert_same(case, results, weights, log):
    """The same weights, and the same log line at every step."""
    assert results["weights"].keys() == weights.keys()
    for name, expected in weights.items():
        torch.testing.assert_close(
            results["weights"][name], expected, rtol=1e-4, atol=1e-5, msg=lambda m: f"{case}: {m}"
        )
    assert len(results["log"]) == len(log)
    unlearned = 0
    for ours, theirs in zip(results["log"][:-1], log[:-1], strict=True):
        names = [n for n in theirs if n.startswith(("unlearn/", "keep/"))]
        names += [n for n in ("loss", "learning_rate") if n in theirs]
        unlearned += "unlearn/loss" in names
        assert [ours[n] for n in names] == pytest.approx([theirs[n] for n in names], rel=1e-3), case
    assert unlearned == 2


@pytest.mark.parametrize(
    ("name", "kind", "cases"),
    [
        ("ddp", "MULTI_CPU", {**RATES, **STRENGTHS, **RESCORED, **KEPT}),
        ("fsdp2", "FSDP", {**SHARDS, **KEPT}),
        ("zero2", "DEEPSPEED", {**DEEPSPEED, **KEPT}),
        ("zero3", "DEEPSPEED", {**DEEPSPEED, **KEPT}),
    ],
)
def test_two_processes_equal_one(tmp_path, name, kind, cases):
    """Whatever the process count and the accumulation, as long as the steps' batches agree."""
    deepspeed = name.startswith("zero")
    if deepspeed and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    refused = ["strength"] if deepspeed else []
    # A checkpoint is written and read by all processes together.
    interrupted = {"interrupted": {**cases["rate"], "interrupted_at": 4}}
    with launched(
        tmp_path, name, {**cases, **interrupted, **{case: {} for case in refused}}
    ) as wait:
        expected = [
            (case, *alone(tmp_path, {**one, **changes}))
            for case, changes in cases.items()
            for one in (ON_ONE if case == "strength" else ON_ONE[:1])
        ]
        results = wait()
    for case in refused:
        assert "set --unlearning_rate with" in results[case]["refused"]
    for case, weights, log in expected:
        assert (results[case]["kind"], results[case]["processes"]) == (kind, 2)
        kinds = {0, 1, 2} if case == "kept" else {0, 1}
        assert set(results[case]["steps"]) == kinds
        assert_same(case, results[case], weights, log)
    for resumed, whole in zip(
        results["interrupted"]["weights"].values(), results["rate"]["weights"].values(), strict=True
    ):
        torch.testing.assert_close(resumed, whole, rtol=1e-4, atol=1e-5)


def test_learning_alone_is_that_of_trl(tmp_path):
    """Bit for bit without unlearning, or with strength 0 where batches are dropped."""
    dropped, no_strength = {"dataloader_drop_last": True}, {"unlearning_strength": 0.0}
    # More examples than there are texts: the second process has none in an unlearning step.
    alone = {
        "per_device_train_batch_size": 9,
        "gradient_accumulation_steps": 1,
        "unlearning_interval": 1,
    }
    cases = {
        "trl": {"trl": True},
        "off": {"unlearning_interval": 0},
        "trl, dropped": {"trl": True, **dropped},
        "zero strength, dropped": {**dropped, **no_strength},
        "own tokens": {**alone, "average_tokens_across_devices": False},
    }
    with launched(tmp_path, "ddp", cases) as wait:
        results = wait()
    for theirs, ours in (("trl", "off"), ("trl, dropped", "zero strength, dropped")):
        assert results[ours]["processes"] == 2
        expected, weights = results[theirs]["weights"], results[ours]["weights"]
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
        losses = [
            [(e["loss"], e["grad_norm"]) for e in results[case]["log"] if "loss" in e]
            for case in (theirs, ours)
        ]
        assert losses[0] == losses[1]
        assert len(losses[0]) == 6
    assert 1 in results["zero strength, dropped"]["steps"]
    losses = [e["unlearn/loss"] for e in results["own tokens"]["log"] if "unlearn/loss" in e]
    assert len(losses) == 4
    assert torch.tensor(losses).isfinite().all()


def test_two_processes_ask_what_one_does(tmp_path):
    """`self_knowledge="current"`: the same answers, weights and log; refused where it cannot be."""
    case = {**RATE, "self_knowledge": "current", "rescore_interval": 2}
    with launched(tmp_path, "ddp", {"current": case}) as wait:
        weights, log = alone(tmp_path, {**ON_ONE[0], **case})
        results = wait()["current"]
    assert (results["kind"], results["processes"]) == ("MULTI_CPU", 2)
    assert_same("current", results, weights, log)
    assert any(entry.get("unlearn/helpful", 0) > 0 for entry in log)
    with launched(tmp_path, "fsdp2", {"current": case}) as wait:
        assert "needs whole weights in every process" in wait()["current"]["refused"]


def test_two_processes_score_what_one_does(tiny, data, tmp_path):
    """The same file, byte for byte."""
    one, two = tmp_path / "one", tmp_path / "two"
    for command in ("elicit", "probe", "fisher"):
        status, _, error = letgo(command, *flags(tiny, data, one))
        assert status == 0, error
    shutil.copytree(one, two)
    assert letgo("score", *flags(tiny, data, one))[0] == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(CONFIGS / "ddp.yaml"),
            "--num_processes",
            "2",
            "--main_process_ip",
            "127.0.0.1",
            "--main_process_port",
            str(port),
            "-m",
            "letgo",
            "score",
            *flags(tiny, data, two),
            "--explain",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("score gradient, ") == 1  # only one process prints
    assert (one / "scores.parquet").read_bytes() == (two / "scores.parquet").read_bytes()
    assert not (two / "score.part").exists()
