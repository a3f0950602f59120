"""What the paper prints: Tables I to VII."""

from __future__ import annotations

PaperTable = dict[str, dict[str, float]]
"""Method -> `<data set>/<metric>` -> value."""


def _table(dataset: str, metrics: str, rows: dict[str, str]) -> PaperTable:
    names = [f"{dataset}/{m}" for m in metrics.split()]
    return {
        method: {n: float(v) for n, v in zip(names, text.split(), strict=True) if v != "-"}
        for method, text in rows.items()
    }


WEIGHTED_SUM = "L_pixel + L_perc + L_adv"
TABLES: dict[int, PaperTable] = {
    1: _table("RealSR-Zero", "niqe mos", {
        "ESRGAN": "6.066 4.275",
        "Impressionism": "4.961 3.455",
        "DASR": "5.838 4.470",
        "Real-ESRGAN": "4.575 3.245",
        "Ours": "4.409 3.050",
    }),
    2: _table("RealSR", "psnr ssim lpips", {
        "ZSSR": "26.01 .7482 .3861",
        "ESRGAN": "25.96 .7468 .4154",
        "CinCGAN": "25.09 .7459 .4052",
        "FSSR": "25.99 .7388 .2653",
        "DASR": "26.23 .7660 .2517",
        "Real-ESRGAN": "26.44 .7492 .2606",
        "ADL": "26.90 - -",
        "Ours": "27.82 .8123 .2311",
    }),
    3: _table("NTIRE2020", "psnr ssim lpips", {
        "EDSR": "25.31 .6383 .5784",
        "ESRGAN": "19.06 .2423 .6442",
        "ZSSR": "25.13 .6268 .6160",
        "KernelGAN": "18.46 .3826 .7307",
        "Impressionism": "24.82 .6619 .2270",
        "Real-ESRGAN": "24.91 .6982 .2468",
        "USR-DA": "25.40 .7075 .2524",
        "Ours": "26.21 .7122 .2201",
    }),
    4: _table("CameraSR", "psnr ssim lpips", {
        "FSSR": "23.781 .7566 .180",
        "Impressionism": "25.142 .8097 .139",
        "DASR": "25.235 .8065 .141",
        "Real-ESRGAN": "25.175 .8023 .136",
        "Ours": "26.138 .8172 .134",
    }),
    5: _table("NTIRE2020", "psnr ssim lpips", {
        "Plain model": "24.82 .6619 .2270",
        WEIGHTED_SUM: "25.05 .6683 .2269",
        "+ L_align": "25.12 .6720 .2263",
        "+ L_unif": "25.76 .6977 .2227",
        "+ L_align + L_unif": "25.92 .6983 .2230",
        "Spatial view": "26.04 .7042 .2241",
        "Full": "26.21 .7122 .2201",
    }),
    6: _table("NTIRE2020", "psnr lpips", {
        "C_adv": "17.97 .6322",
        "C_per": "24.27 .3924",
        "C_pix": "26.21 .2201",
    }),
}  # fmt: skip
"""Table II as the scanned text gives it: ADL's SSIM and LPIPS are not legible there. The plain model of Table V has the
three values of Impressionism in Table III."""

TITLES = {
    1: "Table I: RealSR-Zero",
    2: "Table II: RealSR",
    3: "Table III: NTIRE 2020",
    4: "Table IV: CameraSR",
    5: "Table V: ablation on NTIRE 2020",
    6: "Table VI: anchor criterion on NTIRE 2020",
}

EFFICIENCY: dict[str, tuple[float, float]] = {
    "ESRGAN": (0.7971, 16.7e6),
    "DASR": (0.7465, 16.7e6),
    "Real-ESRGAN": (0.7652, 16.7e6),
    "Ours": (0.7217, 14.8e6),
}
"""Table VII, 300x200 input at x4 on a V100: (time, parameters). Its head says frames per second, its text that 0.7217
against 0.7971 saves 10 % of the cost: the time is seconds per frame."""
