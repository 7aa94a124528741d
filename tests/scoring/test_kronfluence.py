"""letgo's diagonal Fisher information against that of the library kronfluence (arXiv 2308.03296).

kronfluence is in the extra `bench`, not in `dev`; without it this test is skipped.
"""

import copy

import pytest
import torch
from helpers.models import language_model, make_model

from letgo.models.inference import Batch, example_losses, pad_rows
from letgo.scoring.fisher import estimate
from letgo.scoring.weights import scored_weights

pytest.importorskip("kronfluence", reason="the extra `bench` (kronfluence) is not installed")


@pytest.mark.parametrize("tied", [True, False])
def test_diagonal_fisher_equals_kronfluences(rows, tied, tmp_path):
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.task import Task

    model = make_model(tied=tied)
    weights = scored_weights(model)

    class Texts(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return example_losses(model, Batch(*batch)).sum()

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return list(weights.layers)

    task = Texts()
    analyzer = Analyzer(
        "tiny",
        prepare_model(copy.deepcopy(model), task),
        task,
        cpu=True,
        output_dir=str(tmp_path),
        disable_tqdm=True,
    )
    analyzer.fit_lambda_matrices(
        "diagonal",
        torch.utils.data.TensorDataset(*pad_rows(rows, 1)),
        per_device_batch_size=3,
        factor_args=FactorArguments(strategy="diagonal", use_empirical_fisher=True),
    )
    theirs = analyzer.load_lambda_matrices("diagonal")
    batches = weights.batches([len(row["input_ids"]) for row in rows], 24)
    ours = estimate("diagonal", language_model(model), weights, rows, batches)[0]
    assert set(theirs["lambda_matrix"]) == set(ours)
    for name, matrix in ours.items():
        # kronfluence gives the sum over examples and their number.
        mean = theirs["lambda_matrix"][name] / theirs["num_lambda_processed"][name]
        torch.testing.assert_close(matrix.tensors["diagonal"], mean, rtol=1e-4, atol=1e-9)
