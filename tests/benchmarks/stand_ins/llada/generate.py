"""A loop of our own with the interface of LLaDA's: one token a pass, the most confident first."""

import torch


def generate(
    model, prompt, attention_mask=None, steps=128, gen_length=128, block_length=128, mask_id=0
):
    assert steps == gen_length
    length = prompt.shape[1]
    x = torch.full((1, length + gen_length), mask_id)
    x[:, :length] = prompt
    for start in range(length, length + gen_length, block_length):
        block = x[0, start : start + block_length]
        for _ in range(block_length):
            logits = model(x, attention_mask=attention_mask).logits[0, start : start + block_length]
            confidence, ids = logits.softmax(-1).max(-1)
            best = confidence.where(block == mask_id, -1.0).argmax()
            block[best] = ids[best]
    return x
