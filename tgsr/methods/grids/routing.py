"""Stage that builds the router (GRIDS, 5.2) and measures it on images never seen."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.degradations.named import NamedSpace
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.methods.grids import figures
from tgsr.methods.grids.comparison import checkpoint_restorer
from tgsr.methods.grids.descriptor import descriptor_from_json
from tgsr.methods.grids.discriminant import Discriminant, fit_discriminant
from tgsr.methods.grids.ggd import kl_divergence, log_distance
from tgsr.methods.grids.observation import Views, observe
from tgsr.methods.grids.router import RoutedGroup, Router, Rule, Sampling
from tgsr.methods.grids.similarity import Similarity
from tgsr.methods.grids.stages import build_set, load_groups
from tgsr.methods.grids.trainings import all_tasks, alone, evaluate_tasks
from tgsr.report.strips import Panel, choose_crop, make_strip
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import DataError
from tgsr.utils.files import read_json, write_json

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class BuildRouter(Runner):
    """Section 5.2: reference images -> `router.json`; test images, photographs -> `selection.json` and Fig. 5.

    Args:
        similarity: `similarity.npz`, whose descriptor and GGDs the paper's rule uses.
        groups: `groups.json` with the weights of every group.
        reference: set under `datasets.val` that the discriminant learns from; images apart from the test set.
        test: set under `datasets.val` for the accuracies.
        rule: of the written file: `divergence` (the paper's) or `discriminant`.
        num_reference: images of the reference set.
        num_test: images of the test set.
        sampling_px: edge of a patch of the paper's rule; None: as in the similarity stage.
        max_pixels: larger images are represented by a window of this many pixels.
        shrinkage: of the discriminant's covariance.
        ood_distance: of the paper's rule; 4 in the paper. None: calibrated, the (1 - ood_share) quantile over the
            reference images.
        ood_share: share of known images that may be flagged.
        unknown: degradations outside the groups, to see whether they are flagged.
        photos: set under `datasets.val` of real photographs to route and restore.
        num_prediction: test images for the correlation of divergence and drop; 0 leaves it out.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        similarity: Path,
        groups: Path,
        reference: str,
        test: str,
        rule: Rule = "divergence",
        num_reference: PositiveInt = 100,
        num_test: PositiveInt = 50,
        sampling_px: PositiveInt | None = None,
        max_pixels: PositiveInt = 160_000,
        shrinkage: float = 0.1,
        ood_distance: float | None = 4.0,
        ood_share: float = 0.02,
        unknown: Sequence[str] = ("haze", "rain", "banding"),
        photos: str | None = None,
        num_prediction: int = 8,
    ) -> None:
        super().__init__(options=options, context=context)
        self.similarity, self.groups, self.reference, self.test = similarity, groups, reference, test
        self.rule, self.num_reference, self.num_test = rule, num_reference, num_test
        self.sampling_px, self.shrinkage, self.ood_distance = sampling_px, shrinkage, ood_distance
        self.ood_share, self.unknown, self.photos = ood_share, list(unknown), photos
        self.num_prediction, self.max_pixels = num_prediction, max_pixels

    def run(self) -> None:
        if not self.context.is_main:
            return
        similarity, found = Similarity.load(self.similarity), load_groups(self.groups)
        tasks = all_tasks(self.options)
        missing = [n for n in tasks.names if n not in similarity.names]
        if missing:
            raise DataError(f"the similarity matrix lacks {', '.join(missing)}", place=str(self.similarity))
        router = self._build(similarity, found, tasks)
        router.save(self.folder / "router.json")
        logger.info("router: %s", self.folder / "router.json")
        content = self._measure(router, tasks)
        content["prediction"] = self._predict(router, found, tasks)
        photos, strips = self._photographs(router)
        content["photos"] = photos
        write_json(self.folder / "selection.json", content)
        page = figures.routing_report(content, strips).write(self.folder / "report")
        logger.info("report: %s", page)

    def _build(self, similarity: Similarity, found: dict[str, Any], tasks: TaskSet) -> Router:
        about = similarity.about
        descriptor = descriptor_from_json(about["descriptor"], base=self.similarity.parent).to(self.context.device)
        sampling = Sampling(
            patch_px=self.sampling_px or about["patch_px"],
            num_patches=about["num_patches"],
            num_components=about["num_components"],
            max_pixels=self.max_pixels,
            seed=self.options.manual_seed,
        )
        dataset = build_set(self.options, self.reference, tasks)
        calibrate = self.ood_distance is None
        seen = observe(
            dataset, list(tasks), descriptor, sampling,
            num_images=self.num_reference, device=self.context.device, with_ggd=calibrate,
            cache=self.folder / "seen_reference.npz",
        )  # fmt: skip
        router = Router(
            groups=[
                RoutedGroup(figures.joined(g["members"]).strip("{}"), tuple(g["members"]), self._relative(g["weights"]))
                for g in found["groups"]
            ],
            degradations=tasks.names,
            ggds=[similarity.ggds[similarity.index(n)] for n in tasks.names],
            descriptor=descriptor,
            sampling=sampling,
            rule=self.rule,
            ood_distance=4.0 if self.ood_distance is None else self.ood_distance,
            ood_share=self.ood_share,
            discriminant=self._fit(seen),
            folder=self.folder,
            about={
                "options": options_hash(self.options),
                "seed": self.options.manual_seed,
                "reference": f"{self.reference}, {len(set(seen.images.tolist()))} images",
            },
        )
        if calibrate:
            distances = [router.choose_by_divergence(g).divergence for g in seen.ggds]
            router.ood_distance = float(np.quantile(distances, 1 - self.ood_share))
        return router

    def _fit(self, seen: Views) -> Discriminant:
        return fit_discriminant(seen.statistics, seen.labels, seen.images, shrinkage=self.shrinkage)

    def _relative(self, weights: str) -> str:
        return os.path.relpath(weights, self.folder) if weights else ""

    def _measure(self, router: Router, tasks: TaskSet) -> dict[str, Any]:
        """Both rules on the same test images: confusion, accuracies, flags."""
        strangers = [Task(n, NamedSpace(degradation=n)) for n in self.unknown if n not in tasks.names]
        dataset = build_set(self.options, self.test, tasks)
        seen = observe(
            dataset, [*tasks, *strangers], router.descriptor, router.sampling,
            num_images=self.num_test, device=self.context.device, with_ggd=True,
            cache=self.folder / "seen_test.npz",
        )  # fmt: skip
        choices = {
            "divergence": [router.choose_by_divergence(g) for g in seen.ggds],
            "discriminant": [router.choose_by_discriminant(s) for s in seen.statistics],
        }
        rules = {}
        for rule, made in choices.items():
            rules[rule] = _score(router, made, seen.labels, [t.name for t in strangers])
            accuracy = rules[rule]["accuracy"]
            shares = 100 * accuracy["group"], 100 * accuracy["degradation"]
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
            "rules": rules,
        }

    def _predict(self, router: Router, found: dict[str, Any], tasks: TaskSet) -> list[dict[str, Any]]:
        """Every group's network on every degradation: divergence of the GGDs against the drop to single-task."""
        if not self.num_prediction:
            return []
        options, lonely = self._with_images(self.num_prediction), alone(self.context)
        singles = self._singles(options, found, tasks)
        points = []
        for place, group in enumerate(found["groups"]):
            restore = checkpoint_restorer(options, group["weights"], lonely)
            psnr = evaluate_tasks(restore, options, self.test, "psnr", tasks, lonely)
            for name, ggd in zip(router.degradations, router.ggds, strict=True):
                if name in singles:
                    distance = float(log_distance(kl_divergence(router.group_ggds[place], ggd)))
                    points.append(
                        {"group": group["members"], "degradation": name, "is_member": name in group["members"],
                         "divergence": distance, "drop": singles[name] - psnr[name]}
                    )  # fmt: skip
        return points

    def _singles(self, options: Options, found: dict[str, Any], tasks: TaskSet) -> dict[str, float]:
        """Single-task PSNR on the test images, from the trainings beside `groups.json`; empty where there are none."""
        entries: dict[str, Any] = {}
        for memo in sorted(self.groups.parent.glob("**/oracle*.json"), reverse=True):  # oracle.<k>.json: of rank k
            for key, entry in read_json(memo)["trainings"].items():
                if entry["status"] == "ok" or key not in entries:
                    entries[key] = entry
        values = {}
        for name in tasks.names:
            entry = entries.get(name)
            if entry and entry["status"] == "ok" and Path(entry["checkpoint"]).exists():
                lonely = alone(self.context)
                restore = checkpoint_restorer(options, entry["checkpoint"], lonely)
                values |= evaluate_tasks(restore, options, self.test, "psnr", tasks.subset([name]), lonely)
        return values

    def _with_images(self, num: int) -> Options:
        spec = self.options.datasets.val[self.test]
        limited = replace(spec, kwargs={**spec.kwargs, "max_images": num})
        return replace(
            self.options, datasets=replace(self.options.datasets, val={**self.options.datasets.val, self.test: limited})
        )

    def _photographs(self, router: Router) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        if self.photos is None:
            return [], {}
        dataset = build_set(self.options, self.photos)
        records, strips = [], {}
        for i in range(len(dataset)):
            lq = dataset.val_sample(i).lq
            choice = router.choose(lq.to(self.context.device))
            by_divergence = replace_rule(router, "divergence").choose(lq.to(self.context.device))
            records.append(
                {"name": dataset.name(i), "group": choice.name, "confidence": choice.confidence,
                 "divergence": choice.divergence if np.isfinite(choice.divergence) else None, "is_ood": choice.is_ood,
                 "degradation": choice.degradation, "paper_rule": by_divergence.name,
                 "paper_is_ood": by_divergence.is_ood}
            )  # fmt: skip
            if choice.weights is not None:
                restore = checkpoint_restorer(self.options, str(choice.weights), alone(self.context))
                restored = restore(lq).clamp(0, 1)[0].cpu()
                note = f"{choice.name}, {choice.confidence:.0%}" + (", unknown" if choice.is_ood else "")
                size = min(96, *restored.shape[1:])
                top, left = choose_crop(restored, lq[0], size=size)
                panels = [Panel("photograph", lq[0]), Panel("restored", restored, note)]
                strips[dataset.name(i)] = make_strip(panels, crop=(top, left, size))
        return records, strips


