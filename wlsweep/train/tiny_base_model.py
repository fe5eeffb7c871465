"""A tiny Qwen2 base model and its tokenizer, made locally and deterministically, for machines without a hub or a GPU.

It stands in for the instruct model that a real sweep starts from: before any condition fine-tunes it, it already speaks
`\\boxed{Accept}`. It is taught with plain token cross-entropy in one process, and kept by `tiny_base`. The LM head is not
tied to the embeddings: vLLM on a CPU would keep the old head when weights are swapped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, get_cosine_schedule_with_warmup
from transformers.utils.logging import disable_progress_bar

from wlsweep.data.row_files import RowFiles
from wlsweep.data.rows import Row, read_rows
from wlsweep.data.tokenise import chat_messages, find_answer_tokens
from wlsweep.spec.architecture import Architecture
from wlsweep.spec.condition import Condition
from wlsweep.spec.task import ICLR, Task
from wlsweep.spec.train_section import TinyBase
from wlsweep.train import batches
from wlsweep.train.model import AnswerModel, collate, run_forward

disable_progress_bar()
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5's own format for chats without tools."""
_THREADS = 2
"""Fixed, since the order of sums, and so the model's bits, depend on it."""


def make_tiny_base(
    config: TinyBase, rows: RowFiles | Path, to: Path, on_progress: Callable[[str], None], task: Task = ICLR
) -> None:
    """Make the tiny base for these rows and write it with its tokenizer into a folder."""
    papers = list(read_rows(rows, task))
    tokenizer = train_tokenizer(config, papers, task)
    model = teach(config, tokenizer, papers, on_progress, task)
    if not torch.cuda.is_available():  # transformers imports DeepSpeed to save; it would tell the terminal this
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)


def train_tokenizer(config: TinyBase, papers: list[Row], task: Task = ICLR) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's special tokens and chat format, trained on the papers' own text."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    answers = [f"system\nuser\nassistant\n{task.answer_with(label)}" for label in task.labels] * len(papers)
    texts = [text for row in papers for text in (row.system or "", row.instruction, row.paper)]
    tokenizer.train_from_iterator(answers + texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def teach(
    config: TinyBase,
    tokenizer: PreTrainedTokenizerFast,
    papers: list[Row],
    on_progress: Callable[[str], None],
    task: Task = ICLR,
) -> Qwen2ForCausalLM:
    """The model after its first training; the same bits for the same arguments on the same machine."""
    answer = find_answer_tokens(tokenizer, task)
    prompts = [
        np.asarray(ids, dtype=np.int32)
        for ids in tokenizer.apply_chat_template(
            [chat_messages(row) for row in papers], add_generation_prompt=True, tokenize=True, return_dict=False
        )
    ]
    if config.learn == "decision":
        accept = np.array([row.label == task.positive for row in papers])
    else:
        accept = np.random.Generator(np.random.PCG64(config.seed)).random(len(papers)) < 0.5
    lengths = np.array([len(p) for p in prompts], dtype=np.int32)
    steps = config.epochs * batches.steps_per_epoch(len(papers), config.batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        torch.manual_seed(config.seed)
        lm = Qwen2ForCausalLM(_architecture(config, len(tokenizer), int(lengths.max()), tokenizer))
        model = AnswerModel(lm, Condition("baseline", 1.0, 2), answer)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
        schedule = get_cosine_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
        for step in range(steps):
            drawn = batches.global_batch_rows(step, len(papers), config.batch, config.seed)
            labels: list[bool] = accept[drawn].tolist()
            batch = collate([prompts[i] for i in drawn], answer, labels, (1.0, 1.0), len(drawn), torch.device("cpu"))
            torch.autograd.backward(run_forward(model, batch, 1.0).loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if (step + 1) % 20 == 0:
                on_progress(f"making the tiny base model: step {step + 1} of {steps}")
        return lm
    finally:
        torch.set_num_threads(threads)


def qwen2_config(a: Architecture, **more: Any) -> Qwen2Config:
    """transformers' configuration of a model of that shape; `more` are its other fields."""
    return Qwen2Config(
        vocab_size=a.vocab,
        hidden_size=a.width,
        intermediate_size=a.mlp,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        tie_word_embeddings=a.tied,
        **more,
    )


def _architecture(config: TinyBase, vocab: int, longest: int, tokenizer: Any) -> Qwen2Config:
    kv_heads = max(1, config.heads // 2)
    return qwen2_config(
        Architecture(
            -(-vocab // 64) * 64, config.width, 2 * config.width, config.layers, config.heads, kv_heads, False
        ),
        max_position_embeddings=max(4096, 2 * longest),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
