"""letgo: fine-tune a language model and let go of the knowledge that stands in the way.

Learning With Forgetting (LWF, arXiv 2505.19715); not Learning without Forgetting (LwF, 2016).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from letgo.unlearning.trainer import LWFConfig, LWFTrainer

__all__ = ["LWFConfig", "LWFTrainer"]


def __getattr__(name: str) -> Any:
    """Import torch on first use only, so that `letgo --help` is instant."""
    if name in __all__:
        from letgo.unlearning import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module 'letgo' has no attribute {name!r}")
