"""On the path of a launch of `test_killed.py`: rank 1 asks for more memory than there is in the third step of one condition.

Python imports a module of this name at its start, in Ray's workers, too. What fails is PyTorch's own allocator.
"""

import importlib.abc
import importlib.machinery
import os
import sys


class Asking(importlib.abc.MetaPathFinder):
    """Finds `wlsweep.train.loop` as usual, and makes its forward pass ask for an exbibyte."""

    def find_spec(self, name, path, target=None):
        if name != "wlsweep.train.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        whole = spec.loader.exec_module

        def exec_module(module):
            whole(module)
            steps, forward = [], module.run_forward

            def run_forward(engine, batch, format_weight):
                if engine.module.condition.name == os.environ["WITHOUT_MEMORY"]:
                    steps.append(1)
                    if len(steps) == 3 and module.dist.get_rank() == 1:
                        module.torch.empty(1 << 60, dtype=module.torch.uint8)
                return forward(engine, batch, format_weight)

            module.run_forward = run_forward

        spec.loader.exec_module = exec_module
        return spec


if "WITHOUT_MEMORY" in os.environ:
    sys.meta_path.insert(0, Asking())
