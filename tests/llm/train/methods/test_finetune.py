"""Tests of supervised fine-tuning: template, loss and gradients against independent ones, adapters, what is shown."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from llm.model.files import WEIGHTS_FILE, load_model, load_tensors
from llm.model.gpt import attention_in_pieces
from llm.model.lora import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from llm.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer
from llm.train.__main__ import train
from llm.train.loader import StepLoader, evenly_spaced, step_rows
from llm.train.loss import Objective, layout_of
from llm.train.methods.examples import read_examples, spans
from llm.train.shards import read_shards
from tests.llm.train.train_materials import chat, tiny_job, write_chats

CHATS = [
    [{"role": "system", "content": "Du bäckst."}, *chat("Grüße 🥖?", "日本 — ok"), *chat("mehr?", "ja\n\n ")],
    chat("a\r\n b", "  c"),
    chat("rye?", "bake it"),
]


@pytest.mark.parametrize("messages", CHATS)
def test_our_ids_and_mask_are_those_of_the_template(messages, materials):
    ours = Tokenizer.load(materials.tokenizer_dir)
    theirs = AutoTokenizer.from_pretrained(materials.tokenizer_dir)
    found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = ours.render_chat(messages)
    assert ids == found["input_ids"]
    assert mask == [bool(value) for value in found["assistant_masks"]]
    asked = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
    assert ours.render_chat(messages[:-1], add_generation_prompt=True)[0] == asked["input_ids"]


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_special_token_in_a_text_is_no_special_token_and_the_template_refuses_it(token, materials):
    """The instruct stage drops such examples, so that any that is trained on can be made with the template."""
    messages = chat(f"rye {token}?", "bake")
    ids, _ = Tokenizer.load(materials.tokenizer_dir).render_chat(messages)
    plain, _ = Tokenizer.load(materials.tokenizer_dir).render_chat(chat("rye?", "bake"))
    special = set(range(len(SPECIAL_TOKENS)))
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    with pytest.raises(Exception, match="spells the special token"):
        AutoTokenizer.from_pretrained(materials.tokenizer_dir).apply_chat_template(messages)


def test_loss_and_gradients_of_a_step_are_those_of_each_example_alone(materials):
    """However the examples fall into micro-batches; the reference renders, masks and adds up by itself, in float64."""
    tokenizer, model = Tokenizer.load(materials.tokenizer_dir), load_model(materials.base_dir).double()
    examples = read_examples(materials.examples_dir / "train.parquet", tokenizer, 16)
    rows = step_rows(examples.sequences.order, 8, 0, seed=0)
    total, n_learned = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        question, answer = (message["content"] for message in examples.chats[row])
        end, asked = [tokenizer.end_token], [tokenizer.document_token, SPECIAL_TOKENS.index("<|user|>")]
        prompt = [*asked, *tokenizer.encode(question), *end, SPECIAL_TOKENS.index("<|assistant|>")]
        learned = [*tokenizer.encode(answer), *end]
        logits = model(torch.tensor([prompt + learned]))[0]
        total = total + F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(learned), reduction="sum")
        n_learned += len(learned)
    (total / n_learned).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    objective = Objective(model.float(), torch.float32)
    for micro_batch_size in (1, 3, 8):
        model.zero_grad()
        batches = StepLoader(examples.sequences, 8, micro_batch_size, 0, torch.device("cpu")).batches(0)
        assert sum(batch.n_learned for batch in batches) == n_learned
        losses = [objective(batch) / n_learned for batch in batches]
        sum(losses).backward()
        torch.testing.assert_close(sum(losses).double(), total / n_learned, rtol=1e-6, atol=0)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad.double(), expected[name].double(), rtol=1e-4, atol=1e-6)


def test_attention_in_pieces_keeps_texts_apart_as_the_kernel_does():
    """Rows longer than a piece, of five texts each."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 300, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    visible = layout_of(torch.randint(5, (2, 300), generator=draw).sort().values).visible
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    torch.testing.assert_close(attention_in_pieces(query, key, value, 0.0, visible), expected)


def test_every_batch_has_something_to_learn(materials, tmp_path):
    """Chats without an answer, which would give empty batches, never become sequences."""
    write_chats(tmp_path / "a.parquet", [[{"role": "user", "content": "rye?"}], *CHATS[2:]] * 4)
    examples = read_examples(tmp_path / "a.parquet", Tokenizer.load(materials.tokenizer_dir), 16)
    assert examples.dropped == {"no answer": 4}
    assert all(batch.n_learned for batch in examples.sequences.batches(np.arange(len(examples.sequences)), 1))


