from dataclasses import replace

import pytest
import torch

from llm.model.generate import Sampling, choose, generate, generate_batch, shortened
from llm.model.gpt import GPT, GPTConfig

GREEDY = Sampling(temperature=0)


def greedy_without_cache(model, tokens, n):
    """The likeliest next token, n times, each from one full pass over at most a context."""
    tokens = list(tokens)
    for _ in range(n):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens


def test_greedy_tokens_equal_those_of_full_passes(tiny_model):
    new = list(generate(tiny_model, [3, 1], max_new_tokens=10, sampling=GREEDY))
    assert [3, 1, *new] == greedy_without_cache(tiny_model, [3, 1], 10)


def test_a_full_context_goes_on_from_its_first_token_and_its_end(tiny_model):
    """12 tokens fit; tokens 14 and on come from the first and the last 5 read again."""
    new = list(generate(tiny_model, [3, 1], max_new_tokens=15, sampling=GREEDY))
    full = greedy_without_cache(tiny_model, [3, 1], 11)
    expected = full + greedy_without_cache(tiny_model, [3, *full[-5:]], 4)[6:]
    assert [3, 1, *new] == expected


def test_a_prompt_longer_than_the_context_keeps_its_first_token_and_its_end(tiny_model):
    prompt = list(range(20))
    assert next(generate(tiny_model, prompt, max_new_tokens=1, sampling=GREEDY)) == next(
        generate(tiny_model, [0, *prompt[-11:]], max_new_tokens=1, sampling=GREEDY)
    )


@pytest.mark.parametrize("length", [1, 2, 5, 12, 30])
def test_whatever_is_read_begins_with_the_document_token(tiny_model, monkeypatch, length):
    """The first token of the prompt, when the context is full too, alone and in a batch."""
    document, begun, features = 7, [], tiny_model.features

    def watched(tokens, cache=None, *more):
        if cache.n_tokens == 0:
            begun.extend(tokens[:, 0].tolist())
        return features(tokens, cache, *more)

    monkeypatch.setattr(tiny_model, "features", watched)
    prompt = [document, *[8] * (length - 1)]
    list(generate(tiny_model, prompt, max_new_tokens=30, sampling=GREEDY))
    generate_batch(tiny_model, [prompt, prompt[:1]], max_new_tokens=30, sampling=GREEDY)
    assert len(begun) > 6
    assert set(begun) == {document}


def test_a_context_of_one_token_can_be_generated_with():
    model = GPT(GPTConfig(vocab_size=31, context_length=1, n_layers=1, n_heads=1, d_model=8)).eval()
    assert len(list(generate(model, [3, 4, 5], max_new_tokens=4))) == 4
    assert len(generate_batch(model, [[3, 4, 5]], max_new_tokens=4)[0]) == 4


def test_ends_after_yielding_a_stop_token(tiny_model):
    free = list(generate(tiny_model, [0], max_new_tokens=8, sampling=GREEDY))
    stopped = list(generate(tiny_model, [0], max_new_tokens=8, sampling=GREEDY, stop={free[2]}))
    assert stopped == free[: free.index(free[2]) + 1]


def test_the_seed_decides(tiny_model):
    def draw(seed):
        sampling = Sampling(temperature=2.0, top_k=None, seed=seed)
        return list(generate(tiny_model, [0], max_new_tokens=30, sampling=sampling))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=0.5, top_k=None), [0, 1, 2, 3]),
        (Sampling(temperature=0.5, top_k=2), [0, 2]),
        (Sampling(temperature=0.5, top_k=9), [0, 1, 2, 3]),
        (Sampling(temperature=1.0, top_k=None, top_p=0.6), [0]),  # probabilities 0.64, 0.24, 0.09, 0.03
        (Sampling(temperature=1.0, top_k=None, top_p=0.7), [0, 2]),
        (Sampling(temperature=1.0, top_k=None, top_p=0.95), [0, 1, 2]),
        (Sampling(temperature=1.0, top_k=2, top_p=0.7), [0]),  # of the two that are left: 0.73, 0.27
        (Sampling(temperature=1.0, top_k=None, top_p=0.0), [0]),
        (Sampling(temperature=1e-30, top_k=None), [0]),
    ],
)
def test_samples_follow_the_softmax_of_the_tokens_kept(sampling, kept):
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    generator, n = torch.Generator().manual_seed(0), 1000
    drawn = torch.bincount(torch.tensor([choose(logits, sampling, generator) for _ in range(n)]), minlength=4) / n
    expected = torch.zeros(4)
    expected[kept] = torch.softmax(logits[kept].double() / sampling.temperature, dim=0).float()
    assert drawn.tolist() == pytest.approx(expected.tolist(), abs=0.08)  # 5 standard errors


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -0.1), ("temperature", float("nan")), ("top_k", 0), ("top_p", 1.1)]
)
def test_wrong_sampling_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is"):
        Sampling(**{field: value})


def test_leaves_no_trace_in_the_global_random_state(tiny_model):
    before = torch.get_rng_state()
    list(generate(tiny_model, [0], max_new_tokens=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_prompt_is_refused(tiny_model):
    with pytest.raises(ValueError, match="tokens is empty"):
        next(generate(tiny_model, [], max_new_tokens=1))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.9, top_k=5, seed=7)])
@pytest.mark.parametrize(("n_new", "stop"), [(0, ()), (1, ()), (30, ()), (30, {4, 9})])
def test_a_batch_gives_what_each_prompt_alone_gives(tiny_model, monkeypatch, sampling, n_new, stop):
    """Prompts of all lengths (12 tokens fit), some that stop early, more than go together at once."""
    monkeypatch.setattr("llm.model.generate.BATCH_SIZE", 5)
    random = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 16, (length,), generator=random).tolist() for length in [3, 1, 12, 20, 7, 7, 2, 11, 5]]
    batch = generate_batch(tiny_model, prompts, max_new_tokens=n_new, sampling=sampling, stop=stop)
    alone = [
        list(
            generate(
                tiny_model, prompt, max_new_tokens=n_new, sampling=replace(sampling, seed=sampling.seed + i), stop=stop
            )
        )
        for i, prompt in enumerate(prompts)
    ]
    assert batch == alone


def test_an_empty_prompt_in_a_batch_is_refused(tiny_model):
    with pytest.raises(ValueError, match="a prompt is empty"):
        generate_batch(tiny_model, [[1], []], max_new_tokens=1)
    assert generate_batch(tiny_model, [], max_new_tokens=1) == []


@pytest.mark.parametrize(
    ("length", "kept"), [(1, [5]), (2, [5, 9]), (3, [5, 8, 9]), (5, [5, 6, 7, 8, 9]), (9, [5, 6, 7, 8, 9])]
)
def test_shortened(length, kept):
    assert shortened([5, 6, 7, 8, 9], length) == kept
