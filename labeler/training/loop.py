"""The training loop of one worker: a plain function, the same alone, on many GPUs, and after a restart."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from labeler.checkpoints import DetectorCheckpoint
from labeler.detectors.cuda import compute_for_training
from labeler.detectors.loading import load_model
from labeler.detectors.preprocess import Preprocessing
from labeler.training.batches import Batch, Batches, Dropped
from labeler.training.config import LossConfig, OptimizerConfig, PretrainConfig, TrainConfig
from labeler.training.crops import crop_loss, cut
from labeler.training.dense import dense_loss
from labeler.training.losses import PARTS, LossWeights, Targets, detection_loss
from labeler.training.models import write_checkpoint
from labeler.training.outputs import BEST, Outputs, mean_ap
from labeler.training.schedule import lr_factor, progress
from labeler.training.trainee import Trainee, use_fused_attention
from labeler.training.trouble import Trouble
from labeler.training.validation import ValidationSet, validate

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class WorkerPlace:
    """The rank of a worker among all, and its device."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class Trainer:
    """The model in training, its optimizer and their progress."""

    def __init__(
        self,
        start: DetectorCheckpoint,
        preprocessing: Preprocessing,
        optimizer: OptimizerConfig,
        train: TrainConfig,
        loss: LossConfig,
        pretrain: PretrainConfig,
        category_ids: Sequence[int],
        place: WorkerPlace,
        outputs: Outputs,
    ) -> None:
        self.start, self.preprocessing, self.place, self.outputs = start, preprocessing, place, outputs
        self.optimizer_config, self.train_config = optimizer, train
        if train.threads is not None:
            torch.set_num_threads(train.threads)
        self.detector = load_model(start, place.device).requires_grad_(True)
        use_fused_attention(self.detector)
        self.detector.train(train.dropout)
        self.weights = LossWeights.of(self.detector.config)
        self.loss_config, self.pretrain_config = loss, pretrain
        self.category_ids = torch.tensor(sorted(category_ids), device=place.device)
        classes = len(self.category_ids) if pretrain.part else 0
        own = Trainee(self.detector, dense=loss.dense > 0, categories=classes).to(place.device)
        self.optimizer = torch.optim.AdamW(
            _groups(own, optimizer), lr=optimizer.lr, weight_decay=optimizer.weight_decay, fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.bad_steps, self.learned = 0, 0  # in a row; since the process began
        self.unreadable = 0  # images, of the worker that has met most
        self.last_batch: Batch | Dropped | None = None
        self.whole_since: int | None = None if pretrain.part else 0  # the step since which all of the model learns
        self._own = own
        self._resume()
        self.over = self._done() >= 1
        trainee: nn.Module = own
        if place.world > 1:
            # Not every parameter is used: of the backbone's norms only those of the levels that are read.
            trainee = nn.parallel.DistributedDataParallel(trainee, find_unused_parameters=True)
        self.trainee = trainee
        self._mean = torch.tensor(preprocessing.rule.mean, device=place.device)
        self._std = torch.tensor(preprocessing.rule.std, device=place.device)

    def _done(self) -> float:
        """0 to 1."""
        return progress(self.step, self.train_config.steps, self.seconds, self.train_config.max_seconds)

    def run_step(self, batch: Batch | Dropped) -> dict[str, Tensor]:
        """Run one step; returns the parts of the loss, each (stages,), the total and the gradient's norm.

        Nothing is learned, and nothing returned, if a worker has no batch, or the gradient is NaN or infinite: one
        batch with an overflow must not spoil the weights.
        """
        self.last_batch = batch
        compute_for_training()  # a validation between two steps has loaded a detector, which computes exactly
        objects = 0.0 if isinstance(batch, Dropped) else float(sum(batch.targets.counts))
        objects, dropped = self._agree(objects, dropped=isinstance(batch, Dropped))
        done, part = self._done(), self.pretrain_config.part
        if self.whole_since is None and done >= part:
            self.whole_since = self.step
        found: dict[str, Tensor] = {}
        if not (dropped or isinstance(batch, Dropped)):
            found = self._learn(batch, objects, done)
        self.step += 1
        self.over = self.over or done >= 1 or self.step >= self.train_config.steps
        return found

    def _learn(self, batch: Batch, objects: float, done: float) -> dict[str, Tensor]:
        part = self.pretrain_config.part
        loss, parts = self._loss(self.trainee, batch, objects)
        if self.whole_since is None:
            self._set_lr(self.pretrain_config.lr, self.step, done / part)
        else:
            self._set_lr(self.optimizer_config.lr, self.step - self.whole_since, (done - part) / (1 - part))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._own.parameters(), self.optimizer_config.clip_norm)
        if not torch.isfinite(norm):  # of all workers together: they decide alike
            self.bad_steps += 1
            return {}
        self.optimizer.step()
        self.bad_steps, self.learned = 0, self.learned + 1
        return {**{name: part.detach() for name, part in parts.items()}, "loss": loss.detach(), "grad_norm": norm}

    def _loss(self, model: nn.Module, batch: Batch, objects: float) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.place.device
        mask, targets = batch.token_mask.to(device), batch.targets.to(device)
        pixels = batch.pixels.to(device).float() * self.preprocessing.rule.scale
        pixels = ((pixels - self._mean) / self._std).permute(0, 3, 1, 2).contiguous()
        if self.whole_since is None:
            return self._crop_loss(model, pixels, batch, targets)
        return self._detection_loss(model, pixels, batch.input_ids.to(device), mask, targets, max(objects, 1.0))

    def is_sound(self, batch: Batch | Dropped) -> bool:
        """Return whether the model as it is now gives a finite loss: else it must not take the place
        of what was saved.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self._own.parameters()):
            return False
        if isinstance(batch, Dropped):
            return self.bad_steps == 0
        with torch.no_grad(), torch.random.fork_rng():
            loss, _ = self._loss(self._own, batch, float(sum(batch.targets.counts)))
        return bool(torch.isfinite(loss))

    def _detection_loss(
        self, model: nn.Module, pixels: Tensor, input_ids: Tensor, mask: Tensor, targets: Targets, objects: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, boxes, dense = model(pixels, input_ids, mask)
        loss, parts = detection_loss(logits, boxes, mask, targets, self.weights, objects)
        if self._own.dense is not None:
            extra = dense_loss(dense, mask, self._own.level_shapes, targets, self.weights.focal_alpha)
            loss, parts["loss_dense"] = loss + self.loss_config.dense * extra, extra
        return loss, parts

    def _crop_loss(
        self, model: nn.Module, pixels: Tensor, batch: Batch, targets: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        crops = cut(pixels, targets, self.pretrain_config.crop_px)
        logits, *_ = model(pixels, batch.input_ids, batch.token_mask, crops)
        loss, right = crop_loss(logits, targets, self.category_ids)
        return loss, {"loss_crop": loss, "right_crop": right}

    def _set_lr(self, lr: float, step: int, done: float) -> None:
        config = self.optimizer_config
        factor = lr_factor(step, done, warmup_steps=config.warmup_steps, final_factor=config.final_factor)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"] * factor

    def _agree(self, objects: float, *, dropped: bool) -> tuple[float, bool]:
        """Return the average number of objects per worker, and whether any has no batch; sets everyone's clock by the
        first's.

        (Else one worker would find the time to be over while another waits for it in the next step.)
        """
        if self.place.world == 1:
            return objects, dropped
        seconds = self.seconds if self.place.rank == 0 else 0.0
        mine = torch.tensor([objects, seconds], device=self.place.device)
        distributed.all_reduce(mine)
        total, self.seconds = mine.tolist()
        most = torch.tensor([int(dropped), self.unreadable], device=self.place.device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        any_dropped, self.unreadable = most.tolist()
        return float(total) / self.place.world, bool(any_dropped)

    def save(self) -> None:
        """State first, checkpoint second: both of the same step unless the job is killed in between."""
        if self.place.rank:
            return
        self.outputs.write_state(
            {
                "detector": self.detector.state_dict(),
                "heads": self._own.heads().state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "whole_since": self.whole_since,
                "random": torch.get_rng_state(),
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            self.export(Path(folder))
            self.outputs.write_checkpoint(Path(folder))

    def export(self, folder: Path) -> None:
        """Write the model as a checkpoint folder."""
        write_checkpoint(self.detector, self.start, folder, self.preprocessing.rule.size)

    def _resume(self) -> None:
        state = self.outputs.read_state() if self.place.rank == 0 else None
        if self.place.world > 1:
            box = [state]
            distributed.broadcast_object_list(box, src=0)
            state = box[0]
        if state is not None:
            self.detector.load_state_dict(state["detector"])
            self._own.heads().load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.whole_since = state["whole_since"]
            torch.set_rng_state(state["random"])
        else:
            torch.manual_seed(self.train_config.seed + self.place.rank)


def train(
    trainer: Trainer,
    batches: Batches,
    *,
    validation: ValidationSet | None,
    validation_steps: int,
    report: Report = lambda record: None,
) -> None:
    """Train to the end, from wherever the output folder stands; logs, saves and validates on the way.

    Args:
        validation_steps: validate every that many steps, and at the end.
        report: called with every record of the log, in the first worker.

    Raises:
        Incomplete: if training goes wrong: no finite loss for many steps, too many images that cannot be read, or a
            failure of what prepares the batches. What was learned is saved before.
    """
    config, first = trainer.train_config, trainer.place.rank == 0
    if first:
        trainer.outputs.open_log(before_step=trainer.step)
    averages, trouble = _Averages(), Trouble(batches.stored_images, config.max_bad_steps)
    clock = time.monotonic()
    saved, logged = trainer.seconds, (trainer.seconds, trainer.step)
    loader = batches.loader(trainer.step, config.steps, processes=config.loaders)
    while not trainer.over:
        batch = trouble.take(loader, trainer)
        values = trainer.run_step(batch)
        averages.add(values) if values else trouble.skip()
        now = time.monotonic()
        trainer.seconds, clock = trainer.seconds + now - clock, now
        if first and (trainer.step % config.log_steps == 0 or trainer.over):
            seconds, step = logged
            pace = (trainer.seconds - seconds) / max(1, trainer.step - step)
            _log(trainer, {**averages.take(), **trouble.counts(), "seconds_per_step": round(pace, 3)}, report)
            logged = trainer.seconds, trainer.step
        trouble.check(trainer, batch)
        if trainer.over or trainer.seconds - saved >= config.save_seconds:
            trouble.save(trainer, batch)
            saved = trainer.seconds
        due = trainer.over or (trainer.whole_since is not None and trainer.step % validation_steps == 0)
        if first and validation is not None and due:
            _validate(trainer, validation, report)


def _validate(trainer: Trainer, validation: ValidationSet, report: Report) -> None:
    """Measure the model as it is now; the best one is kept as a checkpoint of its own."""
    with tempfile.TemporaryDirectory() as folder:
        trainer.export(Path(folder))
        measured = validate(Path(folder), validation, device=str(trainer.place.device))
        ap, best = mean_ap(measured), trainer.outputs.best_ap()
        if ap is not None and (best is None or ap > best):
            trainer.outputs.write_checkpoint(Path(folder), BEST)
    _log(trainer, measured, report)


def _log(trainer: Trainer, values: Mapping[str, Any], report: Report) -> None:
    lr = trainer.optimizer.param_groups[0]["lr"]
    record = {"step": trainer.step, "seconds": round(trainer.seconds, 1), "lr": round(lr, 8), **values}
    trainer.outputs.log(record)
    report(record)


class _Averages:
    """Means since the last `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count: Counter[str] = Counter()

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._count[name] += 1

    def take(self) -> dict[str, float]:
        """`loss`, `grad_norm`, and each part at the last decoder layer and at the encoder (`_encoder`)."""
        means: dict[str, Any] = {name: (total / self._count[name]).tolist() for name, total in self._sums.items()}
        self._sums, self._count = {}, Counter()
        flat: dict[str, float] = {name: round(means[name], 4) for name in means if name not in PARTS}
        for name in PARTS:
            if name not in means:
                continue
            flat[name], flat[f"{name}_encoder"] = round(means[name][-2], 4), round(means[name][-1], 4)
        return flat


def _groups(trainee: Trainee, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameter groups with the `factor` of their learning rate; those with factor 0 are frozen."""
    factors = {"detector.model.backbone.": config.backbone_factor, "detector.model.text_backbone.": config.text_factor}
    by_factor: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trainee.named_parameters():
        factor = next((f for prefix, f in factors.items() if name.startswith(prefix)), 1.0)
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            by_factor.setdefault(factor, []).append(parameter)
    return [{"params": found, "factor": factor} for factor, found in by_factor.items()]
