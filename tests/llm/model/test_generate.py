import pytest
import torch

from llm.model.generate import choose, generate


def greedy_without_cache(model, tokens, n):
    """The likeliest next token, n times, each from one full pass over at most a context."""
    tokens = list(tokens)
    for _ in range(n):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens


def test_greedy_tokens_equal_those_of_full_passes(tiny_model):
    new = list(generate(tiny_model, [3, 1], max_new_tokens=10, temperature=0))
    assert [3, 1, *new] == greedy_without_cache(tiny_model, [3, 1], 10)


def test_a_full_context_goes_on_from_its_last_half(tiny_model):
    """12 tokens fit; tokens 13 and on come from the last 6 read again."""
    new = list(generate(tiny_model, [3, 1], max_new_tokens=15, temperature=0))
    full = greedy_without_cache(tiny_model, [3, 1], 11)
    expected = full + greedy_without_cache(tiny_model, full[-6:], 4)[6:]
    assert [3, 1, *new] == expected


def test_a_prompt_longer_than_the_context_is_cut_at_its_start(tiny_model):
    prompt = list(range(20))
    assert next(generate(tiny_model, prompt, max_new_tokens=1, temperature=0)) == next(
        generate(tiny_model, prompt[-12:], max_new_tokens=1, temperature=0)
    )


def test_ends_after_yielding_a_stop_token(tiny_model):
    free = list(generate(tiny_model, [0], max_new_tokens=8, temperature=0))
    stopped = list(generate(tiny_model, [0], max_new_tokens=8, temperature=0, stop={free[2]}))
    assert stopped == free[: free.index(free[2]) + 1]


def test_the_seed_decides(tiny_model):
    def draw(seed):
        return list(generate(tiny_model, [0], max_new_tokens=30, temperature=2.0, top_k=None, seed=seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_samples_follow_the_softmax_of_the_k_largest():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    n = 4000
    drawn = torch.bincount(torch.tensor([choose(logits, 0.5, 2, generator) for _ in range(n)]), minlength=4) / n
    expected = torch.softmax(torch.tensor([4.0, 2.0]), dim=0)
    assert drawn[1] == drawn[3] == 0
    assert drawn[0].item() == pytest.approx(expected[0].item(), abs=0.03)  # 5 standard errors


def test_leaves_no_trace_in_the_global_random_state(tiny_model):
    before = torch.get_rng_state()
    list(generate(tiny_model, [0], max_new_tokens=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_prompt_is_refused(tiny_model):
    with pytest.raises(ValueError, match="tokens is empty"):
        next(generate(tiny_model, [], max_new_tokens=1))
