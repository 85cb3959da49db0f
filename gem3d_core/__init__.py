"""The method: tensors in, tensors out. No Prefect, no catalog, no path that was not given.

Its public door is what stands in `__all__`, from `gem3d_core.door`; nothing is loaded before it is asked for.
"""

from importlib import import_module

__all__ = ["Encoded", "Model", "encode", "open_model", "train"]


def __getattr__(name: str) -> object:
    """The public door's names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.door"), name)
