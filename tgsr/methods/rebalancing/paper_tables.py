"""Tables 1-5 of the paper: what it prints, and the stage that puts measured values beside it."""

from __future__ import annotations

from tgsr.engine.runner import RUNNERS
from tgsr.report.paper_tables import PaperTables, PrintedTables

PaperTable = dict[str, dict[str, float]]
"""Method -> `<data set>/<metric>` -> value."""

LEVELS = ("DIV2K_mild", "DIV2K_blur", "DIV2K_noise", "DIV2K_severe")
REAL = ("RealSRset-Nikon", "RealSRset-Canon")


def _table(datasets: tuple[str, ...], metrics: tuple[str, ...], rows: dict[str, str]) -> PaperTable:
    """Rows of numbers, data sets outside, metrics inside."""
    names = [f"{d}/{m}" for d in datasets for m in metrics]
    return {
        method: dict(zip(names, (float(x) for x in text.split()), strict=True)) for method, text in rows.items()
    }


_THREE, _TWO = ("psnr", "lpips", "ssim"), ("psnr", "lpips")
TABLES: dict[int, PaperTable] = {
    1: _table(LEVELS, _THREE, {
        "DASR": "23.72 .5581 .6508 23.40 .6466 .5677 23.68 .6403 .5782 23.46 .6344 .5863",
        "RealESRGAN": "23.62 .4273 .6382 23.44 .4343 .6314 23.58 .4330 .6364 23.39 .4403 .6292",
        "RealSwinIR": "23.52 .4372 .6374 23.46 .4416 .6337 23.45 .4424 .6337 23.39 .4471 .6299",
        "MM-RealSR": "23.44 .4293 .6468 23.45 .4352 .6430 23.44 .4343 .6448 23.45 .4412 .6340",
        "ResShift": "23.71 .4646 .6174 23.41 .4711 .6110 23.57 .4728 .6090 23.48 .4796 .6031",
        "SinSR": "23.39 .4835 .5654 23.29 .4901 .5585 23.24 .4938 .5524 23.13 .5004 .5456",
        "TSD-SR": "22.16 .4256 .5753 22.04 .4308 .5694 22.16 .4380 .5727 22.03 .4333 .5666",
        "AdcSR": "23.27 .4272 .6050 23.18 .4332 .6002 23.22 .4336 .6000 23.13 .4398 .5949",
        "TGSR": "23.64 .4283 .6425 23.49 .4354 .6359 23.54 .4339 .6395 23.39 .4415 .6330",
        "Ours": "23.79 .4190 .6511 23.66 .4308 .6483 23.73 .4272 .6424 23.54 .4383 .6396",
    }),
    2: _table((*REAL, "DRealSR", "DIV2K-random"), _THREE, {
        "DASR": "27.15 .4391 .7598 27.67 .4236 .7893 30.41 .4387 .8261 24.43 .5726 .6438",
        "RealESRGAN": "25.62 .3820 .7607 26.06 .3629 .7864 28.64 .3766 .8052 23.50 .4341 .6338",
        "RealSwinIR": "25.72 .3768 .7663 26.33 .3573 .7945 28.24 .3819 .7983 23.45 .4424 .6335",
        "MM-RealSR": "23.54 .3822 .7425 24.06 .3606 .7708 26.97 .3723 .7972 23.43 .4353 .6434",
        "ResShift": "25.11 .4736 .6999 25.87 .4626 .7501 27.12 .4689 .7407 23.69 .4724 .6101",
        "SinSR": "25.68 .4702 .6843 26.35 .4596 .7279 28.45 .4496 .7516 23.25 .4921 .5552",
        "TSD-SR": "23.71 .4023 .6849 23.89 .3956 .7073 26.23 .4019 .7160 22.10 .4338 .5709",
        "AdcSR": "25.49 .3925 .7187 25.71 .3796 .7457 28.21 .3822 .7723 23.20 .4343 .5996",
        "TGSR": "25.88 .3862 .7688 26.35 .3660 .7954 28.91 .3839 .8142 23.51 .4348 .6376",
        "Ours": "26.16 .3763 .7728 26.54 .3580 .7960 29.27 .3697 .8393 23.72 .4254 .6441",
    }),
    3: _table(REAL, _TWO, {
        "RealSRGAN": "24.71 .4159 25.42 .3902",
        "RealSRGAN+ours": "25.27 .3997 25.86 .3752",
        "RealESRGAN": "25.62 .3820 26.06 .3629",
        "RealESRGAN+ours": "26.16 .3763 26.54 .3580",
        "RealSwinIR": "25.72 .3768 26.33 .3573",
        "RealSwinIR+ours": "26.68 .3652 27.01 .3415",
        "RealHAT": "27.17 .3612 27.72 .3360",
        "RealHAT+ours": "27.65 .3691 28.01 .3417",
    }),
    4: _table(REAL, _TWO, {
        "RLW": "26.02 .3833 26.14 .3699",
        "DWA": "25.82 .3759 26.38 .3594",
        "GLS": "25.68 .3801 26.10 .3606",
        "Ours": "26.16 .3763 26.54 .3580",
    }),
    5: _table(REAL, _TWO, {
        "re-sampling, 2 tasks": "25.89 .3759 26.29 .3580",
        "re-sampling, 3 tasks": "26.02 .3783 26.40 .3615",
        "re-sampling, 5 tasks": "26.14 .3749 26.48 .3552",
        "re-weighting, 4 tasks": "25.83 .3788 26.31 .3597",
        "re-sampling, 4 tasks": "26.16 .3763 26.54 .3559",
    }),
}  # fmt: skip
"""The same network is stated with LPIPS .3580 (table 4) and .3559 (table 5) on RealSRset-Canon."""

TITLES = {
    1: "Table 1: DIV2K4Level",
    2: "Table 2: synthetic and real test sets",
    3: "Table 3: with other networks",
    4: "Table 4: loss weightings",
    5: "Table 5: number of tasks and strategy",
}


@RUNNERS.register()
class RebalancingTables(PaperTables):
    """Tables 1-5 with measured values beside the printed ones -> a report.

    Args:
        tables: number -> row of the table -> results folders (with `metrics.json`) of its runs. Left out: all tables
            with the paper's values alone.
    """

    paper = PrintedTables(TABLES, TITLES)
