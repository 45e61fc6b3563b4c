"""One training run: set-up, steps, reports, checkpoints, the final evaluation.

Between two reports only an update of the bank waits for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from model import checkpoint, engine
from model.bank import BankUpdater, Read, UpdateStats, fill_bank, sum_over_ranks, update_metrics
from model.config import Config, reseeded, untouched_numbers
from model.cost import is_recorded
from model.data import IGNORED, Batches, load_documents
from model.data.tokenizer import load_or_train
from model.device import cuda_graph
from model.device.meters import Peaks, Stopwatch, device_name, gpu_utilisation, resident
from model.device.prefetch import Prefetcher, ahead_on, on_host
from model.evaluate import Evaluator
from model.metrics import Metrics
from model.optimizer import adamw, set_rate
from model.outcome import NonFiniteLoss, Report, Result, Verdict
from model.schedule import learning_rate, report_due, reports_by
from model.transformer import Transformer, initialise

Listener = Callable[[Report], Verdict]


class Trainer:
    """Everything that a run holds. Call `run` once."""

    def __init__(self, config: Config, *, checkpoint_dir: Path) -> None:
        self.config, self.checkpoint_dir = config, checkpoint_dir
        self.accelerator = engine.start(config)
        self.device = self.accelerator.device
        documents = load_documents(config)
        tokenizer = load_or_train(config, documents)
        model_config, train = config.model, config.train
        token_documents = tokenizer.encode_documents(documents.train)
        self.batches = Batches.of(token_documents, config=config, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
        self.model = Transformer(model_config, gradient_checkpointing=train.gradient_checkpointing == "on")
        initialise(self.model, seed=reseeded(train.seed, train.reseed))
        bank = fill_bank(self.model.bank, config, documents.knowledge, tokenizer)
        self.model.to(self.device, engine.weights_dtype(config))
        self.optimizer = adamw(self.model, config)
        self.data_hash = documents.data_hash
        self.evaluator = Evaluator(config, documents, tokenizer, train_documents=token_documents)
        self.bank_updater = BankUpdater(
            config,
            self.model.bank,
            table_VD=self.model.table.weight,
            sub_keys=self.model.sub_keys,
            optimizer=self.optimizer,
        )
        self.steps = self._total_steps()
        stored = sum(p.numel() for p in self.model.parameters())
        self.constants: Metrics = {
            "parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "active_parameters": stored - self.model.table.weight.numel() - untouched_numbers(model_config),
            "epoch_tokens": self.batches.tokens_per_epoch,
            **self.evaluator.floors,
        }
        if bank is not None and bank.objects_kept is not None:
            self.constants["objects_kept"] = bank.objects_kept
        self.progress = checkpoint.Progress(step=0, tokens_seen=0, wall_s=0.0, metrics=self.constants)
        found = checkpoint.latest(checkpoint_dir, config=config, data_hash=self.data_hash, model=self.model)
        if found.path is not None:
            self.progress = checkpoint.load(found.path, model=self.model, optimizer=self.optimizer)
        self.saved = found.path
        self.note = "; ".join(
            [*found.passed_over, f"training resumes from step {self.progress.step}"] if found.passed_over else []
        )
        self.wrapped, self.wrapped_optimizer = engine.prepare(self.accelerator, self.model, self.optimizer)
        ranks, cuda = self.accelerator.num_processes, self.device.type == "cuda"
        self.records = is_recorded(config, cuda=cuda, ranks=ranks)
        self.micro_batch = cuda_graph.Recorded(self._train_on, self.device) if self.records else self._train_on
        self.prefetcher = Prefetcher(
            self._read, steps=range(self.progress.step, self.steps), ahead=ahead_on(self.device)
        )

    @property
    def budget_tokens(self) -> int:
        """Tokens of all steps: positions, including padding."""
        return self.steps * self._step_tokens

    @property
    def _step_tokens(self) -> int:
        return self.config.train.batch_size * self.config.model.max_seq_len

    def _total_steps(self) -> int:
        train = self.config.train
        if train.tokens is not None:
            steps = -(-train.tokens // self._step_tokens)
        else:
            assert train.epochs is not None, "a configuration has exactly one budget"
            steps = self.batches.steps_for(train.epochs)
        return -(-steps // train.accumulation_steps) * train.accumulation_steps  # whole updates

    def run(self, report: Listener) -> Result:
        """Train until the budget is used or the listener stops the run."""
        with self.prefetcher, resident.sampled():
            return self._run(report)

    def _run(self, report: Listener) -> Result:
        train, started_s = self.config.train, time.perf_counter() - self.progress.wall_s
        window, peaks = _Window(self.device), Peaks(self.device)
        metrics, verdict = dict(self.progress.metrics), Verdict.CONTINUE
        step = self.progress.step
        while step < self.steps and verdict is Verdict.CONTINUE:
            self._step(step, window)
            step += 1
            if not report_due(step, total=self.steps, train=train):
                continue
            reports = reports_by(step, train=train)
            losses = self._losses(window, last_step=step)
            measured = (
                window.metrics(self._step_tokens, losses) | gpu_utilisation(self.device) | self.bank_updater.metrics()
            )
            if step == self.steps or reports % self.config.eval.every == 0:
                measured |= self._validate(step)
            measured |= peaks.read()
            metrics |= measured
            verdict = self._agree(
                report(
                    Report(
                        step=step,
                        tokens_seen=step * self._step_tokens,
                        budget_tokens=self.budget_tokens,
                        wall_s=time.perf_counter() - started_s,
                        lr=self._rate(step - 1),
                        losses=losses,
                        metrics=self.constants | measured,
                        note=self.note,
                    )
                )
            )
            self.note = ""
            wall_s = time.perf_counter() - started_s
            self.progress = checkpoint.Progress(step, step * self._step_tokens, wall_s, metrics=dict(metrics))
            if verdict is Verdict.INTERRUPT or (step < self.steps and reports % train.checkpoint_every == 0):
                self._save()
            window.start()
        samples = []
        if verdict is Verdict.CONTINUE:
            saved = self._save()
            final, samples = self.evaluator.final(self.model, saved=saved, autocast=self._autocast)
            metrics |= final | peaks.read()
        return Result(
            verdict=verdict,
            step=step,
            tokens_seen=step * self._step_tokens,
            budget_tokens=self.budget_tokens,
            data_hash=self.data_hash,
            device=device_name(self.device),
            metrics=metrics,
            samples=samples,
        )

    def _validate(self, step: int) -> Metrics:
        """Validate. Raises NonFiniteLoss: an update can break the weights after a loss that was still finite."""
        measured = self.evaluator.validate(self.model, autocast=self._autocast)
        val_loss = measured["val_loss"]
        assert isinstance(val_loss, float)
        if not np.isfinite(val_loss):
            raise NonFiniteLoss(step, val_loss)
        return measured

    def _autocast(self) -> AbstractContextManager[Any]:
        return engine.autocast(self.config, self.device)

    def _rate(self, step: int) -> float:
        train = self.config.train
        update, total = step // train.accumulation_steps, self.steps // train.accumulation_steps
        return learning_rate(update, total=total, train=train)

    def _step(self, step: int, window: _Window) -> None:
        """Train one micro-batch: forward and backward, then the optimiser and the bank's update where they are due."""
        train = self.config.train
        updates = (step + 1) % train.accumulation_steps == 0
        self.accelerator.sync_gradients = updates  # DeepSpeed's backward also steps its optimiser
        if updates:
            set_rate(self.optimizer, self._rate(step))
        x_BT, y_BT = self.prefetcher.take(step)
        with window.steps.running():
            ce, reads = self.micro_batch(x_BT, y_BT)
            if updates:
                self.accelerator.clip_grad_norm_(self.model.parameters(), train.grad_clip)
                self.wrapped_optimizer.step()
                self.wrapped_optimizer.zero_grad(set_to_none=not self.records)
            window.losses.append(ce.clone())
        self.bank_updater.note(reads)
        if self.bank_updater.due(step):
            with window.emas.running():
                window.updates += self.bank_updater.update(step, reads)

    def _train_on(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Read]]:
        """Forward and backward of a micro-batch: its cross-entropy, and what the layers read."""
        x_BT, y_BT = x_BT.to(self.device, non_blocking=True), y_BT.to(self.device, non_blocking=True)
        # Between updates each rank accumulates its own gradients; they are summed over ranks once an update.
        apart = nullcontext() if self.accelerator.sync_gradients else self.accelerator.no_sync(self.wrapped)
        with apart:
            with self.accelerator.autocast():
                output = self.wrapped(x_BT, y_BT)
            # Ranks pad differently. Each divides by the mean number of targets, so that DDP's mean of the gradients
            # over ranks is the mean of the joined batch.
            targets = sum_over_ranks((y_BT != IGNORED).sum()) / self.accelerator.num_processes
            ce = output.nats / targets
            total = ce + self.config.train.balance_loss_coef * output.balance
            self.accelerator.backward(total)  # divides by the steps of an update
        return ce.detach(), output.reads

    def _read(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's rows of a step; the prefetcher calls it in its thread."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        x, y = self.batches.rank_batch(step, rank=rank, world=world)
        return on_host(x, self.device), on_host(y, self.device)

    def _losses(self, window: _Window, *, last_step: int) -> list[float]:
        """The window's losses, mean over ranks; one transfer. Raises NonFiniteLoss for the first that is not finite."""
        losses_S = sum_over_ranks(torch.stack(window.losses)) / self.accelerator.num_processes
        losses = losses_S.tolist()
        for offset, loss in enumerate(losses):
            if not np.isfinite(loss):
                raise NonFiniteLoss(last_step - len(losses) + offset, loss)
        return losses

    def _agree(self, verdict: Verdict) -> Verdict:
        """Rank 0's verdict, on every rank."""
        if self.accelerator.num_processes == 1:
            return verdict
        return Verdict(broadcast_object_list([verdict.value])[0])

    def _save(self) -> Path:
        """Write a checkpoint, unless the present step was read or written last. Rank 0 writes; the others wait, because
        they may read it next."""
        path = self.checkpoint_dir / f"step-{self.progress.step}"
        if path == self.saved:
            return path
        if self.accelerator.is_main_process:
            checkpoint.save(
                self.checkpoint_dir,
                config=self.config,
                data_hash=self.data_hash,
                model=self.model,
                # ZeRO-2 keeps a share of the moments on every rank, under other names.
                optimizer=self.optimizer if self.config.train.engine == "ddp" else None,
                progress=self.progress,
            )
        self.accelerator.wait_for_everyone()
        self.saved = path
        return path


class _Window:
    """What happened since the last report; losses and updates are still on the device."""

    def __init__(self, device: torch.device) -> None:
        self.steps, self.emas = Stopwatch(device), Stopwatch(device)
        self.start()

    def start(self) -> None:
        """Start an empty window, and count time from now."""
        self.losses: list[Tensor] = []
        self.updates: list[UpdateStats] = []
        self.steps.read_s()
        self.emas.read_s()

    def metrics(self, step_tokens: int, losses: list[float]) -> Metrics:
        """Speed, loss and what the EMA did. tokens_per_s counts steps and updates, not evaluation."""
        (step_s, steps), (ema_s, emas) = self.steps.read_s(), self.emas.read_s()
        metrics: Metrics = {
            "ce_loss": sum(losses) / len(losses),
            "tokens_per_s": steps * step_tokens / (step_s + ema_s),
            "step_ms": 1e3 * step_s / steps,
        }
        if emas:
            metrics["ema_ms"] = 1e3 * ema_s / emas
        return metrics | update_metrics(self.updates)
