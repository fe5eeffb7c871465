"""A tokenizer that splits like Qwen2.5's, made locally: NFC, its word pattern, byte-level BPE, ChatML.

    python -m bench.qwen_like FOLDER      # writes tokenizer.json and its configuration

The merges are learnt from a text in which `\\boxed{...}` never occurs, only its words, so that it falls into the pieces
that Qwen2.5 gives: `\\`, `boxed`, `{`, `Accept`, `}`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    + DEFAULT_SYSTEM
    + "<|im_end|>\\n' }}{% endif %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = ["Accept", "Reject", "boxed", "system", "user", "assistant", "\n\n"]


def build(texts: Iterable[str], vocab: int = 2000, words: Iterable[str] = WORDS) -> PreTrainedTokenizerFast:
    """Train the tokenizer.

    Args:
        texts: to learn merges from.
        vocab: tokens.
        words: that surely become one token each (given enough vocabulary).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*list(words) * 10_000, *texts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


if __name__ == "__main__":
    from bench.papers import paragraphs

    build(paragraphs(2_000, seed=1), vocab=16_000).save_pretrained(Path(sys.argv[1]))
