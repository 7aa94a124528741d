"""Methods that compute two products of every text's gradient: letgo, plain autograd, libraries.

The products are `<v, G>` and `<G, F G>`, with G the text's gradient and F diagonal. Each function
takes a `Setting`, makes preparations, and returns the function to be timed.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from letgo.models.bundled import resolve
from letgo.models.inference import Batch, autocast, example_losses
from letgo.scoring.fisher import Diagonal, Factored
from letgo.scoring.gradients import per_example
from letgo.scoring.measure import along, fisher_norms, gradient_products, plain_norms
from letgo.scoring.weights import keep_in_bfloat16, scored_weights

LIBRARIES = ("kronfluence", "opacus", "bergson")
OURS = ("floor", "diagonal", "factored", "default", "linear")
Products = dict[str, Tensor]  # each (batch,)


class Setting:
    """A model, a batch, and fixed inputs: the direction v and the diagonal F."""

    def __init__(self, shape: tuple[int, int], bf16: bool, model: Any = None):
        self.model = model or load()
        self.bf16 = bf16
        self.weights = scored_weights(self.model)
        ids = torch.randint(100, 40000, shape, generator=torch.manual_seed(0))
        self.batch = Batch(ids, torch.ones_like(ids), ids)
        self.inputs: dict[Any, dict[str, Tensor]] = {}

    def fixed(self, kind: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """A random "direction" or diagonal "fisher", (out, in) per matrix; cached."""
        generator = torch.manual_seed(1 if kind == "fisher" else 2)
        if (kind, dtype) not in self.inputs:
            random = {
                name: torch.randn(shape, generator=generator).to(dtype)
                for name, shape in self.weights.shapes.items()
            }
            # Squares above zero, because one method divides by them.
            self.inputs[kind, dtype] = (
                {n: m.square_().add_(0.1) for n, m in random.items()}
                if kind == "fisher"
                else random
            )
        return self.inputs[kind, dtype]

    def on(self, model: Any) -> "Setting":
        """The same setting with another model."""
        other = copy.copy(self)
        other.model, other.inputs = model, dict(self.inputs)
        other.weights = scored_weights(model)
        return other

    def direction(self) -> dict[str, Tensor]:
        """The direction in the dtype of the backward pass, which letgo uses."""
        return self.fixed("direction", torch.bfloat16 if self.bf16 else torch.float32)

    def losses(self, model: Any = None, batch: Batch | None = None) -> Tensor:
        """The mean NLL of each text, (batch,)."""
        with autocast(self.bf16):
            return example_losses(model or self.model, batch or self.batch)


def load() -> Any:
    """The model, copied into memory: as loaded, its weights are mapped from the file."""
    model = AutoModelForCausalLM.from_pretrained(resolve("smollm2-135m"), dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


def products_of(s: Setting, gradients: Mapping[str, Tensor]) -> Products:
    """Both products from the gradients, (batch, out, in) per matrix, which it overwrites."""
    sums = {"linear": torch.zeros(1), "quadratic": torch.zeros(1)}
    for name, gradient in gradients.items():
        flat = gradient.float().flatten(1)
        sums["linear"] = sums["linear"] + flat @ s.fixed("direction")[name].flatten()
        sums["quadratic"] = sums["quadratic"] + flat.square_() @ s.fixed("fisher")[name].flatten()
    return sums


def ordinary(s: Setting) -> Callable[[], None]:
    """A training step without the optimizer."""

    def work() -> None:
        s.losses().mean().backward()
        s.model.zero_grad()

    return work


def floor(s: Setting) -> Callable[[], Tensor]:
    """Forward pass, and backward pass to the activations: the part that all letgo methods share."""
    if s.bf16:
        keep_in_bfloat16(s.weights)  # as `letgo score` does
    return lambda: per_example(s.model, s.weights, s.batch, lambda *_: None, s.bf16)


def ours(kind: str) -> Callable[[Setting], Callable[[], Products]]:
    """letgo's methods."""

    def prepare(s: Setting) -> Callable[[], Products]:
        if s.bf16:
            keep_in_bfloat16(s.weights)  # as `letgo score` does
        wanted = {"linear": along(s.direction())}
        if kind == "diagonal":
            fisher = s.fixed("fisher")
            wanted["quadratic"] = fisher_norms(
                {n: Diagonal({"diagonal": f}) for n, f in fisher.items()}
            )
        elif kind == "factored":
            factors = {
                n: {"rows": torch.rand(rows), "columns": torch.rand(columns)}
                for n, (rows, columns) in s.weights.shapes.items()
            }
            wanted["quadratic"] = fisher_norms({n: Factored(f) for n, f in factors.items()})
            s.inputs["fisher"] = {f"{n} {part}": f[part] for n, f in factors.items() for part in f}
        elif kind == "default":
            wanted["norm"] = plain_norms
        return lambda: gradient_products(s.model, s.weights, s.batch, wanted, s.bf16)

    return prepare


