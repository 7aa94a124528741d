"""Run the `letgo` command in a process that kills itself (SIGKILL) at a named place.

usage: python killing.py PLACE COMMAND [FLAGS ...]; exists so that a test can die in every stage.
"""

import os
import signal
import sys


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def after_chunk(prefix):
    """Die when the first chunk whose file starts so is on disk."""
    from letgo.run import stage

    write = stage.write_json

    def write_and_die(path, value):
        write(path, value)
        if path.name.startswith(prefix):
            die()

    stage.write_json = write_and_die


def at_step(name, step):
    """Die in an optimizer step of the training with this name."""
    from letgo.stages import fit

    end = fit._ShowProgress.on_step_end

    def end_or_die(self, args, state, control, **kwargs):
        if self.name == name and state.global_step == step:
            die()
        end(self, args, state, control, **kwargs)

    fit._ShowProgress.on_step_end = end_or_die


def in_checkpoint(step):
    """Die while a checkpoint is written: weights are there, the rest is not."""
    from letgo.unlearning.trainer import LWFTrainer

    save = LWFTrainer._save_optimizer_and_scheduler

    def save_or_die(self, folder):
        if self.state.global_step == step:
            die()
        save(self, folder)

    LWFTrainer._save_optimizer_and_scheduler = save_or_die


def while_asking(count):
    """Die when the model in training has written so many batches of answers."""
    from letgo.unlearning.current import CurrentAnswers

    answers, batches = CurrentAnswers._answers, []

    def answers_and_die(self, indices):
        result = answers(self, indices)
        batches.append(indices)
        if len(batches) == count:
            die()
        return result

    CurrentAnswers._answers = answers_and_die


def half_a_fisher():
    """Die while the Fisher information is written."""
    from letgo.scoring import fisher

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        die()

    fisher.save_file = half


def between_renames():
    """Die when one of the training's two outputs has its name and the other has not."""
    from pathlib import Path

    rename = Path.replace

    def rename_and_die(self, target):
        result = rename(self, target)
        if Path(target).name == "lwf":
            die()
        return result

    Path.replace = rename_and_die


PLACES = {
    "elicit": lambda: after_chunk("elicit+talk"),
    "keep": lambda: after_chunk("keep+neutral"),
    "probe": lambda: at_step("fine-tune (SFT)", 5),
    "probe checkpoint": lambda: in_checkpoint(8),
    "fisher": half_a_fisher,
    "score": lambda: after_chunk("score-000001"),
    "train": lambda: at_step("fine-tune (LWF)", 9),
    "rule": lambda: after_chunk("evaluate+sft_rule"),
    "train renames": between_renames,
    "baseline": lambda: after_chunk("evaluate+sft"),
    "relearn": lambda: after_chunk("evaluate+lwf+forget"),
    "evaluate": lambda: after_chunk("evaluate+lwf"),
    "audit at base": lambda: after_chunk("audit+at"),
    "audit fit": lambda: at_step("reference model 2 of 2", 5),
    "audit losses": lambda: after_chunk("audit+by+reference+model+2"),
    "asking": lambda: while_asking(2),
    "nowhere": lambda: None,
}

if __name__ == "__main__":
    PLACES[sys.argv.pop(1)]()
    from letgo.cli import main

    main()
