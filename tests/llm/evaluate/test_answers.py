from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.evaluate.answers import Example, answer_loss, sample_answers


def example(question: str, answer: str) -> Example:
    return Example(question, ({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


EXAMPLES = [example("What?", "Joins."), example("os.path?", "A path of a file ☕."), example("x", "")]


def test_loss_is_that_of_each_example_alone(model, tokenizer):
    rendered = [tokenizer.render_chat(one.messages) for one in EXAMPLES]
    loss = answer_loss(model, rendered, batch_tokens=60)
    for index, (tokens, supervised) in enumerate(rendered):
        assert len(tokens) <= model.config.context_length
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([tokens]))[0].double(), dim=-1)
        expected = [-float(log_p[i - 1, tokens[i]]) for i in range(1, len(tokens)) if supervised[i]]
        assert loss.nats[index] == pytest.approx(sum(expected), rel=1e-5)
        assert loss.n_tokens[index] == len(expected) == len(tokenizer.encode(EXAMPLES[index].reference)) + 1


class Scripted:
    """Stands in for `generate`: says what it is told, and stops where the real one would."""

    def __init__(self, script: list[list[int]]) -> None:
        self.script, self.prompts, self.seeds = list(script), [], []

    def __call__(self, model, tokens, *, max_new_tokens, temperature, stop, seed):
        self.prompts.append(tokens)
        self.seeds.append(seed)
        for token in self.script.pop(0)[:max_new_tokens]:
            yield token
            if token in stop:
                return


def test_answers_end_well_only_with_the_end_token(model, tokenizer, monkeypatch):
    words = tokenizer.encode("Joins paths.")
    endings = [[*words, tokenizer.end_token, *words], [*words, tokenizer.document_token], words * 9, []]
    scripted = Scripted(endings)
    monkeypatch.setattr("llm.evaluate.answers.generate", scripted)
    questions = [*EXAMPLES, EXAMPLES[0]]
    progress: list[int] = []
    answers = sample_answers(
        model, tokenizer, questions, max_new_tokens=20, temperature=0.5, seed=7, advance=progress.append
    )
    assert [answer.ended for answer in answers] == [True, False, False, False]
    assert [answer.answer for answer in answers[:2]] == ["Joins paths."] * 2
    assert [(answer.question, answer.reference) for answer in answers] == [(q.question, q.reference) for q in questions]
    expected = [tokenizer.render_chat(q.messages[:-1], add_generation_prompt=True)[0] for q in questions]
    assert scripted.prompts == expected
    assert len(set(scripted.seeds)) == len(questions)
    assert sum(progress) == 20 * len(questions)


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