def interference(s: Setting) -> Callable[[], Tensor]:
    """The losses before and after fine-tuning."""
    probe = copy.deepcopy(s.model)
    s.inputs["probe"] = dict(probe.named_parameters())

    @torch.inference_mode()
    def work() -> Tensor:
        return s.losses(probe) - s.losses()

    return work


def loop(s: Setting) -> Callable[[], Products]:
    """Autograd, one text at a time."""
    names = {f"{name}.weight": name for name in s.weights.layers}
    wanted = {names[n]: p for n, p in s.model.named_parameters() if n in names}
    s.fixed("direction"), s.fixed("fisher")

    def one(row: int) -> Products:
        batch = Batch(*(tensor[row : row + 1] for tensor in s.batch))
        gradients = torch.autograd.grad(s.losses(batch=batch).sum(), list(wanted.values()))
        return products_of(s, {n: g[None] for n, g in zip(wanted, gradients, strict=True)})

    def work() -> Products:
        parts = [one(row) for row in range(len(s.batch.labels))]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    return work


def vmap(s: Setting) -> Callable[[], Products]:
    """The gradients of all texts by `torch.func`."""
    names = {f"{name}.weight": name for name in s.weights.layers}
    wanted = {n: p.detach() for n, p in s.model.named_parameters() if n in names}
    s.fixed("direction"), s.fixed("fisher")

    def loss(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
        more = {"input_ids": ids[None], "use_cache": False}
        with autocast(s.bf16):
            logits = torch.func.functional_call(s.model, weights, kwargs=more).logits[0, :-1]
        return cross_entropy(logits.float(), ids[1:])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))

    @torch.no_grad()
    def work() -> Products:
        gradients = each(wanted, s.batch.input_ids)
        return products_of(s, {names[n]: gradient for n, gradient in gradients.items()})

    return work


def opacus(s: Setting) -> Callable[[], Products]:
    """The gradients of all texts by opacus's hooks; the products afterwards."""
    from opacus import GradSampleModule

    scored = {id(layer.weight) for layer in s.weights.layers.values()}
    for parameter in s.model.parameters():
        parameter.requires_grad_(id(parameter) in scored)
    wrapped = GradSampleModule(s.model.train(), strict=False, loss_reduction="sum")
    s.fixed("direction"), s.fixed("fisher")

    def work() -> Products:
        s.losses(wrapped).sum().backward()
        samples = {n: layer.weight.grad_sample for n, layer in s.weights.layers.items()}
        with torch.no_grad():
            products = products_of(s, samples)
        wrapped.zero_grad()
        return products

    return work


