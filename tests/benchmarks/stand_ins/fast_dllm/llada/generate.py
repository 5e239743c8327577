"""Loops of our own with the interface of Fast-dLLM's: its cached calls of the network, its returned
pair.
"""

import torch
from model.modeling_llada import LLaDAModelLM  # noqa: F401


def generate(model, prompt, **options):
    return answer(model, prompt, uncached, **options)


def generate_with_prefix_cache(model, prompt, **options):
    return answer(model, prompt, behind_prefix, **options)


def generate_with_dual_cache(model, prompt, **options):
    return answer(model, prompt, inside_block, **options)


def uncached(model, x, kept, start, end):
    return model(x).logits[:, start:end]


def behind_prefix(model, x, kept, start, end):
    cut = [(keys[:, :, :start], values[:, :, :start]) for keys, values in kept]
    logits = model(x[:, start:], past_key_values=cut, use_cache=True).logits
    return logits[:, : end - start]


def inside_block(model, x, kept, start, end):
    covered = torch.zeros_like(x, dtype=torch.bool)
    covered[:, start:end] = True
    return model(
        x[:, start:end], past_key_values=kept, use_cache=True, replace_position=covered
    ).logits


def answer(model, prompt, next_logits, steps, gen_length, block_length, mask_id, threshold=None):
    length = prompt.shape[1]
    x = torch.full((1, length + gen_length), mask_id)
    x[:, :length] = prompt
    passes = 0
    for start in range(length, length + gen_length, block_length):
        end = start + block_length
        output = model(x, use_cache=next_logits is not uncached)
        commit(x[0, start:end], output.logits[0, start:end], mask_id, threshold)
        passes += 1
        while (x[:, start:end] == mask_id).any():
            logits = next_logits(model, x, output.past_key_values, start, end)
            commit(x[0, start:end], logits[0], mask_id, threshold)
            passes += 1
    return x, passes


def commit(block, logits, mask_id, threshold):
    confidence, ids = logits.softmax(-1).max(-1)
    confidence = confidence.where(block == mask_id, -1.0)
    is_committed = confidence >= (2.0 if threshold is None else threshold)
    is_committed[confidence.argmax()] = True
    block[is_committed] = ids[is_committed]
