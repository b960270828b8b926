"""Callback for Lightning's Trainer (the package ``lightning``).

    trainer = lightning.Trainer(callbacks=[GradscopeCallback("run.h5")])

Epochs, the horizon, the loss of every step and the metrics that the module logs come from the trainer. Gradients are
right under accumulation, clipping, mixed precision and the closures that Lightning passes to the optimizer, because the
recorder reads them when the backward pass ends.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradscope.extras import missing
from gradscope.integrations.trainer_session import Session
from gradscope.recording import Recording
from gradscope.recording.record_options import OnFailure

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    raise ImportError(missing("gradscope.integrations.lightning", "lightning")) from None


class GradscopeCallback(Callback):  # type: ignore[misc]
    """Callback that records what a `lightning.Trainer` trains.

    Args:
        path: the record to write. A resumed training goes on in it.
        on_failure: as in `gradscope.record`; ``"stop"`` sets ``trainer.should_stop``.
        log_every: log the main quantities of every n-th step, and the verdict as ``gradscope/failed``, to the trainer's
            loggers; other callbacks see the latest ones among its metrics.
        options: whatever else `gradscope.record` takes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "run.h5",
        *,
        on_failure: OnFailure = "warn",
        log_every: int | None = None,
        **options: Any,
    ):
        self._session = Session(path, on_failure, options, log_every)
        self._resume_step = 0

    @property
    def recording(self) -> Recording | None:
        """The recording while the training goes on; for ``recording.verdict``."""
        return self._session.recording

    def state_dict(self) -> dict[str, Any]:
        """Return the step to go on at, for a checkpoint."""
        return {"next_step": self._resume_step if self.recording is None else self.recording.next_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step of the checkpoint that a training is resumed from."""
        self._resume_step = int(state_dict["next_step"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the record: the optimizers are there, and what a checkpoint held."""
        self._session.open(
            pl_module,
            list(trainer.optimizers),
            # Several fits of one trainer go on, a new trainer starts at 0; so does a checkpoint made without us.
            resume_step=(self._resume_step or trainer.global_step) if trainer.global_step else 0,
            horizon=trainer.estimated_stepping_batches,
            exists=trainer.strategy.broadcast(self._session.path.exists()),
        )
        self._session.epoch(trainer.current_epoch)
        self._first = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that an epoch begins."""
        self._session.epoch(trainer.current_epoch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Log the first loss while it has its graph, which tells what kind of loss it is."""
        if self._first and self.recording is not None:
            self._first = False
            self.recording.log(loss=loss)  # its value is written over when the step is done

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a micro-batch and, if it ended a step, log the step's."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            # Lightning hands out the loss divided by the number of micro-batches.
            parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self._session.add_loss(loss if parts == 1 else loss * parts)
        if self._session.step_is_over():
            self._session.log_loss()
        if latest := self._log(trainer):
            pl_module.log_dict(latest, logger=False)
        if self._session.stop:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record metrics of a validation inside the training."""
        self._session.epoch(trainer.current_epoch, trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record metrics of the training."""
        self._session.epoch(trainer.current_epoch, trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the record, also after ``trainer.should_stop``."""
        self._end(failed=False)
        self._log(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the record after an error or Ctrl-C."""
        self._end(failed=True)

    def _log(self, trainer: Trainer) -> dict[str, float]:
        """Log what is new to the trainer's loggers, at the steps it belongs to; return the latest of each."""
        latest: dict[str, float] = {}
        for step, values in self._session.news():
            latest |= values
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)
        return latest

    def _end(self, failed: bool) -> None:
        self._resume_step = self.state_dict()["next_step"]  # for checkpoints made after this, and another fit
        self._session.close(failed)
