"""Ends with status 0 when the torch that is installed is a build for GPUs, which needs the packages of CUDA."""

import sys
from importlib.metadata import requires, version

on_linux = sys.platform == "linux"
sys.exit(
    not (on_linux and "+cpu" not in version("torch") and any("nvidia" in name for name in requires("torch") or []))
)