def test_adapters_are_trained_alone_and_the_artifact_is_merged(materials, tmp_path):
    lora = {"rank": 2, "targets": ["query", "mlp.expand"], "embeddings": False}
    train(tiny_job(materials, tmp_path, "finetune", lora=lora))
    base, tuned = load_model(materials.base_dir), load_model(tmp_path / "out")
    before, after = base.state_dict(), tuned.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".", 2)[2] for name in changed} == {"attention.query.weight", "mlp.expand.weight"}
    adapter = load_tensors(tmp_path / "out" / ADAPTER_FILE)
    assert len(adapter) == 2 * 2 * 2
    about = json.loads((tmp_path / "out" / ADAPTER_CONFIG_FILE).read_text())
    assert about["rank_pattern"] == {}
    assert about["base_model_name_or_path"] == "-".join(materials.base_dir.parts[-2:])  # stage and fingerprint
    newest = max((tmp_path / "work" / "checkpoints").iterdir())
    assert {name.rsplit(".", 1)[1] for name in load_tensors(newest / WEIGHTS_FILE)} == {"lora_a", "lora_b"}
    for block in range(2):
        places = {"attention.query": "attn.c_attn", "mlp.expand": "mlp.c_fc"}
        for ours, theirs in places.items():
            name = f"blocks.{block}.{ours}.weight"
            a, b = (adapter[f"base_model.model.transformer.h.{block}.{theirs}.lora_{part}.weight"] for part in "AB")
            update = 16.0 / 2 * b[: len(before[name])] @ a  # queries come first in c_attn
            torch.testing.assert_close(after[name], before[name] + update, rtol=0, atol=1e-6)


def test_embeddings_learn_beside_adapters(materials, tmp_path):
    """As peft has it: the whole matrices of embedding and head in the adapter's file, equal as these are tied."""
    train(tiny_job(materials, tmp_path, "finetune", lora={"rank": 2}))
    base, tuned = load_model(materials.base_dir), load_model(tmp_path / "out")
    assert not torch.equal(base.token_embedding.weight, tuned.token_embedding.weight)
    assert torch.equal(base.position_embedding.weight, tuned.position_embedding.weight)
    adapter = load_tensors(tmp_path / "out" / ADAPTER_FILE)
    for name in ("transformer.wte", "lm_head"):
        assert torch.equal(adapter[f"base_model.model.{name}.weight"], tuned.token_embedding.weight)
    assert json.loads((tmp_path / "out" / ADAPTER_CONFIG_FILE).read_text())["modules_to_save"] == ["lm_head", "wte"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora": {"targets": ["gate"]}}, r"lora\.targets has 'gate'; allowed here: attention.key"),
        ({"lora": {"rank": 0}}, "rank is 0; allowed: 1 or more"),
        ({"lora": {}, "optimizer": {"kind": "muon"}}, "lora is set and optimizer.kind is 'muon'"),
    ],
)
def test_adapters_that_cannot_be_are_refused(changes, words, materials, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(tiny_job(materials, tmp_path, "finetune", **changes))


def test_the_guard_takes_adapters_back_to_a_good_step_and_gives_up_with_a_remedy(materials, tmp_path, caplog):
    rates = {"learning_rate": 1e9, "warmup_steps": 0}
    with pytest.raises(ValueError, match=r"diverged at step .* back to step 0: lower optimizer\.learning_rate"):
        train(tiny_job(materials, tmp_path, "finetune", lora={"rank": 2}, optimizer=rates))
    assert "back from step" in caplog.text


def test_an_example_is_shown_before_training(materials, tmp_path, caplog):
    caplog.set_level("INFO")
    job = tiny_job(materials, tmp_path, "finetune", optimizer={"learning_rate": 1e9, "warmup_steps": 0})
    with pytest.raises(ValueError, match="diverged"):
        train(job)
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    chats = read_examples(materials.examples_dir / "train.parquet", tokenizer, 16)
    question, answer = (message["content"] for message in chats.chats[0])
    tokens, is_learned = chats.sequences[0]
    given = f"<|document|><|user|>{question}<|end|><|assistant|>"
    assert spans(tokenizer, tokens, is_learned) == [(False, given), (True, f"{answer}<|end|>")]
    text = (tmp_path / "out" / "example.txt").read_text()
    assert text == f"given   {given!r}\nlearned {answer + '<|end|>'!r}\n"
    assert text.strip() in caplog.text
    page = (tmp_path / "out" / "example.html").read_text()
    assert page.count('<span class="learned" title=') == is_learned.sum()
    assert page.count('<span class="given" title=') == len(tokens) - is_learned.sum()
    assert "&lt;|document|&gt;" in page


def test_replayed_sequences_have_no_loss_mask_among_the_examples(materials, tmp_path):
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    chats = read_examples(materials.examples_dir / "train.parquet", tokenizer, 16).sequences
    shards = read_shards(materials.shards_dir, materials.tokenizer_dir).train
    mixed = chats.with_rows(shards, 7)
    assert len(mixed) == len(chats) + 7
    for place, row in enumerate(evenly_spaced(len(shards), 7), start=len(chats)):
        batch = shards.batch(np.array([row]))
        tokens, is_learned = mixed[place]
        assert tokens.tolist() == [int(batch.inputs[0, 0]), *batch.targets[0].tolist()]
        assert is_learned.tolist() == [False] + [True] * batch.n_learned
    job = tiny_job(materials, tmp_path, "finetune", replay=0.2, n_steps=None, n_epochs=1)
    with pytest.raises(ValueError, match=r"replay is above 0, but there are no shards .* finetune\.replay to 0"):
        train(job)
    counts = train(job | {"shards_dir": str(materials.shards_dir)})
    assert (counts.n_out, counts.figures["n_steps"]) == (50, 8)  # 60 sequences, 8 a step
