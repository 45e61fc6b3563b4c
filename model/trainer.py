"""One training run: set up, steps, reports, checkpoints, the final measure. A step waits for the device only where an
EMA update has to know how many entries it touches; everything else is read once a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from model import checkpoint, corpus, ema, knowledge
from model.batches import IGNORED, Batches
from model.config import Config
from model.evaluate import token_loss
from model.examiner import Examiner
from model.memory import sum_over_ranks
from model.meters import Stopwatch, device_name, gpu_utilisation, memory_metrics
from model.outcome import NonFiniteLoss, Report, Result, Verdict
from model.schedule import learning_rate
from model.streams import reseeded, stream_seed
from model.tokenizer import Tokenizer, load_or_train
from model.transformer import Transformer, initialise

Metrics = dict[str, float | int | list[float]]
Listener = Callable[[Report], Verdict]


class Trainer:
    """Everything a run holds. `run` is called once."""

    def __init__(self, config: Config, *, checkpoint_dir: Path) -> None:
        self.config, self.checkpoint_dir = config, checkpoint_dir
        self.accelerator = _accelerator(config)
        self.device = self.accelerator.device
        documents = corpus.load(config)
        tokenizer = load_or_train(config, documents)
        model_config, train = config.model, config.train
        token_documents = tokenizer.encode_documents(documents.train)
        self.batches = Batches(
            token_documents,
            seq_len=model_config.max_seq_len,
            batch_size=train.batch_size,
            seed=reseeded(train.seed, train.reseed),
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        )
        self.model = Transformer(model_config)
        initialise(self.model, seed=reseeded(train.seed, train.reseed))
        bank = fill_bank(self.model, config, documents.knowledge, tokenizer)
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=train.lr,
            betas=(train.beta1, train.beta2),
            weight_decay=train.weight_decay,
        )
        self.data_hash = documents.data_hash
        self.examiner = Examiner(config, documents, tokenizer, train_documents=token_documents)
        self.frozen = int(model_config.freeze_ratio * model_config.knowledge_num)
        self.steps = self._total_steps()
        parameters = sum(p.numel() for p in self.model.parameters())
        self.constants: Metrics = {
            "parameters": parameters,
            "active_parameters": parameters - self.model.table.weight.numel(),
            **self.examiner.floors,
        }
        if bank is not None and bank.objects_kept is not None:
            self.constants["objects_kept"] = bank.objects_kept
        self.progress = checkpoint.Progress(step=0, tokens_seen=0, wall_s=0.0, metrics=self.constants)
        found = checkpoint.latest(checkpoint_dir, config=config)
        if found is not None:
            self.progress = checkpoint.load(found, model=self.model, optimizer=self.optimizer)
        self.wrapped, self.wrapped_optimizer = self.accelerator.prepare(self.model, self.optimizer)

    @property
    def budget_tokens(self) -> int:
        """Tokens of all steps: positions, padding included."""
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
        """Train to the budget, or until the listener stops it."""
        train, started_s = self.config.train, time.perf_counter() - self.progress.wall_s
        window = _Window(self.device)
        reports, metrics, verdict = 0, dict(self.progress.metrics), Verdict.CONTINUE
        step = self.progress.step
        while step < self.steps and verdict is Verdict.CONTINUE:
            self._step(step, window)
            step += 1
            if step % train.report_every and step < self.steps:
                continue
            reports += 1
            losses = self._losses(window, last_step=step)
            metrics |= window.metrics(self._step_tokens, losses) | memory_metrics(self.device)
            metrics |= gpu_utilisation(self.device)
            if step == self.steps or reports % self.config.eval.every == 0:
                metrics |= self.examiner.validate(self.model, autocast=self._autocast)
            verdict = self._agree(
                report(
                    Report(
                        step=step,
                        tokens_seen=step * self._step_tokens,
                        budget_tokens=self.budget_tokens,
                        wall_s=time.perf_counter() - started_s,
                        lr=self._rate(step - 1),
                        losses=losses,
                        metrics=dict(metrics),
                    )
                )
            )
            wall_s = time.perf_counter() - started_s
            self.progress = checkpoint.Progress(step, step * self._step_tokens, wall_s, metrics=dict(metrics))
            if step < self.steps and (verdict is Verdict.INTERRUPT or reports % train.checkpoint_every == 0):
                self._save()
            window.start()
        samples = []
        if verdict is Verdict.CONTINUE:
            saved = self._save()
            final, samples = self.examiner.final(self.model, saved=saved, autocast=self._autocast)
            metrics |= final
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

    def _autocast(self) -> AbstractContextManager[Any]:
        return self.accelerator.autocast()

    def _rate(self, step: int) -> float:
        train = self.config.train
        update, total = step // train.accumulation_steps, self.steps // train.accumulation_steps
        return learning_rate(update, total=total, train=train)

    def _step(self, step: int, window: _Window) -> None:
        """One micro-batch: forward, backward, the optimiser where an update is due, the bank's EMA where one is due."""
        train, model = self.config.train, self.config.model
        updates = (step + 1) % train.accumulation_steps == 0
        x, y = self.batches.rank_batch(step, rank=self.accelerator.process_index, world=self.accelerator.num_processes)
        x_BT, y_BT = _to_device(x, self.device), _to_device(y, self.device)
        # Between updates each rank adds up gradients of its own; they are summed over ranks once, where one is due.
        apart = nullcontext() if updates else self.accelerator.no_sync(self.wrapped)
        with window.steps.running():
            with apart:
                with self.accelerator.autocast():
                    output = self.wrapped(x_BT)
                # Ranks pad differently: each divides by the mean number of targets, so that the mean over ranks, which
                # DDP forms of the gradients, is the joined batch's mean.
                targets = sum_over_ranks((y_BT != IGNORED).sum()) / self.accelerator.num_processes
                ce = token_loss(output.logits_BTV, y_BT, reduction="sum") / targets
                total = ce + train.balance_loss_coef * output.balance
                self.accelerator.backward(total / train.accumulation_steps)
            if updates:
                self.accelerator.clip_grad_norm_(self.model.parameters(), train.grad_clip)
                for group in self.optimizer.param_groups:
                    group["lr"] = self._rate(step)
                self.wrapped_optimizer.step()
                self.wrapped_optimizer.zero_grad()
            window.losses.append(ce.detach())
            window.balances.append(output.balance.detach())
        if output.reads and model.ema == "on" and (step + 1) % model.ema_update_freq == 0:
            with torch.no_grad(), window.emas.running():
                stats = ema.update_bank(
                    self.model.bank_NL,
                    output.reads,
                    table_VD=self.model.table.weight,
                    decay=model.ema_decay,
                    frozen=self.frozen,
                )
            window.updates.append(stats)

    def _losses(self, window: _Window, *, last_step: int) -> list[float]:
        """The losses of the window, mean over ranks; one transfer. Raises NonFiniteLoss at the first that is none."""
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
        """Rank 0 writes; the others wait for it, since they may read it next."""
        path = self.checkpoint_dir / f"step-{self.progress.step}"
        if self.accelerator.is_main_process:
            path = checkpoint.save(
                self.checkpoint_dir,
                config=self.config,
                model=self.model,
                optimizer=self.optimizer,
                progress=self.progress,
            )
        self.accelerator.wait_for_everyone()
        return path