def replace_rule(router: Router, rule: Rule) -> Router:
    """The same router with another rule."""
    return replace(router, rule=rule)


def _score(router: Router, made: list[Any], labels: np.ndarray, strangers: list[str]) -> dict[str, Any]:
    names = router.degradations
    known = [i for i, label in enumerate(labels) if label < len(names)]
    group_of = [next(k for k, g in enumerate(router.groups) if n in g.members) for n in names]
    confusion = np.zeros((len(names), len(router.groups)))
    by_degradation = np.zeros((len(names), len(names)))
    for i in known:
        confusion[labels[i], made[i].group] += 1
        by_degradation[labels[i], names.index(made[i].degradation)] += 1
    counts = confusion.sum(1, keepdims=True)
    return {
        "accuracy": {
            "group": float(np.mean([made[i].group == group_of[labels[i]] for i in known])),
            "degradation": float(np.mean([made[i].degradation == names[labels[i]] for i in known])),
        },
        "group_accuracy": {n: float(confusion[k, group_of[k]] / counts[k, 0]) for k, n in enumerate(names)},
        "confusion": (confusion / counts).tolist(),
        "confusion_degradations": (by_degradation / counts).tolist(),
        "known_flagged": float(np.mean([made[i].is_ood for i in known])),
        "unknown_flagged": {
            name: float(np.mean([made[i].is_ood for i, label in enumerate(labels) if label == len(names) + k]))
            for k, name in enumerate(strangers)
        },
        "confidence": float(np.mean([made[i].confidence for i in known])),
    }
