"""Lightning without torchmetrics, which it imports for two classes to compare with.

That import brings SciPy, matplotlib and, where installed, transformers with it, and takes twice as long as all the rest
of Lightning. Metrics here are plain numbers, so two empty classes stand in while Lightning is imported; whoever imports
torchmetrics later gets the library itself. All of the library imports Lightning from here.
"""

import sys
from importlib.metadata import version
from types import ModuleType

__all__ = ["CheckpointIO", "environments", "pl", "strategies"]


def _stand_in() -> ModuleType:
    """Return a module with the names that Lightning imports from torchmetrics."""
    module = ModuleType("torchmetrics")
    vars(module).update(__version__=version("torchmetrics"), Metric=type("Metric", (), {}))
    vars(module).update(MetricCollection=type("MetricCollection", (), {}))
    return module


_own = "lightning.pytorch" not in sys.modules and "torchmetrics" not in sys.modules
if _own:
    sys.modules["torchmetrics"] = _stand_in()
try:
    import lightning.pytorch as pl
    from lightning.fabric.plugins import CheckpointIO
    from lightning.pytorch import strategies
    from lightning.pytorch.plugins import environments
finally:
    if _own:
        del sys.modules["torchmetrics"]
