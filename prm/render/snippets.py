"""The code of a model card: how transformers and vLLM give the scores that `prm score` gives. The tests run it.

Each card has `COMMON` and after it one of the others, which defines `step_scores`. `FOLDER` and `DTYPE` are filled in.
"""

COMMON = """\
import json
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor

folder = "FOLDER"
card = json.loads(Path(folder, "prm.json").read_text())
processor = AutoProcessor.from_pretrained(folder)
tokenizer = getattr(processor, "tokenizer", processor)
sees = hasattr(processor, "image_processor")


def opening(problem, images):
    \"\"\"The user turn, images first, and the header of the assistant's.\"\"\"
    text = card["instruction"] + "\\n" + problem
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}] if sees else text
    turns = [{"role": "user", "content": content}]
    return processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def step_tokens(steps):
    \"\"\"Token ids of all steps, and how many of them there are up to the end of each step.\"\"\"
    ids, ends, carried = [], [], ""
    for step in steps:
        text = step.rstrip()
        # White space after a step belongs to the next one: the token that is read closes the step's own text.
        ids += tokenizer(carried + text, add_special_tokens=False)["input_ids"]
        carried = step[len(text) :]
        ends.append(len(ids))
    return ids, ends
"""

SEEING = """\
from safetensors.torch import load_file
from transformers import AutoModel

model = AutoModel.from_pretrained(folder, dtype="auto").eval()
head = load_file(Path(folder, "prm_head.safetensors"))[card["reading"]["head"]["weight"]]


def step_scores(problem, images, steps):
    \"\"\"Score of each step in (0, 1). `images` are PIL images, upright and RGB.\"\"\"
    text = opening(problem, images)
    made = processor(
        text=[text], images=images or None, return_tensors="pt", return_mm_token_type_ids=True, add_special_tokens=False
    )
    ids, ends = step_tokens(steps)
    start = made["input_ids"].shape[1]
    made["input_ids"] = torch.cat([made["input_ids"], torch.tensor([ids])], 1)
    made["attention_mask"] = torch.ones_like(made["input_ids"])
    if "mm_token_type_ids" in made:
        made["mm_token_type_ids"] = torch.nn.functional.pad(made["mm_token_type_ids"], (0, len(ids)))
    with torch.no_grad():
        hidden = model(**made.to(model.device)).last_hidden_state[0]
    return torch.sigmoid(hidden[[start + end - 1 for end in ends]].float().cpu() @ head[0]).tolist()
"""

READING = """\
from transformers import AutoModelForTokenClassification

model = AutoModelForTokenClassification.from_pretrained(folder, dtype="auto").eval()


def step_scores(problem, images, steps):
    \"\"\"Score of each step in (0, 1). This model takes no images.\"\"\"
    start = tokenizer(opening(problem, images), add_special_tokens=False)["input_ids"]
    ids, ends = step_tokens(steps)
    with torch.no_grad():
        logits = model(torch.tensor([start + ids], device=model.device)).logits[0, :, 0]
    return torch.sigmoid(logits[[len(start) + end - 1 for end in ends]].float()).tolist()
"""

VLLM = """\
from vllm import LLM
from vllm.config import PoolerConfig

llm = LLM(
    folder,
    runner="pooling",
    convert="classify",
    pooler_config=PoolerConfig(task="token_classify"),
    dtype="DTYPE",
    max_model_len=MAX_LENGTH,
)


def step_scores(problem, images, steps):
    \"\"\"Score of each step in (0, 1). `images` are PIL images, upright and RGB.\"\"\"
    start = tokenizer(opening(problem, images), add_special_tokens=False)["input_ids"]
    ids, ends = step_tokens(steps)
    prompt = {"prompt_token_ids": start + ids}
    if images:
        prompt["multi_modal_data"] = {"image": images}
    (output,) = llm.encode([prompt], pooling_task="token_classify")
    # One score for every token. vLLM puts an image's tokens in, so places are counted from the end.
    scores = output.outputs.data[:, 0]
    return [float(scores[end - len(ids) - 1]) for end in ends]
"""

USE = """\
print(step_scores("QUESTION", [IMAGES], ["Step 1: ...\\n", "Step 2: ...\\n"]))
"""
