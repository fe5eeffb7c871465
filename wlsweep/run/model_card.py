r"""The model card of each kept model: `README.md` in its folder, as the Hugging Face Hub reads it.

It is written when the model is kept, and again with the evaluation when a report is made. Nothing reads it back: neither the
model's fingerprint nor what is done depends on it, and one that cannot be written is left out.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import NamedTuple

from wlsweep import __version__
from wlsweep.errors import WlsweepError
from wlsweep.estimate import Estimate, Format, count
from wlsweep.files import JsonObject
from wlsweep.run.adapter import base_of, is_adapter
from wlsweep.run.data_record import AnswerRecord, DataRecord
from wlsweep.run.layout import RunDir
from wlsweep.run.records import SweepRecord, TrainedRecord
from wlsweep.spec.adapters import RANKS
from wlsweep.spec.architecture import model_folder
from wlsweep.spec.condition import Condition, condition_from
from wlsweep.spec.task import Words

CARD = "README.md"


class CardMetric(NamedTuple):
    """A metric as the card has it."""

    type: str
    """As the Hub names it, such as `roc_auc`."""
    name: str
    estimate: Estimate
    form: Format


@dataclass(frozen=True)
class CardEvaluation:
    """What an evaluation says of one model."""

    papers: int
    """Of the test set."""
    metrics: Sequence[CardMetric]


def write_card(run: RunDir, name: str, evaluation: CardEvaluation | None = None) -> bool:
    """Write the card of a trained condition whose model is kept; returns whether one was written. Never raises."""
    folder = run.model(name)
    temporary = folder / f".{CARD}.{uuid.uuid4().hex[:8]}.tmp"
    with suppress(OSError, WlsweepError):
        if not any(folder.glob("*.safetensors")):
            return False
        text = card(run, name, evaluation)
        try:
            # Not `atomic_file`: a folder that is dropped just now must not be made again for its card.
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / CARD)
            return True
        finally:
            temporary.unlink(missing_ok=True)
    return False


def card(run: RunDir, name: str, evaluation: CardEvaluation | None = None) -> str:
    """The text of a card.

    Raises:
        WlsweepError: if a record of the run cannot be read.
    """
    sweep, data = SweepRecord.read(run.sweep_json), DataRecord.read(run.data_json)
    trained = TrainedRecord.read(run.trained(name))
    condition = condition_from(trained.condition.model_dump())
    adapter, words = is_adapter(run.model(name)), sweep.task.words
    base = base_of(trained.base)
    made = bool(sweep.section("model").get("tiny"))
    head = _front_matter(name, None if made else base, adapter, data, words, evaluation)
    parts = [
        f"# {name}",
        _what(sweep, condition, base, made, adapter),
        "## Training",
        _training(sweep, trained, condition, data, words),
        "## Evaluation",
        _evaluation(evaluation, data, words),
        "## How to use",
        _use(base, condition.lora if adapter else 0, data.answer, words),
        f"Written by wlsweep {__version__}.",
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(
    name: str,
    base: str | None,
    adapter: bool,
    data: DataRecord,
    words: Words,
    evaluation: CardEvaluation | None,
) -> str:
    """YAML, each value written as JSON, which YAML contains."""
    fields: JsonObject = {"license": _license(base) if base else "unknown"}
    if base is not None:
        fields["base_model"] = _base_name(base)
    fields |= {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["wlsweep", "weighted-loss", "binary-classification", *(["lora"] if adapter else [])],
    }
    if evaluation is not None:
        metrics = [
            {"type": m.type, "name": m.name + _interval_text(m), "value": m.estimate.value}
            for m in evaluation.metrics
            if m.estimate.value is not None
        ]
        result = {
            "task": {"type": "text-classification", "name": f"{words.positive} or {words.negative}"},
            "dataset": {"name": f"{_file(data.test.path)}, {evaluation.papers:,} {words.items}", "type": "test-set"},
            "metrics": metrics,
        }
        fields["model-index"] = [{"name": name, "results": [result]}]
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())


def _interval_text(m: CardMetric) -> str:
    at = m.form.range(m.estimate)
    return f" (95% interval {at}{' %' if m.form.scale == 100 else ''})" if at else ""


def _license(base: str) -> str:
    """That of the base model, where its own card says one."""
    folder = model_folder(base)
    try:
        text = (folder / CARD).read_text(encoding="utf-8") if folder else ""
    except (OSError, ValueError):
        text = ""
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front, re.M)
    return found[1] if found else "unknown"


def _base_name(base: str) -> str:
    """The base's name on the Hub, or its folder's: no path of the machine."""
    return Path(base).name if Path(base).is_absolute() or Path(base).is_dir() else base


def _file(path: str) -> str:
    return Path(path).name


def _what(sweep: SweepRecord, c: Condition, base: str, made: bool, adapter: bool) -> str:
    kind = f"A low-rank adapter (rank {c.lora}) of" if adapter else "A full fine-tuning of"
    words = sweep.task.words
    whose = "a tiny base model that was made for this sweep" if made else f"`{_base_name(base)}`"
    accept, reject = c.weights
    weights = (
        "Both classes weigh the same in the loss."
        if accept == reject
        else f"In the loss, {words.positives} weigh {accept:g} and {words.negatives} {reject:g} (gamma {c.gamma:g}, variant"
        f" {c.variant})."
    )
    return (
        f"{kind} {whose}. It tells {words.positives} from {words.negatives} and is one condition of the sweep"
        f" `{sweep.name}`. {weights} The training mix has {c.proportion_text} {words.positives}. Its probabilities answer"
        f" for that mix and those weights; where these differ from the true {words.rate}, they are shifted on purpose."
    )


def _training(sweep: SweepRecord, t: TrainedRecord, c: Condition, data: DataRecord, words: Words) -> str:
    train, mix = sweep.section("train"), data.mixes.get(c.proportion_text)
    versions = ", ".join(
        f"{package} {version}"
        for package in ("torch", "transformers", "deepspeed", "peft")
        if (version := sweep.provenance.versions.get(package))
    )
    source = data.source
    rows = [
        (
            "data",
            f"{_file(source.path)}: {source.rows:,} {words.items}, {source.accepts:,} of them {words.positives}",
        ),
        (
            "mix",
            f"{mix.accepts:,} {words.positives}, {mix.rejects:,} {words.negatives}; {mix.duplicates:,} rows repeated"
            if mix
            else "-",
        ),
        ("gamma, variant, mix, seed", f"{c.gamma:g}, {c.variant}, {c.proportion_text} {words.positives}, {c.seed}"),
        ("loss", f"{c.loss} (condition `{c.group or 'plain'}`), {t.unweighted_loss:.4f} unweighted at the end"),
        (
            f"measured weights of {words.positives}, of {words.negatives}",
            ", ".join(f"{t.proof[k]:.3f}" for k in ("accept", "reject")) if t.proof else "-",
        ),
        ("learning rate, epochs", f"{train.get('lr')}, {train.get('epochs')}"),
        ("steps, samples, tokens", f"{t.steps:,}, {t.samples:,}, {t.tokens:,}"),
        ("precision, workers, device", f"{train.get('dtype')}, {t.trained_on.workers}, {t.trained_on.device}"),
        ("software", versions),
        ("fingerprint of the weights, of the configuration", f"`{t.model.fingerprint}`, `{t.sweep_fingerprint}`"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows)])


def _cell(value: str) -> str:
    return value.replace("|", r"\|").replace("\n", " ")


def _evaluation(evaluation: CardEvaluation | None, data: DataRecord, words: Words) -> str:
    if evaluation is None:
        return "Not evaluated yet: `wlsweep report` on the run writes the evaluation here."
    lines = [
        f"On {count(evaluation.papers, words.item, words.items)} of `{_file(data.test.path)}`, which are in no training mix."
        f" A decision is the sign of the difference of the two labels' log-probabilities. Intervals count which"
        f" {words.items} were drawn, not other trainings.",
        "",
        "| metric | value | 95% interval |",
        "|---|---|---|",
        *(f"| {m.name} | {m.form.value(m.estimate.value)} | {m.form.range(m.estimate)} |" for m in evaluation.metrics),
    ]
    return "\n".join(lines)


_TRANSFORMERS = '''\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
$imports
folder = "."  # where this card lies
$load
def p_positive(text: str) -> float:
    """Probability of $label."""
    chat = [{"role": "user", "content": text}]  # as in training: instruction and $item, after the rows' system turn if any
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False).input_ids + $prefix  # the answer's beginning
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return torch.softmax(logits[[$accept, $reject]].float(), 0)[0].item()'''
_VLLM = """\
from vllm import LLM, SamplingParams
$imports
llm = LLM($load)
chat = [{"role": "user", "content": "instruction and $item, as in training"}]
print(llm.chat(chat, SamplingParams(temperature=0, max_tokens=16)$request)[0].outputs[0].text)"""


def _use(base: str, rank: int, answer: AnswerRecord, words: Words) -> str:
    named = json.dumps(_base_name(base))
    if rank:
        imports = "from peft import PeftModel\n"
        load = (
            f"base = {named}  # name or folder of the base model\n"
            "tokenizer = AutoTokenizer.from_pretrained(base)\n"
            "model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)\n"
            "model = PeftModel.from_pretrained(model, folder).eval()\n\n"
        )
        vllm = {
            "imports": "from vllm.lora.request import LoRARequest\n",
            "load": f"{named}, enable_lora=True, max_lora_rank={next(r for r in RANKS if r >= rank)}",
            "request": ', lora_request=LoRARequest("adapter", 1, ".")',
        }
    else:
        imports = ""
        load = (
            "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
            "model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()\n\n"
        )
        vllm = {"imports": "", "load": '"."', "request": ""}
    transformers = Template(_TRANSFORMERS).substitute(
        imports=imports,
        load=load,
        prefix=answer.prefix,
        accept=answer.accept,
        reject=answer.reject,
        label=words.labels[0],
        item=words.item,
    )
    vllm_code = Template(_VLLM).substitute(vllm, item=words.item)
    title = "With PEFT" if rank else "With transformers"
    return f"{title}:\n\n```python\n{transformers}\n```\n\nWith vLLM:\n\n```python\n{vllm_code}\n```"