class _Window:
    """What has happened since the last report, still on the device."""

    def __init__(self, device: torch.device) -> None:
        self.steps, self.emas = Stopwatch(device), Stopwatch(device)
        self.start()

    def start(self) -> None:
        """Forget; count time from now."""
        self.losses: list[Tensor] = []
        self.balances: list[Tensor] = []
        self.updates: list[ema.UpdateStats] = []
        self.steps.read_s()
        self.emas.read_s()

    def metrics(self, step_tokens: int, losses: list[float]) -> Metrics:
        """Speed, loss and what the EMA did. tokens_per_s counts steps and updates, and no evaluation."""
        (step_s, steps), (ema_s, emas) = self.steps.read_s(), self.emas.read_s()
        metrics: Metrics = {
            "ce_loss": sum(losses) / len(losses),
            "tokens_per_s": steps * step_tokens / (step_s + ema_s),
            "step_ms": 1e3 * step_s / steps,
        }
        slots = sum(stats.slots for stats in self.updates)
        if emas:
            metrics["ema_ms"] = 1e3 * ema_s / emas
            metrics["entries_updated"] = sum(stats.entries for stats in self.updates) / emas
        if slots:
            flipped, ratio = (
                torch.stack([torch.stack([stats.flipped.float(), stats.scale_ratio]) for stats in self.updates])
                .sum(dim=0)
                .tolist()
            )
            metrics["token_flip_rate"], metrics["ema_scale_ratio"] = flipped / slots, ratio / slots
        return metrics


def fill_bank(
    model: Transformer, config: Config, facts: tuple[corpus.Fact, ...], tokenizer: Tokenizer
) -> knowledge.BankInit | None:
    """The bank's first content: the knowledge base, then random tokens. None where there is no bank."""
    if not len(model.bank_NL):
        return None
    seed = reseeded(config.train.seed, config.train.reseed)
    filled = knowledge.bank_rows(
        facts,
        tokenizer,
        knowledge_num=config.model.knowledge_num,
        knowledge_length=config.model.knowledge_length,
        kb_fit=config.model.kb_fit,
        generator=np.random.default_rng(stream_seed(seed, "bank")),
    )
    model.bank_NL.copy_(torch.from_numpy(filled.rows))
    return filled


def _accelerator(config: Config) -> Accelerator:
    """A fresh one: Accelerate keeps its state in the process, and a process may train one trial after another."""
    torch.set_num_threads(config.train.threads)
    torch.use_deterministic_algorithms(True)
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    bf16 = config.train.precision == "bf16" or (config.train.precision == "auto" and cuda)
    accelerator = Accelerator(cpu=not cuda, mixed_precision="bf16" if bf16 else "no")
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert accelerator.num_processes == ranks, "RANK, LOCAL_RANK and WORLD_SIZE are set by whoever starts the ranks"
    return accelerator


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
