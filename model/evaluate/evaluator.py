"""Measures a run: the validation loss at its reports, everything else at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import checkpoint
from model.bank import output_head, self_encode_rate
from model.config import Config, stream_seed
from model.data import Documents, TokenDocuments, fixed_rows, ngram_floors
from model.data.tokenizer import Tokenizer
from model.evaluate.generate import generate, text_metrics
from model.evaluate.losses import Usage, bank_diversity, bank_use, continuation_nats, text_loss
from model.evaluate.probes import fact_metrics
from model.metrics import Metrics
from model.outcome import DataError
from model.transformer import Transformer

Autocast = Callable[[], AbstractContextManager[Any]]


class Evaluator:
    """The held-out text, prompts and probes of one run, and what they measure of a model."""

    def __init__(
        self,
        config: Config,
        documents: Documents,
        tokenizer: Tokenizer,
        *,
        train_documents: TokenDocuments,
        entry_of_fact: NDArray[np.int64] | None = None,
    ) -> None:
        """`entry_of_fact`: of the entries that `read: oracle` hands over; None with product keys."""
        self.config, self.tokenizer, self.documents = config, tokenizer, documents
        self.entry_of_fact = entry_of_fact
        val = tokenizer.encode_corpus(documents.val, documents.val_answers)
        shape = {"seq_len": config.model.max_seq_len, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
        self.rows = fixed_rows(val, max_tokens=config.eval.val_tokens, **shape)
        if entry_of_fact is not None and self.rows.facts is not None:
            self.rows = self.rows._replace(entries=entries_of(self.rows.facts, entry_of_fact))
        unigram, bigram = ngram_floors(
            train_documents, val, vocab_size=config.model.vocab_size, eos_id=tokenizer.eos_id
        )
        self.floors: Metrics = {"unigram_floor": unigram, "bigram_floor": bigram}
        self.prompts = self._prompts(val)

    def _prompts(self, val: TokenDocuments) -> list[tuple[list[int], list[int]]]:
        """(prompt, continuation with its EOS) of the first held-out documents. A prompt is an EOS and at most half a
        document, so that something is left to continue with.

        Raises DataError where no document has a token before its EOS.
        """
        pairs, eval_config = [], self.config.eval
        for d in range(len(val)):
            ids = val[d].tolist()[: self.config.model.max_seq_len]
            cut = min(eval_config.prompt_tokens, len(ids) // 2)
            if cut:
                pairs.append(([self.tokenizer.eos_id, *ids[:cut]], ids[cut:]))
            if len(pairs) == eval_config.prompts:
                break
        if not pairs:
            data = self.config.data
            rule = "no held-out document has text before its end, so there is nothing to continue"
            raise DataError(data.val or data.train or data.corpus, 1, rule, "give documents that have text")
        return pairs

    def validate(self, model: Transformer, *, autocast: Autocast) -> Metrics:
        """The metrics of a report: val_loss, and how the bank is used.

        Every rank measures the same text with the same weights, without communication.
        """
        with autocast():
            usage = self._usage(model)
            loss = text_loss(model, self.rows, batch_size=self.config.eval.val_batch_size, usage=usage)
        if usage is not None:
            usage.remember(model)
        metrics: Metrics = {"val_loss": loss.mean, "perplexity": _exp(loss.mean), **loss.parts}
        return metrics | self._bank_metrics(model, usage)

    def final(self, model: Transformer, *, saved: Path, autocast: Autocast) -> tuple[Metrics, list[dict[str, Any]]]:
        """All metrics; the inference loss is measured on the model of the checkpoint `saved`."""
        batch_size, seq_len = self.config.eval.val_batch_size, self.config.model.max_seq_len
        with autocast():
            usage = self._usage(model)
            loss = text_loss(model, self.rows, batch_size=batch_size, usage=usage)
            metrics: Metrics = {"val_loss": loss.mean, "perplexity": _exp(loss.mean), **loss.parts}
            metrics["val_bpb"] = self._bpb(loss.nats)
            if usage is not None:
                metrics |= bank_use(model, self.rows, batch_size=batch_size, base=loss, usage=usage)
            metrics |= self._bank_metrics(model, usage)
            metrics |= fact_metrics(
                model,
                self.documents.probes,
                tokenizer=self.tokenizer,
                limit=self.config.eval.fact_probes,
                batch_size=8 * batch_size,
                seq_len=seq_len,
                entry_of_fact=self.entry_of_fact,
            )
            reloaded = self._reload(saved, like=model.table.weight)
            nats = continuation_nats(reloaded, self.prompts, batch_size=batch_size, seq_len=seq_len)
            metrics["inference_loss"] = nats.sum().item() / sum(len(rest) for _, rest in self.prompts)
            continuations = self._write(reloaded)
        metrics |= text_metrics(continuations, eos_id=self.tokenizer.eos_id)
        samples = [
            {
                "prompt": self.tokenizer.decode(prompt[1:]),
                "continuation": self.tokenizer.decode(tokens),
                "reference": self.tokenizer.decode(rest),
                "ended": self.tokenizer.eos_id in tokens,
            }
            for (prompt, rest), tokens in zip(self.prompts, continuations, strict=True)
        ]
        return metrics, samples

    def _usage(self, model: Transformer) -> Usage | None:
        config, device = self.config.model, model.table.weight.device
        if not config.has_bank:
            return None
        layers = len(config.layers_with_memory)
        return Usage.empty(layers=layers, entries=config.knowledge_num, dim=config.dim, device=device)

    def _bank_metrics(self, model: Transformer, usage: Usage | None) -> Metrics:
        if usage is None:
            return {}
        config, table_VD = self.config.model, model.table.weight
        metrics = usage.metrics(num_selected=config.num_selected * config.memory_heads)
        if config.stores_tokens:
            own_VD = table_VD[: self.tokenizer.size]  # the other rows are not tokens
            rate = self_encode_rate(own_VD, head_VD=output_head(table_VD, config))
            metrics |= {
                "self_encode_rate": rate.item(),
                "distinct_tokens_per_entry": bank_diversity(model.bank.tokens_NL),
            }
        return metrics

    def _bpb(self, nats: float) -> float:
        """Bits a byte of UTF-8: it counts the cost of all targets, EOS included, and the bytes of the text only."""
        text_bytes = sum(len(text.encode()) for text in self.documents.val[: self.rows.documents_used])
        return nats / math.log(2) / text_bytes

    def _reload(self, saved: Path, *, like: Tensor) -> Transformer:
        model = Transformer(self.config.model).to(like)
        checkpoint.load_model(saved, model)
        return model

    def _write(self, model: Transformer) -> list[list[int]]:
        generator = torch.Generator().manual_seed(stream_seed(self.config.train.seed, "samples"))
        return generate(
            model,
            [prompt for prompt, _ in self.prompts],
            new_tokens=self.config.eval.new_tokens,
            temperature=self.config.eval.temperature,
            eos_id=self.tokenizer.eos_id,
            pad_id=self.tokenizer.pad_id,
            seq_len=self.config.model.max_seq_len,
            generator=generator,
        )


def entries_of(facts: NDArray[np.int64], entry_of_fact: NDArray[np.int64]) -> NDArray[np.int64]:
    """The entry of each fact; -1 where there is no fact."""
    return np.where(facts >= 0, entry_of_fact[facts], -1)


def _exp(nats: float) -> float:
    """exp, or infinity where it exceeds a float: the perplexity of a diverged run must not crash it."""
    return math.exp(nats) if nats < 700 else math.inf
