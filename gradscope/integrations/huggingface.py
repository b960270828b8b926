"""Callback for Hugging Face's Trainer (the package ``transformers``).

    trainer = transformers.Trainer(..., callbacks=[GradscopeCallback("run.h5")])

Epochs, the horizon, the evaluation's metrics and the loss of every step come from the trainer and the model's outputs.
Gradients are right under accumulation, clipping, mixed precision and the optimizers that accelerate wraps, because the
recorder reads them when the backward pass ends.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from gradscope import checks
from gradscope.extras import missing
from gradscope.integrations.trainer_session import PREFIX, Session, free_names
from gradscope.recording import Recording
from gradscope.recording.record_options import OnFailure
from gradscope.torch_utils.module_hooks import Hook, ModuleHooks

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler
except ImportError:
    raise ImportError(missing("gradscope.integrations.huggingface", "transformers")) from None

#: What the Trainer logs that the record knows itself, or that belongs to an evaluation or to the end.
_KNOWN = ("loss", "grad_norm", "learning_rate", "epoch")

#: The Trainer's own average and ours may differ by this share: logs were rounded to four digits in older releases.
_SAME = 1e-3


class GradscopeCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that records what a `transformers.Trainer` trains.

    The loss of a step is that of the model's own output. Where the Trainer computes another one (label smoothing,
    ``compute_loss_func``), its logged average is recorded instead, at the steps at which it logs.

    Args:
        path: the record to write. A resumed training goes on in it.
        on_failure: as in `gradscope.record`; ``"stop"`` sets ``control.should_training_stop``.
        log_every: log the main quantities of every n-th step, and the verdict as ``gradscope/failed``, as the Trainer
            logs its own: into its history, and to whatever it reports to.
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
        self._handler: CallbackHandler | None = None
        self._hook: Any = None
        self._own_loss = True
        self._kind_seen = False
        self._scaled = False  # the micro-batches' losses of a step add up to its loss
        self._since_log: list[Tensor] = []

    @property
    def recording(self) -> Recording | None:
        """The recording while the training goes on; for ``recording.verdict``."""
        return self._session.recording

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Open the record: model, optimizer and state are as they will be used."""
        assert model is not None
        caller = sys._getframe(1).f_locals.get("self")  # who calls all callbacks; they are not given it
        self._handler = caller if isinstance(caller, CallbackHandler) else None
        self._detach()
        self._session.open(
            model,
            [optimizer],
            resume_step=state.global_step,
            horizon=state.max_steps,
            exists=self._session.path.exists(),
        )
        self._own_loss, self._kind_seen, self._since_log = True, False, []
        self._hook = ModuleHooks()
        self._hook.after_forward(model, Hook(self._see_output), with_kwargs=True)
        self._world = args.world_size if args.average_tokens_across_devices else 1

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that an epoch begins, or goes on."""
        self._session.epoch(int((state.epoch or 0) + 1e-6))

    def _see_output(self, model: nn.Module, inputs: Any, given: Mapping[str, Any], output: Any) -> None:
        """Note the loss after every forward of the model, if it has one."""
        if not model.training or not torch.is_grad_enabled():
            return
        loss = output.get("loss") if isinstance(output, Mapping) else output[0] if isinstance(output, tuple) else None
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        if not self._kind_seen and self.recording is not None:
            self._kind_seen = True
            self.recording.log(loss=loss)  # while it has its graph; the value is written over when the step is done
        self._scaled = given.get("num_items_in_batch") is not None
        self._session.add_loss(loss)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the loss of the step, and stop the trainer where the run has failed."""
        loss = self._session.log_loss(self._world if self._scaled else None) if self._own_loss else None
        if loss is not None:
            self._since_log.append(loss)
        self._log_news(args, state, control)
        if self._session.stop:
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record what the Trainer logs every ``logging_steps``, as far as it is not known otherwise."""
        logs = logs or {}
        if self.recording is None or "train_runtime" in logs:
            return
        if "loss" in logs:
            self._compare(float(logs["loss"]))
            if not self._own_loss:
                self.recording.log(loss=float(logs["loss"]))
        others = {n: v for n, v in logs.items() if n not in _KNOWN and not n.startswith(("eval_", PREFIX))}
        if others:
            self.recording.log(**free_names(others))

    def _compare(self, logged: float) -> None:
        """Check that the model's own loss is what is trained on, by the Trainer's average."""
        kept, self._since_log = self._since_log, []
        ours = torch.stack(kept).mean().item() if kept else None
        if not self._own_loss or (ours is not None and not (abs(ours - logged) > _SAME * abs(logged) + 1e-4)):
            return  # the same, or not a number, which the Trainer leaves out of its average
        self._own_loss = False
        why = "puts out none" if ours is None else f"is {ours:.6g} on average"
        text = (
            f"the Trainer's loss is {logged:.6g}, and the model's own {why}: from here on the Trainer's average is "
            "recorded, at the steps at which it logs; logging_steps=1 has it at every step"
        )
        warnings.warn(text, stacklevel=checks.users_line())

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record metrics of an evaluation, for the epoch that is going on or has just ended."""
        told = {name: value for name, value in (metrics or {}).items() if name != "epoch"}
        self._session.epoch(max(0, math.ceil(state.epoch or 0) - 1), told)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the record, also after ``control.should_training_stop``."""
        self._detach()
        self._session.close()
        self._log_news(args, state, control)

    def _log_news(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Log what is new as `Trainer.log` does: into the history and to all callbacks, at the steps it belongs to."""
        for step, values in self._session.news():
            at = copy(state)
            at.global_step = step + 1  # the Trainer counts the steps that are done
            state.log_history.append({**values, "step": at.global_step})
            if self._handler is not None:
                wanted = control.should_log  # of the Trainer's own log, which is to come
                self._handler.on_log(args, at, control, dict(values))
                control.should_log = wanted

    def _detach(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
