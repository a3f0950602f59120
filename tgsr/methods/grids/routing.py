"""Stage that builds the router (GRIDS, 5.2) and measures it on images never seen."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.stats import rankdata

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.degradations.named import NamedSpace
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.grids import figures
from tgsr.methods.grids.descriptor import Descriptor, descriptor_from_json
from tgsr.methods.grids.discriminant import fit_discriminant
from tgsr.methods.grids.ggd import kl_divergence, log_distance
from tgsr.methods.grids.observation import Views, observe
from tgsr.methods.grids.router import CLEAN, Choice, Null, RoutedGroup, Router, Rule, Sampling
from tgsr.methods.grids.similarity import Similarity
from tgsr.methods.grids.stages import load_groups
from tgsr.methods.grids.trainings import all_tasks, group_key, known_networks, read_memo
from tgsr.report.builder import Report
from tgsr.report.strips import Panel, choose_crop, make_strip
from tgsr.study.measure import Condition, Subject, make_restorer, measure, open_set
from tgsr.study.stage import Stage
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import DataError
from tgsr.utils.files import read_json, write_atomic, write_json

logger = logging.getLogger("tgsr")
SINGLE = "single"


@RUNNERS.register()
class BuildRouter(Stage):
    """Section 5.2: reference images -> `router.json`; test images, photographs -> `selection.json` and Fig. 5.

    Args:
        similarity: `similarity.npz`, whose descriptor and GGDs the paper's rule uses.
        groups: `groups.json` with the weights of every group, or group (`a+b`) -> weights.
        reference: set under `datasets.val` that the discriminant learns from; images apart from the test set.
        test: set under `datasets.val` for the accuracies.
        singles: degradation -> weights of its single-task network, for the correlation of divergence and drop. None:
            those of the trainings beside `groups.json`.
        rule: of the written file: `divergence` (the paper's) or `discriminant`.
        clean: the discriminant knows clean images, too, and leaves them alone; not in the paper.
        num_reference: images of the reference set.
        num_test: images of the test set.
        sampling_px: edge of a patch of the paper's rule; None: as in the similarity stage.
        max_pixels: larger images are represented by a window of this many pixels.
        shrinkage: of the discriminant's covariance.
        ood_distance: of the paper's rule; 4 in the paper. None: calibrated, the (1 - ood_share) quantile over the
            reference images.
        ood_share: share of known images that may be flagged.
        null: of the discriminant's p-values, see `Router`; `class` needs at least `1 / ood_share` reference images.
        unknown: degradations outside the groups, to see whether they are flagged.
        photos: sets under `datasets.val` of real photographs to route and restore.
        num_prediction: test images for the correlation of divergence and drop; 0 leaves it out.
    """

    product = "router.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_reference": 6, "num_test": 2, "num_prediction": 1, "max_pixels": 4096}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        similarity: Path,
        groups: Path | dict[str, Path],
        reference: str,
        test: str,
        singles: dict[str, Path] | None = None,
        rule: Rule = "divergence",
        clean: bool = False,
        num_reference: PositiveInt = 100,
        num_test: PositiveInt = 50,
        sampling_px: PositiveInt | None = None,
        max_pixels: PositiveInt = 160_000,
        shrinkage: float = 0.1,
        ood_distance: float | None = 4.0,
        ood_share: float = 0.02,
        null: Null = "pooled",
        unknown: Sequence[str] = ("haze", "rain", "banding"),
        photos: str | list[str] | None = None,
        num_prediction: int = 8,
    ) -> None:
        super().__init__(options=options, context=context)
        self.similarity, self.groups, self.reference, self.test = similarity, groups, reference, test
        self.singles, self.rule, self.clean, self.null = singles, rule, clean, null
        self.num_reference, self.num_test = num_reference, num_test
        self.sampling_px, self.shrinkage, self.ood_distance = sampling_px, shrinkage, ood_distance
        self.ood_share, self.unknown = ood_share, list(unknown)
        self.photos = [photos] if isinstance(photos, str) else list(photos or [])
        self.num_prediction, self.max_pixels = num_prediction, max_pixels

    @classmethod
    def smallest(cls, options: Options) -> Options:
        """With more reference images than other sets have: a discriminant needs three at least."""
        small, assert_run = super().smallest(options), options.run
        assert assert_run is not None, "a stage"
        reference = str(assert_run.kwargs["reference"])
        val = small.datasets.val
        spec = replace(val[reference], kwargs={**val[reference].kwargs, "max_images": 6})
        return replace(small, datasets=replace(small.datasets, val={**val, reference: spec}))

    def units(self) -> tuple[float, str]:
        return self.num_reference + self.num_test, "images"

    def work(self) -> None:
        similarity, tasks = Similarity.load(self.similarity), all_tasks(self.options)
        groups = self._groups()
        missing = [n for n in tasks.names if n not in similarity.names]
        if missing:
            raise DataError(f"the similarity matrix lacks {', '.join(missing)}", place=str(self.similarity))
        router = self._build(similarity, groups, tasks)
        if self.context.is_main:
            router.save(self.folder / self.product)
            logger.info("router: %s", self.folder / self.product)
        content = self._measure(router, tasks)
        content["prediction"] = self._predict(router, groups, tasks)
        if self.context.is_main:
            content["photos"] = self._photographs(router)
            write_json(self.folder / "selection.json", content)
        self.context.barrier()

    def _groups(self) -> list[dict[str, Any]]:
        """`{members, weights}` of every group."""
        if isinstance(self.groups, Path):
            return list(load_groups(self.groups)["groups"])
        known = known_networks(self.groups, self.options)
        return [{"members": key.split("+"), "weights": str(path)} for key, path in known.items()]

    def _build(self, similarity: Similarity, groups: Sequence[Mapping[str, Any]], tasks: TaskSet) -> Router:
        about = similarity.about
        descriptor = descriptor_from_json(about["descriptor"], base=self.similarity.parent).to(self.context.device)
        sampling = Sampling(
            patch_px=self.sampling_px or about["patch_px"],
            num_patches=about["num_patches"],
            num_components=about["num_components"],
            max_pixels=self.max_pixels,
            seed=self.options.manual_seed,
        )
        calibrate = self.ood_distance is None
        classes = [*tasks, *([None] if self.clean else [])]
        seen = self._observe(self.reference, classes, descriptor, sampling, self.num_reference, calibrate)
        num_images = len(set(seen.images.tolist()))
        if self.null == "class" and num_images + 1 < 1 / self.ood_share:
            text = "%s: %d reference images cannot tell a share of %g: nothing will be flagged as unknown"
            logger.warning(text, self.options.name, num_images, self.ood_share)
        router = Router(
            groups=[
                RoutedGroup(figures.joined(g["members"]).strip("{}"), tuple(g["members"]), self._relative(g["weights"]))
                for g in groups
            ],
            degradations=tasks.names,
            ggds=[similarity.ggds[similarity.index(n)] for n in tasks.names],
            descriptor=descriptor,
            sampling=sampling,
            rule=self.rule,
            ood_distance=4.0 if self.ood_distance is None else self.ood_distance,
            ood_share=self.ood_share,
            null=self.null,
            discriminant=fit_discriminant(seen.statistics, seen.labels, seen.images, shrinkage=self.shrinkage),
            folder=self.folder,
            about={
                "options": options_hash(self.options),
                "seed": self.options.manual_seed,
                "reference": f"{self.reference}, {num_images} images",
            },
        )
        if calibrate:
            distances = [router.choose_by_divergence(g).divergence for g in seen.ggds]
            router.ood_distance = float(np.quantile([d for d in distances if d is not None], 1 - self.ood_share))
        return router

    def _observe(
        self,
        name: str,
        tasks: Sequence[Task | None],
        descriptor: Descriptor,
        sampling: Sampling,
        num_images: int,
        with_ggd: bool,
    ) -> Views:
        return observe(
            self.options, name, tasks, descriptor, sampling, self.context, num_images=num_images, with_ggd=with_ggd,
            folder=self.folder,
        )  # fmt: skip

    def _relative(self, weights: str) -> str:
        return os.path.relpath(weights, self.folder) if weights else ""

    def _measure(self, router: Router, tasks: TaskSet) -> dict[str, Any]:
        """Both rules on the same test images: confusion, accuracies, flags."""
        strangers = [Task(n, NamedSpace(degradation=n)) for n in self.unknown if n not in tasks.names]
        shown = [*tasks, *strangers, *([None] if self.clean else [])]
        seen = self._observe(self.test, shown, router.descriptor, router.sampling, self.num_test, True)
        choices = {
            "divergence": [router.choose_by_divergence(g) for g in seen.ggds],
            "discriminant": [router.choose_by_discriminant(s) for s in seen.statistics],
        }
        names = [t.name for t in strangers]
        rules = {rule: _score(router, made, seen.labels, names) for rule, made in choices.items()}
        for rule, entry in rules.items():
            shares = 100 * entry["accuracy"]["group"], 100 * entry["accuracy"]["degradation"]
            logger.info("%s: %.1f %% of groups, %.1f %% of degradations", rule, *shares)
        return {
            "schema": "tgsr.grids_selection",
            "version": 1,
            "options": options_hash(self.options),
            "degradations": tasks.names,
            "groups": [list(g.members) for g in router.groups],
            "test": {"name": self.test, "num_images": len(set(seen.images.tolist()))},
            "about": f"reference: {router.about['reference']}; {seen.seconds:.2f} s an image for both rules",
            "ood_distance": router.ood_distance,
            "ood": {"null": self.null, "share": self.ood_share},
            "rules": rules,
        }

    def _predict(self, router: Router, groups: Sequence[Mapping[str, Any]], tasks: TaskSet) -> list[dict[str, Any]]:
        """Every group's network on every degradation: divergence of the GGDs against the drop to single-task."""
        if not self.num_prediction:
            return []
        subjects = [Subject(SINGLE, path, on=(name,)) for name, path in self._singles(tasks).items()]
        subjects += [Subject(group_key(g["members"]), Path(g["weights"])) for g in groups if g["weights"]]
        found = measure(
            subjects, [Condition(self.test, t) for t in tasks], ["psnr"], self.results / "measured.jsonl",
            self.options, self.context, num_images=self.num_prediction,
        )  # fmt: skip
        singles = found.values(SINGLE, "psnr").get("", {})
        points = []
        for place, group in enumerate(groups):
            psnr = found.values(group_key(group["members"]), "psnr").get("", {})
            for name, ggd in zip(router.degradations, router.ggds, strict=True):
                if name in singles and name in psnr:
                    distance = float(log_distance(kl_divergence(router.group_ggds[place], ggd)))
                    points.append(
                        {"group": group["members"], "degradation": name, "is_member": name in group["members"],
                         "divergence": distance, "drop": singles[name] - psnr[name]}
                    )  # fmt: skip
        return points

    def _singles(self, tasks: TaskSet) -> dict[str, Path]:
        """Degradation -> weights of its single-task network, of those that are there; as rank 0 sees the disk."""
        found: dict[str, Path] = {}
        if self.context.is_main:
            found = dict(self.singles or {})
            if self.singles is None and isinstance(self.groups, Path):
                memos = sorted(self.groups.parent.glob("**/oracle*.json*"), reverse=True)
                trained = [t for path in memos for t in read_memo(path) if len(t.names) == 1 and t.status == "ok"]
                found = {t.names[0]: Path(t.checkpoint) for t in trained}
            found = {n: found[n] for n in tasks.names if n in found and found[n].exists()}
        return self.context.from_main(found)

    def _photographs(self, router: Router) -> list[dict[str, Any]]:
        """What both rules say of every photograph; a strip of each that is restored in `photos/`."""
        records = []
        for name in self.photos:
            dataset = open_set(self.options, name)
            for i in range(len(dataset)):
                lq = dataset.val_sample(i).lq
                choice, paper = (
                    replace(router, rule=rule).choose(lq.to(self.context.device))
                    for rule in (router.rule, "divergence")
                )
                records.append(
                    {"set": name, "name": dataset.name(i), "group": choice.name, "confidence": choice.confidence,
                     "divergence": paper.divergence, "p_value": choice.p_value, "is_ood": choice.is_ood,
                     "is_clean": choice.is_clean, "degradation": choice.degradation, "paper_rule": paper.name,
                     "paper_is_ood": paper.is_ood}
                )  # fmt: skip
                if choice.weights is not None:
                    strip = self._strip(lq, choice)
                    path = self.folder / "photos" / f"{name}_{Path(dataset.name(i)).name}.png"
                    write_atomic(path, lambda file, strip=strip: file.write(strip))  # type: ignore[misc]
        return records

    def _strip(self, lq: Any, choice: Choice) -> bytes:
        restore = make_restorer(self.options, Subject(choice.name, choice.weights), self.context.alone())
        restored = restore(lq).clamp(0, 1)[0].cpu()
        note = f"{choice.name}, {choice.confidence:.0%}" + (", unknown" if choice.is_ood else "")
        size = min(96, *restored.shape[1:])
        top, left = choose_crop(restored, lq[0], size=size)
        return make_strip([Panel("photograph", lq[0]), Panel("restored", restored, note)], crop=(top, left, size))

    def page(self) -> Report:
        photos = sorted((self.folder / "photos").glob("*.png"))
        return figures.routing_report(
            read_json(self.folder / "selection.json"), {p.stem: p.read_bytes() for p in photos}
        )


def auroc(known: Sequence[tuple[float, float]], unknown: Sequence[tuple[float, float]]) -> float:
    """How often an unknown image looks less like what is known than a known one does: 0.5 is chance, 1 always.

    Args:
        known, unknown: (score, second score for ties) of images; larger = less like what is known.
    """
    every = [*known, *unknown]
    place = {pair: i for i, pair in enumerate(sorted(set(every)))}
    ranks = rankdata([place[pair] for pair in every])
    num = len(unknown)
    return float((ranks[len(known) :].sum() - num * (num + 1) / 2) / (num * len(known)))


def _score(router: Router, made: list[Choice], labels: np.ndarray, strangers: list[str]) -> dict[str, Any]:
    names = router.degradations
    num, num_groups = len(names), len(router.groups)
    known = [i for i, label in enumerate(labels) if label < num]
    group_of = [next(k for k, g in enumerate(router.groups) if n in g.members) for n in names]
    confusion = np.zeros((num, num_groups + router.has_clean))
    by_degradation = np.zeros((num, num + router.has_clean))
    order = [*names, CLEAN]
    for i in known:
        confusion[labels[i], made[i].group] += 1
        by_degradation[labels[i], order.index(made[i].degradation)] += 1
    counts = confusion.sum(1, keepdims=True)
    others = {name: [c for c, label in zip(made, labels, strict=True) if label == num + k]
              for k, name in enumerate([*strangers, *([CLEAN] if router.has_clean else [])])}  # fmt: skip
    clean, known_scores = others.pop(CLEAN, []), [made[i].unlikeness for i in known]
    return {
        "accuracy": {
            "group": float(np.mean([made[i].group == group_of[labels[i]] for i in known])),
            "degradation": float(np.mean([made[i].degradation == names[labels[i]] for i in known])),
        },
        "group_accuracy": {n: float(confusion[k, group_of[k]] / counts[k, 0]) for k, n in enumerate(names)},
        "confusion": (confusion / counts).tolist(),
        "confusion_degradations": (by_degradation / counts).tolist(),
        "known_flagged": float(np.mean([made[i].is_ood for i in known])),
        "known_kept": float(np.mean([made[i].is_clean for i in known])),
        "clean_kept": float(np.mean([c.is_clean for c in clean])) if clean else None,
        "unknown_flagged": {n: float(np.mean([c.is_ood for c in found])) for n, found in others.items()},
        "auroc": {n: auroc(known_scores, [c.unlikeness for c in found]) for n, found in others.items()},
        "confidence": float(np.mean([made[i].confidence for i in known])),
    }
