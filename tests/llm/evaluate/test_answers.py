from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.evaluate.answers import (
    Example,
    Sample,
    answer_loss,
    continue_prompts,
    normalised,
    sample_answers,
    special_tokens,
    token_f1,
)
from llm.model.generate import Sampling, generate


def example(question: str, answer: str) -> Example:
    return Example(question, ({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


EXAMPLES = [example("What?", "Joins."), example("os.path?", "A path of a file ☕."), example("x", "")]


def test_loss_is_that_of_each_example_alone(model, tokenizer):
    rendered = [tokenizer.render_chat(one.messages) for one in EXAMPLES]
    loss = answer_loss(model, EXAMPLES, rendered, batch_tokens=60)
    for index, (tokens, supervised) in enumerate(rendered):
        assert len(tokens) <= model.config.context_length
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([tokens]))[0].double(), dim=-1)
        expected = [-float(log_p[i - 1, tokens[i]]) for i in range(1, len(tokens)) if supervised[i]]
        assert loss.values[index] == pytest.approx(sum(expected), rel=1e-5)
        assert loss.weights[index] == len(expected) == len(tokenizer.encode(EXAMPLES[index].reference)) + 1


def test_answers_end_well_only_with_the_end_token(model, tokenizer, monkeypatch):
    words = tokenizer.encode("Joins paths.")
    endings = [[*words, tokenizer.end_token], [*words, tokenizer.document_token], words * 3, []]
    prompts: list[list[int]] = []

    def scripted(model, given, *, max_new_tokens, sampling, stop):
        """Stands in for `generate_batch`: says what it is told."""
        prompts.extend(given)
        return endings

    monkeypatch.setattr("llm.evaluate.answers.generate_batch", scripted)
    questions = [EXAMPLES[0]] * 4  # of one length: they stay in order
    progress: list[int] = []
    answers = sample_answers(
        model, tokenizer, questions, max_new_tokens=20, temperature=0.5, seed=7, advance=progress.append
    )
    assert [answer.ended for answer in answers] == [True, False, False, False]
    assert [answer.answer for answer in answers[:2]] == ["Joins paths."] * 2
    assert [answer.exact for answer in answers] == [False] * 4
    assert [answer.f1 for answer in answers] == [0.66667, 0.66667, 0.4, 0.0]
    assert [(answer.question, answer.reference) for answer in answers] == [("What?", "Joins.")] * 4
    assert prompts == [tokenizer.render_chat(EXAMPLES[0].messages[:-1], add_generation_prompt=True)[0]] * 4
    assert sum(progress) == 20 * len(questions)


def test_sampled_answers_are_in_order_and_differ_by_seed(model, tokenizer):
    options = {"max_new_tokens": 6, "temperature": 1.0}
    answers = sample_answers(model, tokenizer, [*EXAMPLES, *EXAMPLES], seed=3, **options)
    assert [answer.question for answer in answers] == [example.question for example in [*EXAMPLES, *EXAMPLES]]
    assert answers[:3] != answers[3:]  # the same questions, other random numbers
    assert answers == sample_answers(model, tokenizer, [*EXAMPLES, *EXAMPLES], seed=3, **options)
    assert answers != sample_answers(model, tokenizer, [*EXAMPLES, *EXAMPLES], seed=4, **options)


def test_a_base_model_goes_on_and_a_chat_model_answers(model, tokenizer):
    options = {"max_new_tokens": 5, "sampling": Sampling(temperature=0)}
    special = special_tokens(tokenizer)
    for as_chat, prompt in [
        (True, tokenizer.render_chat([{"role": "user", "content": "The "}], add_generation_prompt=True)[0]),
        (False, [tokenizer.document_token, *tokenizer.encode("The")]),
    ]:
        (sample,) = continue_prompts("m", model, tokenizer, ["The "], as_chat=as_chat, **options)
        tokens = generate(model, prompt, max_new_tokens=5, sampling=options["sampling"], stop=special)
        assert sample == Sample("m", "The ", tokenizer.decode([t for t in tokens if t not in special]))


def test_greedy_answers_are_the_argmax_of_full_forward_passes(model, tokenizer):
    (answer,) = sample_answers(model, tokenizer, EXAMPLES[:1], max_new_tokens=8, temperature=0.0, seed=0)
    tokens, _ = tokenizer.render_chat(EXAMPLES[0].messages[:-1], add_generation_prompt=True)
    n_prompt = len(tokens)
    special = np.flatnonzero(tokenizer.token_n_bytes() == 0).tolist()
    with torch.no_grad():
        while len(tokens) < n_prompt + 8 and tokens[-1] not in special[:1] + special[-1:]:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
            if tokens[-1] in special:
                break
    assert answer.answer == tokenizer.decode([token for token in tokens[n_prompt:] if token not in special])


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The  Eiffel-Tower!", "eiffeltower", True, 1.0),
        ("a cat, an owl and the dog", "Cat owl and dog.", True, 1.0),
        ("Returns the size in bytes.", "Return the size of the file in bytes.", False, 6 / 10),
        ("bytes bytes bytes", "bytes", False, 2 / 4),
        ("no", "yes", False, 0.0),
        ("", "yes", False, 0.0),
        ("", "the", True, 1.0),
    ],
)
def test_matches_as_squad_counts_them(answer: str, reference: str, exact: bool, f1: float) -> None:
    assert (normalised(answer) == normalised(reference)) is exact
    assert token_f1(answer, reference) == pytest.approx(f1) == token_f1(reference, answer)


def test_articles_are_words_and_not_parts_of_them() -> None:
    assert normalised("Another theme, a man's theatre") == ["another", "theme", "mans", "theatre"]
