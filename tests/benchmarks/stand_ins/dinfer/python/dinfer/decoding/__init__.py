"""A loop and decoders of our own with the interface of dInfer's, and its kind of cache."""

from itertools import groupby

import torch
from transformers.models.layoutlmv2.modeling_layoutlmv2 import (  # noqa: F401
    relative_position_bucket,
)


class ThresholdParallelDecoder:
    def __init__(self, threshold, temperature, mask_id, eos_id):
        assert temperature == 0
        self.threshold = threshold
        self.mask_id = mask_id
        self.eos_id = eos_id

    def decode(self, logits, start, end, x):
        block = x[0, start:end]
        is_masked = block == self.mask_id
        confidence, ids = self.fused(logits[0], is_masked, start).softmax(-1).max(-1)
        confidence = confidence.where(is_masked, -1.0)
        is_committed = (confidence >= self.threshold) | self.best_of_runs(confidence)
        is_committed[confidence.argmax()] = True
        is_committed &= is_masked
        block[is_committed] = ids[is_committed]

    def fused(self, logits, is_masked, start):
        return logits

    def best_of_runs(self, confidence):
        return torch.zeros_like(confidence, dtype=torch.bool)


class CreditThresholdParallelDecoder(ThresholdParallelDecoder):
    """The paper's equations with a dense matrix for each block."""

    def __init__(self, credit_alpha, boost_gamma, decay_beta, **options):
        super().__init__(**options)
        self.alpha = credit_alpha
        self.gamma = boost_gamma
        self.beta = decay_beta
        self.credit = {}

    def fused(self, logits, is_masked, start):
        probability, ids = logits.softmax(-1).max(-1)
        gain = probability.pow(self.gamma) * is_masked
        credit = self.credit.get(start, torch.zeros_like(logits)) * self.beta
        credit.scatter_add_(1, ids[:, None], gain[:, None])
        self.credit[start] = credit
        return logits + self.alpha * credit.log1p()


class HierarchyDecoder(ThresholdParallelDecoder):
    """The best of each run of masks as well, if its confidence is above a second threshold."""

    def __init__(self, low_threshold, **options):
        super().__init__(**options)
        self.low = low_threshold

    def best_of_runs(self, confidence):
        is_best = torch.zeros_like(confidence, dtype=torch.bool)
        numbered = enumerate(confidence.tolist())
        for is_masked, run in groupby(numbered, key=lambda entry: entry[1] >= 0):
            position, highest = max(run, key=lambda entry: entry[1])
            is_best[position] = is_masked and highest > self.low
        return is_best


class BlockIteratorFactory:
    pass


class KVCacheFactory:
    def __init__(self, cache_type):
        self.cache_type = cache_type


class KeptLayers:
    """Keys and values of all layers, from a flat list; an update does not change what is kept."""

    def __init__(self, tensors):
        self.pairs = list(zip(tensors[0::2], tensors[1::2]))
        self.seq_len = tensors[0].shape[2]

    def update(self, keys, values, layer, span):
        pair = [kept.clone() for kept in self.pairs[layer]]
        for kept, computed in zip(pair, (keys, values)):
            kept[:, :, span[0] : span[1]] = computed
        return pair


class BlockWiseDiffusionLLM:
    def __init__(self, model, decoder, iterator_factory, cache_factory, early_stop, maximum_unroll):
        assert early_stop
        self.model = model
        self.decoder = decoder
        self.cache = cache_factory and cache_factory.cache_type
        self.unroll = maximum_unroll

    def generate(self, prompt, gen_length, block_length):
        decoder = self.decoder
        length = prompt.shape[1]
        x = torch.full((1, length + gen_length), decoder.mask_id)
        x[:, :length] = prompt
        for start in range(length, length + gen_length, block_length):
            self.decode_block(x, start, start + block_length)
            if (x[:, start : start + block_length] == decoder.eos_id).any():
                x[:, start + block_length :] = decoder.eos_id
                break
        return x[x != decoder.eos_id][None]

    def decode_block(self, x, start, end):
        output = self.model(x, use_cache=self.cache is not None)
        self.decoder.decode(output.logits[:, start:end], start, end, x)
        kept = self.cache and KeptLayers(output.past_key_values)
        while (x[:, start:end] == self.decoder.mask_id).any():
            for _ in range(self.unroll):
                logits = self.next_logits(x, kept, start, end)
                self.decoder.decode(logits, start, end, x)

    def next_logits(self, x, kept, start, end):
        if kept is None:
            return self.model(x).logits[:, start:end]
        last = kept.seq_len if self.cache == "prefix" else end
        logits = self.model(
            x[:, start:last], past_key_values=kept, use_cache=True, replace_position=(start, last)
        ).logits
        return logits[:, : end - start]
