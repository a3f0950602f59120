"""Metrics of a 2040x1356 pair: `benchmarks/metrics.py`, as rows of the common table."""

from __future__ import annotations

from typing import Any

import cv2
import metrics

from comparison.measure import Settings, row

FORMS = (("ratio", "basicsr_s", "from its own input"), ("ratio_whole", "basicsr_whole_s", "from float tensors"))


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Seconds per image; ours always starts from float tensors, basicsr's from uint8 arrays or from float tensors."""
    cv2.setNumThreads(settings.threads)
    restored, gt = metrics.make_pair((680, 452) if settings.is_quick else (2040, 1356), None)
    rows = []
    for name, functions in metrics.contenders(restored, gt).items():
        result: dict[str, Any] = metrics.compare(*functions, settings.num_rounds(9), clock=settings.now)
        for key, side, title in FORMS:
            low, high = result[f"{key}_quartiles"]
            values = {"basicsr": result[side], "ours": result["ours_s"], "ratio": result[key], "low": low, "high": high,
                      "rounds": settings.num_rounds(9)}  # fmt: skip
            more = {"difference": result["difference"]}
            rows.append(row(f"{name}: basicsr {title} / ours", "s", 1, values, **more))
    return rows
