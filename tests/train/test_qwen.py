"""The real base model's shape, without its weights: configuration, partitions, and the chat format it expects."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.train.made_rows import papers
from wlsweep.data.tokenise import chat_messages
from wlsweep.spec.architecture import architecture
from wlsweep.spec.config import load_sweep
from wlsweep.spec.train_section import TinyBase
from wlsweep.train.tiny_base_model import qwen2_config, train_tokenizer
from wlsweep.train.zero3 import SMALL, stays_gathered, zero3_config

OFFICIAL = (
    "<|im_start|>system\nYou are a reviewer.<|im_end|>\n"
    "<|im_start|>user\nIs it good?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
OFFICIAL_WITHOUT_SYSTEM = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nIs it good?<|im_end|>\n"
    "<|im_start|>assistant\n\\boxed{Accept}<|im_end|>\n"
)


@pytest.fixture(scope="module")
def qwen_7b():
    a = architecture(load_sweep("search_spaces/iclr19.toml").model)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(qwen2_config(a), dtype=torch.bfloat16)


def test_the_7b_model_has_the_modules_that_training_calls(qwen_7b):
    assert qwen_7b.lm_head.weight.shape == (152064, 3584)
    assert len(qwen_7b.model.layers) == 28
    assert sum(p.numel() for p in qwen_7b.parameters()) == 7_615_616_512


def test_a_large_model_is_partitioned_and_a_tiny_one_stays_gathered():
    train = load_sweep("search_spaces/iclr19.toml").train
    threshold = "stage3_param_persistence_threshold"
    large, tiny = (zero3_config(train, n)["zero_optimization"][threshold] for n in (7_615_616_512, 238_144))
    assert large < 3584 * 3584 and tiny >= SMALL
    assert zero3_config(train, 7_615_616_512)["bf16"] == {"enabled": True}


def test_one_rank_on_a_cpu_keeps_gathered_what_it_holds_anyway_and_ranks_on_gpus_do_not():
    train = load_sweep("search_spaces/iclr19.toml").train
    alone = train.model_copy(update={"workers": 1, "gpu": False})
    assert stays_gathered(alone, 134_515_008) and not stays_gathered(alone, 7_615_616_512)
    assert not stays_gathered(train, 134_515_008) and not stays_gathered(
        train.model_copy(update={"workers": 1}), 134_515_008
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TinyBase(vocab=600), papers(8))


def test_the_tiny_base_speaks_the_official_chat_format(tokenizer):
    turns = [{"role": "system", "content": "You are a reviewer."}, {"role": "user", "content": "Is it good?"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == OFFICIAL
    answer = {"role": "assistant", "content": "\\boxed{Accept}"}
    assert tokenizer.apply_chat_template([turns[1], answer], tokenize=False) == OFFICIAL_WITHOUT_SYSTEM


def test_a_paper_reads_as_system_prompt_instruction_and_text(tokenizer):
    (row,) = papers(1)
    text = tokenizer.apply_chat_template(chat_messages(row), tokenize=False, add_generation_prompt=True)
    assert text.startswith(f"<|im_start|>system\n{row.system}<|im_end|>\n<|im_start|>user\n{row.instruction}# ")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n") and row.paper.strip() in text
