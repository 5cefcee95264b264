from __future__ import annotations

import os

from hypothesis import settings

# One thread and one process each: the test machine is small, and spawned pools of eight would drown it.
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ.setdefault("nnUNet_compile", "f")

# How long an example takes is the machine's affair, and the first one compiles.
settings.register_profile("nnunet_wsl", deadline=None)
settings.load_profile("nnunet_wsl")
