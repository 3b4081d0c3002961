"""Train the embedded demo models from scratch: `policy/` (solves, with slips) and `backbone/` (checks).

    python data/demo/make_model.py --out data/demo

Both are small Qwen2-VL models, trained in parts. Words: the language model alone, on chains whose images it does not
see; it learns to copy and how chains go. Looks: the same with an ideal eye, which gives for each cell of an image the
sum of the words for what it shows; it learns to look up, to solve and to check. Eyes: the vision tower alone, to give
what the ideal eye gives. Chains: both together, on real pixels. From there two ways part. The policy is tuned for a few
minutes on chains with slips, so that right and wrong chains are both common; the backbone goes on with checks, so that
the verifier sees better than the policy, as in DreamPRM's setting. The seed, the steps and what was measured go to
`model.json`. A killed run goes on from what lies in `parts`, which can be deleted at the end.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from making.network import SOLVE, make_config, make_processor, make_tokenizer
from making.sequences import SLIP_RATES, Source
from making.sight import IGNORE
from making.training import Pupil, is_first, once, teach_to_see, train
from transformers import Qwen2VLForConditionalGeneration

from curate.sources.synthetic import chain as chains
from curate.sources.synthetic.tasks import TASKS, SyntheticTask


def save(model: Qwen2VLForConditionalGeneration, source: Source, folder: Path) -> None:
    """bf16 safetensors with its processor: what `from_pretrained` and vLLM load."""
    if not is_first():
        return
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    make_processor(source.tokenizer).save_pretrained(folder)


def each_task(measure: Callable[[SyntheticTask], float]) -> dict[str, float]:
    """A figure for every task; the workers share the tasks."""
    found = {task.name: measure(task) for task in list(TASKS.values())[dist.get_rank() :: dist.get_world_size()]}
    everywhere: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, found)
    return {name: part[name] for name in TASKS for part in everywhere if name in part}


@torch.no_grad()
def pass_at_1(pupil: Pupil, source: Source, task: SyntheticTask, count: int = 200) -> float:
    """Share of right answers at temperature 1, one chain for each of `count` new problems."""
    rng, processor = random.Random(f"measure {task.name}"), make_processor(source.tokenizer)
    torch.manual_seed(count)
    processor.tokenizer.padding_side = "left"
    ask = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}\n{}<|im_end|>\n<|im_start|>assistant\n"
    problems = [task.sample(rng) for _ in range(count)]
    texts = [ask.format(SOLVE, task.question(facts)) for facts in problems]
    images = [task.image(facts) for facts in problems]
    batch = processor(text=texts, images=images, return_tensors="pt", padding=True)
    written = pupil.causal.generate(**batch, max_new_tokens=110, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    texts = source.tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    answers = [text.rpartition("Final answer:")[2].strip() for text in texts]
    return sum(a == chains.gold(task, facts) for a, facts in zip(answers, problems, strict=True)) / count


@torch.no_grad()
def chain_auroc(pupil: Pupil, source: Source, task: SyntheticTask, count: int = 200) -> float:
    """AUROC of the verdict after the last step, of `count` new chains with slips: is all of it right?"""
    source.tasks, source.mix = [task], {"check": 1.0}
    source.rng.seed(f"measure {task.name}")
    ((ids, targets, seen),) = source.batch(count, pool=1)
    rows, last = torch.arange(count), (targets != IGNORE).cumsum(1).argmax(1)
    logits = pupil.causal.lm_head(pupil.hidden(ids, seen)[rows, last])
    odds, right = logits[:, source.good] - logits[:, source.bad], targets[rows, last] == source.good
    above = odds[right][:, None] - odds[~right][None]
    return ((above > 0).float() + 0.5 * (above == 0).float()).mean().item()


def work(rank: int, options: argparse.Namespace, meet: str) -> None:
    """One worker. All start from the same seed and see the same mean gradients, so they stay equal."""
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=options.workers)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer(options.seed, 640)
    model = Qwen2VLForConditionalGeneration(make_config(tokenizer, options.hidden, options.layers))
    if is_first():
        size = sum(p.numel() for p in model.parameters())
        print(f"{size / 1e6:.2f} M parameters, {len(tokenizer)} tokens", flush=True)
    record = {
        "seed": options.seed,
        "batch": options.batch * options.workers,
        "rate": options.rate,
        "slip_rates": SLIP_RATES,
    }
    parts = options.out / "parts"
    parts.mkdir(exist_ok=True)
    seen = [task for task in TASKS.values() if task.name != "needles"]
    source = Source(tokenizer, options.seed, policy=False)
    pupil = Pupil(model, source)

    def teach(part: str, steps: int, rate: float) -> dict[str, Any]:
        return once(part, pupil, parts, lambda: train(pupil, source, steps, rate, options.batch, parts, part))

    source.sees = "places"
    record["words"] = teach("words", options.word_steps, 2 * options.rate)
    source.sees = "labels"
    record["looks"] = teach("looks", options.look_steps, 2 * options.rate)
    source.sees = "pixels"
    record["eyes"] = once(
        "eyes", pupil, parts, lambda: teach_to_see(pupil, seen, source, options.eye_steps, options.batch)
    )
    record["chains"] = teach("chains", options.chain_steps, options.rate)
    solver, source = copy.deepcopy(pupil.state_dict()), Source(tokenizer, options.seed + 1, policy=True)
    record["policy"] = teach("policy", options.policy_steps, options.rate / 4)
    pupil.eval()
    record["policy"]["pass_at_1"] = each_task(lambda task: pass_at_1(pupil, source, task))
    save(model, source, options.out / "policy")
    pupil.load_state_dict(solver)
    source = Source(tokenizer, options.seed + 2, policy=False)
    record["backbone"] = teach("checks", options.check_steps, options.rate)
    pupil.eval()
    record["backbone"]["chain_auroc"] = each_task(lambda task: chain_auroc(pupil, source, task))
    save(model, source, options.out / "backbone")
    if is_first():
        (options.out / "model.json").write_text(json.dumps(record, indent=2) + "\n")
        print(json.dumps(record, indent=2))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--word-steps", type=int, default=350, help="for the language model, without images")
    parser.add_argument("--look-steps", type=int, default=2400, help="for the language model, with ideal eyes")
    parser.add_argument("--eye-steps", type=int, default=4000, help="for the vision tower alone")
    parser.add_argument("--chain-steps", type=int, default=1500, help="for both")
    parser.add_argument("--check-steps", type=int, default=900, help="for both, on checking chains")
    parser.add_argument("--policy-steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="rows a step of each worker")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (options, f"file://{folder}/meet"), options.workers)


if __name__ == "__main__":
    main()
