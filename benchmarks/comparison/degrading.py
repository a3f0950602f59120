"""The degradation alone: `benchmarks/degradation.py`, as rows of the common table."""

from __future__ import annotations

import argparse
from typing import Any

import degradation

from comparison.measure import Settings, row


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Milliseconds per 400x400 sample; the ratio is that of means, for the cost of a sample varies with its draw."""
    arguments = argparse.Namespace(
        images=settings.images,
        batch=12 if settings.on_gpu else 4,
        rounds=settings.num_rounds(24),
        shipped_rounds=2 if settings.is_quick else 5,
        threads=settings.threads,
        clock=settings.clock,
        device=settings.device,
        seed=0,
    )
    result = degradation.measure(arguments)
    titles = {
        "basicsr": "as shipped",
        "basicsr_separable_usm": "separable USM",
        "basicsr_separable_usm_opencv": "separable USM by OpenCV",
        "ours": "ours",
        "ours_codec": "ours with a real JPEG codec",
    }
    rows = []
    for pair, ratio in result["ratio"].items():
        base, own = pair.split(" / ")
        sides = result["ms_per_sample"]
        values = {
            "basicsr": sides[base]["mean"], "ours": sides[own]["mean"], "ratio": ratio["value"], "low": ratio["low"],
            "high": ratio["high"], "rounds": sides[base]["rounds"],
        }  # fmt: skip
        rows.append(row(f"400x400 crop: basicsr {titles[base]} / {titles[own]}", "ms", 1, values))
    return rows
