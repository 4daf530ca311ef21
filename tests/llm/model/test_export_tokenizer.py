"""What other programs make of an exported model with its tokenizer: they must give it the tokens that we give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm.model.classifier import Classifier
from llm.model.export import classifier_to_hf, to_gguf, to_hf
from llm.model.generate import Sampling, generate_batch
from llm.model.gpt import GPT, GPTConfig
from llm.model.hf_import import published_model
from llm.tokenizer.imported_tokenizer import import_tokenizer
from llm.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports

CONTEXT_LENGTH = 48
TEXTS = ["the cat's 1234 dögs\n sat", "the dog ate the cat's mats, the cat sat on the dog", ""]
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "who sat?"}],
    [{"role": "system", "content": "be short"}, {"role": "user", "content": "who ate 12 of the cat's mats?"}],
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat, the dog ate 12 of the cat's mats "] * 20, 280)


@pytest.fixture(params=["gpt2", "modern"])
def model(request: pytest.FixtureRequest, random_model_of: Any) -> GPT:
    shape = {"vocab_size": 280, "context_length": CONTEXT_LENGTH, "n_layers": 2, "n_heads": 2, "d_model": 32}
    return random_model_of(GPTConfig(architecture=request.param, **shape))


@pytest.fixture
def folder(model: GPT, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """The exported model."""
    to_hf(model, tmp_path / "hf", tokenizer)
    return tmp_path / "hf"


def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def document(tokenizer: Tokenizer, text: str) -> list[int]:
    return [tokenizer.document_token, *tokenizer.encode(text)]


def test_a_text_begins_as_our_documents_do(folder: Path, tokenizer: Tokenizer) -> None:
    _, theirs = loaded(folder)
    assert [theirs(text).input_ids for text in TEXTS] == [document(tokenizer, text) for text in TEXTS]
    assert [theirs(text, add_special_tokens=False).input_ids for text in TEXTS] == [*map(tokenizer.encode, TEXTS)]
    assert theirs(*TEXTS[:2]).input_ids == document(tokenizer, TEXTS[0]) + tokenizer.encode(TEXTS[1])
    assert theirs.decode(theirs(TEXTS[0]).input_ids, skip_special_tokens=True) == TEXTS[0]
    assert (theirs.model_max_length, theirs.padding_side, theirs.pad_token_id) == (CONTEXT_LENGTH, "left", 1)
    assert len(theirs(TEXTS[1] * 9, truncation=True).input_ids) == CONTEXT_LENGTH


def test_plain_transformers_has_our_loss(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    reference, theirs = loaded(folder)
    batch = theirs(TEXTS[1], return_tensors="pt")
    ids = torch.tensor([document(tokenizer, TEXTS[1])])
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
        found, without = (reference(input_ids=x, labels=x).loss for x in (batch.input_ids, ids[:, 1:]))
    assert found == pytest.approx(float(expected), abs=1e-5)
    assert without != pytest.approx(float(expected), abs=0.01)  # a model that gets another beginning is another model


def test_a_chat_has_one_beginning(folder: Path, tokenizer: Tokenizer) -> None:
    _, theirs = loaded(folder)
    for chat in CHATS:
        expected, _ = tokenizer.render_chat(chat, add_generation_prompt=True)
        found = theirs.apply_chat_template(chat, add_generation_prompt=True)
        assert found["input_ids"] == expected
        text = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert theirs(text, add_special_tokens=False).input_ids == expected


def test_padded_batches_are_continued_as_ours(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    reference, theirs = loaded(folder)
    batch = theirs(TEXTS[:2], padding=True, return_tensors="pt")
    with torch.inference_mode():
        made = reference.generate(**batch, max_new_tokens=9, do_sample=False, eos_token_id=None)
    prompts = [document(tokenizer, text) for text in TEXTS[:2]]
    expected = generate_batch(model, prompts, max_new_tokens=9, sampling=Sampling(temperature=0))
    assert made[:, batch.input_ids.shape[1] :].tolist() == expected


def test_pipelines_answer_and_stop_at_the_end_of_the_context(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    from transformers import pipeline

    ask = pipeline("text-generation", model=str(folder), device="cpu")
    stop = {tokenizer.document_token, tokenizer.end_token}
    prompts = [document(tokenizer, TEXTS[1]), *(tokenizer.render_chat(c, add_generation_prompt=True)[0] for c in CHATS)]
    for question, prompt in zip([TEXTS[1], *CHATS], prompts, strict=True):
        n_left = CONTEXT_LENGTH - len(prompt)
        [expected] = generate_batch(model, [prompt], max_new_tokens=n_left, sampling=Sampling(temperature=0), stop=stop)
        [answer] = ask(question, do_sample=False, return_full_text=False)
        assert answer["generated_text"] == tokenizer.decode(expected, skip_special=True)


def test_lm_eval_scores_a_text_as_we_do(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    judge = HFLM(pretrained=str(folder), device="cpu", batch_size=2)
    pairs = [("the cat sat", " on the mat"), ("", "the dog ate")]
    found = judge.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    for (context, rest), (score, _) in zip(pairs, found, strict=True):
        n_read, ids = len(document(tokenizer, context)), document(tokenizer, context + rest)
        with torch.no_grad():
            log_p = model(torch.tensor([ids])).log_softmax(-1)[0]
        expected = sum(float(log_p[i - 1, ids[i]]) for i in range(n_read, len(ids)))
        assert score == pytest.approx(expected, abs=1e-4)


def test_an_export_is_taken_back_without_a_second_beginning(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    assert Tokenizer.load(folder).to_json() == tokenizer.to_json()
    imported = import_tokenizer(folder)
    assert [imported.tokenizer.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert imported.tokenizer.vocab_size == tokenizer.vocab_size
    back = published_model(folder, imported.tokenizer).state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())


def test_the_gguf_file_says_the_same(folder: Path, model: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import gguf

    to_gguf(model, tmp_path / "model.gguf", tokenizer)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    about = {
        name: reader.get_field(f"tokenizer.ggml.{name}").contents()
        for name in ("add_bos_token", "add_eos_token", "bos_token_id", "padding_token_id")
    }
    _, theirs = loaded(folder)
    ids = theirs(TEXTS[0]).input_ids
    assert about["add_bos_token"] == (ids[0] == about["bos_token_id"])
    assert about["add_eos_token"] == (ids[-1] == theirs.eos_token_id)
    assert about["padding_token_id"] == theirs.pad_token_id


def test_a_classifier_is_padded_on_the_right_where_it_reads_the_last_token(
    model: GPT, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    classifier_to_hf(Classifier(model.config, 2), ["a", "b"], tmp_path / "classifier", tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "classifier")
    assert (theirs.model_max_length, theirs.padding_side) == (CONTEXT_LENGTH, "right")
    assert theirs(TEXTS[0]).input_ids == document(tokenizer, TEXTS[0])
