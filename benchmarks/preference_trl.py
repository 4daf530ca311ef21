"""Whether our DPO loss and its gradient are those of trl on the same pairs.

    python -m benchmarks.preference_trl --model PREFER --reference FINETUNE --pairs REFERENCE

The three are artifacts of the stages of these names. Needs `pip install trl`. Both models are exported; trl's trainer
computes both sides of its loss from them, ours takes the cached log-probabilities of the reference stage. float32, one
thread, the first held-out pairs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.files import read_table
from llm.model.export import to_hf
from llm.model.files import load_model
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.methods.answers import PairTokens, rendered
from llm.train.methods.prefer import PreferenceObjective, read_pairs_table

N_PAIRS = 32


def main() -> None:
    """Prints both losses for two values of beta, and how far the gradients of the embedding are apart."""
    parser = argparse.ArgumentParser()
    for name in ("model", "reference", "pairs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.pairs / "val.parquet"
    tokenizer = Tokenizer.load(options.model)
    rows = read_table(path).to_pylist()[:N_PAIRS]
    pairs = [rendered(row["prompt"], row["chosen"], row["rejected"], tokenizer) for row in rows]
    print("| beta | our loss | trl's | apart | gradients apart, relative |")
    print("|---|---|---|---|---|")
    for beta in (0.1, 0.5):
        model = load_model(options.model)
        objective = PreferenceObjective(model, torch.float32, beta, 0.0)
        batch = read_pairs_table(path, tokenizer).batch(np.arange(len(rows)))
        loss = objective(batch) / batch.n_learned
        loss.backward()
        ours = model.token_embedding.weight.grad
        assert ours is not None
        other, theirs = of_trl(options.model, options.reference, pairs, beta)
        apart = float((theirs[: len(ours)] - ours).norm() / ours.norm())
        print(f"| {beta} | {loss.item():.7f} | {other:.7f} | {abs(loss.item() - other):.1e} | {apart:.1e} |")


def of_trl(model_dir: Path, reference_dir: Path, pairs: list[PairTokens], beta: float) -> tuple[float, torch.Tensor]:
    """trl's loss, and the gradient of the token embedding."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    with tempfile.TemporaryDirectory() as name:
        models: list[Any] = []
        for label, directory in (("model", model_dir), ("reference", reference_dir)):
            folder = Path(name) / label
            to_hf(load_model(directory), folder, Tokenizer.load(directory))
            models.append(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
        config = DPOConfig(
            output_dir=name, report_to=[], beta=beta, use_cpu=True, bf16=False, gradient_checkpointing=False
        )
        trainer = DPOTrainer(
            model=models[0],
            ref_model=models[1],
            args=config,
            processing_class=AutoTokenizer.from_pretrained(folder),
            train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        )
    examples = [{"prompt_ids": p, "chosen_ids": chosen, "rejected_ids": rejected} for p, chosen, rejected in pairs]
    models[0].eval()
    found = trainer._compute_loss(models[0], DataCollatorForPreference(pad_token_id=1)(examples), False)
    loss = found[0] if isinstance(found, tuple) else found
    loss.backward()
    return loss.item(), models[0].get_input_embeddings().weight.grad


if __name__ == "__main__":
    main()
