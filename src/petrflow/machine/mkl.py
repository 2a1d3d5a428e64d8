"""Matrix products: how many threads they take, and full speed on AMD processors."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that say how many threads matrix products take; Snakemake sets them to a job's cores,
which its processes share.
"""
SWITCH = "MKL_DEBUG_CPU_TYPE"
"""What MKL reads at its first product; 5 is its code for AVX2."""


def use_avx2(environment: MutableMapping[str, str] | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Let the MKL in Paddle's wheels use AVX2 on AMD processors that have it; returns whether it
    was switched on here.

    That MKL (mklml, 2019) looks at the processor's maker and takes its slowest path on any other
    than Intel's: products of (2048, 512) by (512, 512) run at 17 GFLOP/s on an EPYC core in place
    of 68. The variable must be there before the first product; whoever has set it to something
    keeps that.

    Parameters
    ----------
    environment : mutable mapping, optional
        ``os.environ`` unless a test brings its own.
    cpuinfo : Path
    """
    environment = os.environ if environment is None else environment
    if SWITCH in environment:
        return False
    try:
        with cpuinfo.open() as handle:
            first = handle.read(8192).partition("\n\n")[0]
    except OSError:  # no Linux, no matter
        return False
    lines = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in first.splitlines())}
    if lines.get("vendor_id") != ["AuthenticAMD"] or not {"avx2", "fma"} <= set(lines.get("flags", [])):
        return False
    environment[SWITCH] = "5"
    return True