def kronfluence(s: Setting, both: bool = True) -> Callable[[], Products]:
    """kronfluence's pairwise scores with one query, v, and its self scores, in a second pass.

    The preconditioned query and F are set directly, so that only the work per text is timed.
    """
    from kronfluence.analyzer import prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.module.tracked_module import ModuleMode, TrackedModule
    from kronfluence.module.utils import set_mode
    from kronfluence.task import Task as KronfluenceTask

    class Texts(KronfluenceTask):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            return example_losses(model, batch).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return list(s.weights.layers)

    prepare_model(s.model, Texts())
    tracked = [m for m in s.model.modules() if isinstance(m, TrackedModule)]
    for module in tracked:
        module.update_factor_args(FactorArguments(strategy="diagonal"))
        vector = s.fixed("direction")[module.name][None]
        module.storage["accumulated_preconditioned_gradient"] = vector
        if both:
            module.storage["lambda_matrix"] = s.fixed("fisher")[module.name]
    modes = {"linear": (ModuleMode.PAIRWISE_SCORE, "pairwise_score_matrix")}
    if both:
        modes["quadratic"] = (ModuleMode.SELF_SCORE, "self_score_vector")

    def work() -> Products:
        products = {}
        for key, (mode, stored) in modes.items():
            set_mode(s.model, mode)
            s.losses().sum().backward()
            products[key] = sum(module.storage[stored].flatten() for module in tracked)
            for module in tracked:
                module.storage[stored] = None
        return products

    return work


def bergson(s: Setting) -> Callable[[], Products]:
    """bergson's streaming scorer: gradients times sqrt(F), scored against v / sqrt(F), and norms.

    Its Adam normalizer multiplies by sqrt(F), so one pass gives both products.
    """
    from bergson import GradientProcessor, InMemoryCollector, Scorer
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.config import IndexConfig
    from bergson.gradients import AdamNormalizer
    from bergson.score.score_writer import InMemorySequenceScoreWriter
    from datasets import Dataset

    s.model.requires_grad_(False)
    s.model.enable_input_require_grads()
    # bergson needs one trainable weight.
    next(p for p in s.model.parameters() if p.ndim == 1).requires_grad_()
    # The same fixed inputs in the form that bergson needs.
    inverse = s.inputs["inverse"] = {n: 1 / f for n, f in s.fixed("fisher").items()}
    query = s.inputs["query"] = {
        n: (v * inverse[n].sqrt()).flatten()[None] for n, v in s.fixed("direction").items()
    }
    del s.inputs["fisher", torch.float32], s.inputs["direction", torch.float32]
    texts, names = len(s.batch.labels), list(s.weights.layers)
    scorer = Scorer(
        query,
        names,
        InMemorySequenceScoreWriter(texts, 1),
        torch.device("cpu"),
        torch.float32,
        unit_normalize=True,
    )
    config = IndexConfig(run_path="", loss_reduction="mean")
    collector = InMemoryCollector(
        model=s.model,
        data=Dataset.from_dict({"input_ids": s.batch.input_ids.tolist()}),
        cfg=config,
        target_modules=set(names),
        scorer=scorer,
        processor=GradientProcessor({n: AdamNormalizer(f) for n, f in inverse.items()}),
    )
    step = fwd_bwd_factory(config)

    def work() -> Products:
        with collector.with_batch(), autocast(s.bf16):
            losses = step(s.model, s.batch.input_ids, s.batch.labels, {})
        # Read before the scorer combines the two into one number.
        products = {"linear": scorer._scores[:, 0], "quadratic": scorer._sq_norm}
        collector.process_batch(list(range(texts)), losses=losses)
        return products

    return work


METHODS: dict[str, Callable[[Setting], Callable[[], Any]]] = {
    "ordinary": ordinary,
    "floor": floor,
    "diagonal": ours("diagonal"),
    "factored": ours("factored"),
    "default": ours("default"),
    "linear": ours("linear"),
    "interference": interference,
    "loop": loop,
    "vmap": vmap,
    "kronfluence": kronfluence,
    "kronfluence linear": lambda s: kronfluence(s, both=False),
    "opacus": opacus,
    "bergson": bergson,
}
