"""Our models under lm-eval (the extra `eval`): any of its tasks, asked through our own likelihoods and generation.

Import this only where lm-eval is wanted, and after `quiet_hub`: its libraries read the environment when imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..model.generate import Sampling, generate_batch
from ..model.gpt import GPT
from ..statistics import Estimate
from ..tokenizer.tokenizer import Tokenizer
from .answers import special_tokens
from .likelihood import fitted, score
from .lm_eval_tasks import is_local, task_name
from .metrics import LM_EVAL, Metric
from .scores import Score, Units
from .trees import Continuation

MAX_NEW_TOKENS = 256
"""Tokens of an answer where a task does not say how many, as in lm-eval's own models."""


class HarnessModel(TemplateLM):  # type: ignore[misc] # lm-eval has no types
    """A model as lm-eval asks it. Each text begins with `<|document|>`, as in training."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, batch_tokens: int) -> None:
        super().__init__()
        self._model, self._tokenizer, self._batch_tokens = model, tokenizer, batch_tokens

    @property
    def eot_token_id(self) -> int:
        """`<|document|>`: one text ends where the next one begins."""
        return self._tokenizer.document_token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Returns the ids of a text, after `<|document|>` unless `add_special_tokens` is False."""
        tokens = self._tokenizer.encode(string)
        return tokens if add_special_tokens is False else [self.eot_token_id, *tokens]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        context_length = self._model.config.context_length
        whole = [Continuation([*context, *rest], len(context)) for _, context, rest in requests]
        fitting = [fitted(continuation, context_length) for continuation in whole]
        scored = score(self._model, fitting, batch_tokens=self._batch_tokens)
        return [(float(scores.log_p.sum()), bool(scores.is_greedy.all())) for scores in scored]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns ln p of each text; of a long one, of windows that lm-eval cuts."""
        length, totals = self._model.config.context_length, []
        for request in requests:
            tokens = self._tokenizer.encode(request.args[0])
            windows = get_rolling_token_windows(tokens, self.eot_token_id, length, context_len=1)
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(log_p for log_p, _ in self._loglikelihood_tokens(pairs)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Generates what follows each prompt, up to the first of the texts that end it."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        texts = [""] * len(requests)
        for options, indices in groups.items():
            prompts = [self.tok_encode(requests[index].args[0]) for index in indices]
            for index, text in zip(indices, self._generate(prompts, json.loads(options)), strict=True):
                texts[index] = text
        return texts

    def _generate(self, prompts: Sequence[list[int]], options: dict[str, Any]) -> Iterable[str]:
        temperature = float(options.get("temperature", 1.0)) if options.get("do_sample") else 0.0
        stop = special_tokens(self._tokenizer)
        made = generate_batch(
            self._model,
            prompts,
            max_new_tokens=int(options.get("max_gen_toks", MAX_NEW_TOKENS)),
            sampling=Sampling(temperature=temperature, top_k=None),
            stop=stop,
        )
        until = options.get("until") or []
        ends = [re.escape(text) for text in ([until] if isinstance(until, str) else until) if text]
        for tokens in made:
            text = self._tokenizer.decode([token for token in tokens if token not in stop])
            yield re.split("|".join(ends), text, maxsplit=1)[0] if ends else text


def run_tasks(
    model: GPT, tokenizer: Tokenizer, tasks: Sequence[str], *, batch_tokens: int, limit: int | None = None
) -> dict[str, Any]:
    """Returns lm-eval's results with its samples: tasks by name, or by the paths of YAML files."""
    local = [Path(task) for task in tasks if is_local(task)]
    names = [task_name(path) for path in local] + [task for task in tasks if not is_local(task)]
    folders: list[str | Path] = [str(path.parent) for path in local]
    manager = TaskManager(include_path=folders or None, include_defaults=len(local) < len(tasks))
    results = simple_evaluate(
        model=HarnessModel(model, tokenizer, batch_tokens),
        tasks=names,
        task_manager=manager,
        limit=limit,
        bootstrap_iters=0,
    )
    return dict(results or {})


def measured_by(results: dict[str, Any], model: str) -> tuple[list[Units], list[Score]]:
    """Returns the results as units, one an item; as bare scores, those that are no mean over items (perplexity)."""
    units, scores = [], []
    for task, samples in results["samples"].items():
        version = results["versions"].get(task)
        number = int(float(version)) if isinstance(version, Real) else 0
        for key, value in results["results"][task].items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            rows = [row for row in samples if row.get("filter", filtered) == filtered]
            values = [row.get(metric) for row in rows]
            made = Metric(metric if filtered == "none" else f"{metric}, {filtered}", "", version=number)
            if values and all(isinstance(one, Real) for one in values) and np.isclose(np.mean(values), float(value)):
                units.append(_units(f"{LM_EVAL}{task}", made, rows, np.array(values, dtype=np.float64)))
            else:
                estimate = Estimate(float(value), float(value), float(value), len(rows))
                scores.append(Score(model, f"{LM_EVAL}{task}", made, estimate, has_interval=False))
    return units, scores


def _units(benchmark: str, metric: Metric, rows: Sequence[dict[str, Any]], values: Any) -> Units:
    n_choices = [len(row["arguments"]) for row in rows]
    is_choice = metric.name.startswith("acc") and min(n_choices) > 1
    return Units(
        benchmark=benchmark,
        metric=metric,
        ids=[str(row["doc_id"]) for row in rows],
        values=values,
        is_share=bool(np.isin(values, (0, 1)).all()),
        chance=float(np.mean([1 / n for n in n_choices])) if is_choice else None,
    )
