"""Writes python.safetensors with the package safetensors (0.5 or later)."""

import numpy as np
from safetensors.numpy import save_file

save_file(
    {
        "norm.weight": np.linspace(-1, 1, 5, dtype=np.float32),
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "tid2eid": np.arange(12, dtype=np.int64).reshape(2, 6) * 11,
    },
    "python.safetensors",
    {"made by": "a test"},
)
