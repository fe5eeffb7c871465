"""Rows, model and configuration that the engine tests share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench import qwen_like
from wlsweep.data.rows import parse_row
from wlsweep.data.synthetic import draw_papers
from wlsweep.data.tokenise import AnswerTokens, chat_messages, find_answer_tokens, load_tokenizer
from wlsweep.spec.condition import Condition
from wlsweep.spec.train_section import Lora, TinyBase, Train
from wlsweep.train.tiny_base_model import teach, train_tokenizer

WEIGHTS = (4.0, 1.0)
STEPS = 20
LR = 1e-3


@dataclass
class Rows:
    prompts: list
    labels: list
    answer: AnswerTokens

    @property
    def row_ids(self):
        return [f"paper-{i}" for i in range(len(self.labels))]

    @property
    def accept(self):
        return np.array([label == "Accept" for label in self.labels])

    @property
    def lengths(self):
        return np.array([len(p) for p in self.prompts], dtype=np.int32)

    def prompt(self, i):
        return self.prompts[i]


def papers(n):
    """Papers of many lengths."""
    return [parse_row(draw_papers(1, 12 + 3 * i, [5, i])[0]) for i in range(n)]


def make_base(folder: Path, split_labels: bool = False, **size: int) -> Path:
    """A tiny model that speaks the answer's format; with `split_labels` its tokenizer writes Reject as two tokens."""
    config = TinyBase(vocab=600, batch=4, **size)
    rows = papers(24)
    if split_labels:
        words = ["Accept", "Re", "ject", "boxed", "system", "user", "assistant"]
        tokenizer = qwen_like.build((row.paper for row in rows), 600, words)
    else:
        tokenizer = train_tokenizer(config, rows)
    teach(config, tokenizer, rows, lambda line: None).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def drawn_rows(base) -> Rows:
    tokenizer, rows = load_tokenizer(base), papers(40)
    prompts = [
        np.asarray(
            tokenizer.apply_chat_template(
                chat_messages(r), add_generation_prompt=True, tokenize=True, return_dict=False
            ),
            dtype=np.int32,
        )
        for r in rows
    ]
    labels = ["Accept" if i % 3 else "Reject" for i in range(len(rows))]
    return Rows(prompts, labels, find_answer_tokens(tokenizer))


def train_config(world, micro, checkpointing, dtype="fp32") -> Train:
    return Train(
        lr=LR,
        global_batch=8,
        micro_batch=micro,
        workers=world,
        gpu=False,
        dtype=dtype,
        gradient_checkpointing=checkpointing,
        weight_decay=0.01,
    )


LORA = Lora(rank=4, lr=LR)
LORA_CONDITION = Condition("accept", 4.0, 2, lora=4)


def make_adapter(base: Path, folder: Path, seed: int = 1) -> Path:
    """An adapter whose B is not zero."""
    from transformers import AutoModelForCausalLM

    from wlsweep.train.lora import add_adapters, write_adapter

    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    add_adapters(lm, LORA_CONDITION, LORA)
    generator = torch.Generator().manual_seed(seed)
    trained = {name: p.detach() for name, p in lm.named_parameters() if p.requires_grad}
    for name, p in trained.items():
        if "lora_B" in name:
            p.copy_(0.05 * torch.randn(p.shape, generator=generator))
    folder.mkdir(parents=True)
    write_adapter(lm, trained, str(base), folder)
    return folder
