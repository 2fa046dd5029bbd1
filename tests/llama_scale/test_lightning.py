"""What importing the training path brings with it."""

import subprocess
import sys

HEAVY = ["scipy.signal", "tensorboard", "tensorboardX", "torchmetrics", "transformers", "matplotlib", "pandas", "wandb"]


def test_training_imports_nothing_that_it_does_not_use():
    code = (
        "import sys\n"
        "import llama_scale.training.trainer, evals.validation, llama_scale.training.result\n"
        f"assert not [name for name in {HEAVY} if name in sys.modules], sorted(sys.modules)\n"
        "import torchmetrics\n"
        "assert torchmetrics.Metric.__module__ == 'torchmetrics.metric'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
