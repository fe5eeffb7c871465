"""What users of the peer write themselves after a training: a fresh vLLM with its defaults, then a script for metrics.

    python -m bench.peer_script predict TEST.json PREDICTIONS.jsonl DTYPE MODEL [ADAPTER]
    python -m bench.peer_script metrics PREDICTIONS.jsonl METRICS.json

In the manner of LLaMA-Factory's own scripts/vllm_infer.py: every prompt in one `LLM.generate`, one JSON line a row.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

CUTOFF, ANSWER_TOKENS = 1024, 16
"""As in bench/peer.toml."""


def predict(test: str, out: str, dtype: str, model: str, adapter: str = "") -> None:
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = json.loads(Path(test).read_text())
    role = {"system": "system", "human": "user"}
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": role[t["from"]], "content": t["value"]} for t in row["conversations"][:-1]],
            add_generation_prompt=True,
            tokenize=False,
        )
        for row in rows
    ]
    llm = LLM(
        model,
        dtype=dtype,
        max_model_len=CUTOFF + ANSWER_TOKENS,
        disable_log_stats=True,
        enable_lora=bool(adapter),
        gpu_memory_utilization=0.3,  # of a CPU's memory, too; the default 0.92 refuses to start beside other work
    )
    sampling = SamplingParams(
        temperature=0, max_tokens=ANSWER_TOKENS, seed=0, stop_token_ids=[tokenizer.convert_tokens_to_ids("<|im_end|>")]
    )
    request = LoRARequest("adapter", 1, adapter) if adapter else None
    answers = llm.generate(prompts, sampling, lora_request=request)
    with Path(out).open("w") as f:
        for row, prompt, answer in zip(rows, prompts, answers, strict=True):
            line = {"prompt": prompt, "predict": answer.outputs[0].text, "label": row["conversations"][-1]["value"]}
            f.write(json.dumps(line, ensure_ascii=False) + "\n")


def metrics(predictions: str, out: str) -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    lines = [json.loads(line) for line in Path(predictions).read_text().splitlines()]
    said, true = (
        [
            "Accept" if "Accept" in (re.findall(r"\\boxed\{(\w+)\}", line[key]) or [""])[-1] else "Reject"
            for line in lines
        ]
        for key in ("predict", "label")
    )
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, said, average="binary", pos_label="Accept", zero_division=0
    )
    found = {
        "rows": len(lines),
        "accuracy": accuracy_score(true, said),
        "predicted_accept_rate": said.count("Accept") / len(said),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "confusion": confusion_matrix(true, said, labels=["Accept", "Reject"]).tolist(),
    }
    Path(out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    {"predict": predict, "metrics": metrics}[sys.argv[1]](*sys.argv[2:])
