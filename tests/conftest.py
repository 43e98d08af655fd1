"""What every test needs: one thread for the numerics, and shapes and types checked in the numerical packages."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny: threads would only wait for one another

from jaxtyping import install_import_hook

install_import_hook(["core.bayes", "core.meta", "core.verify"], "beartype.beartype")
