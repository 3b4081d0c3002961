"""A mask of `curate shard` reaches the trainer as a weight of 0: masked labels teach nothing, and change the run."""

import json
from dataclasses import replace

import torch

from curate import pipeline
from curate.runtime.reporter import Silent
from curate.tables.schema import EXAMPLES
from curate.tables.store import Store
from prm.data.examples import fingerprint, read_examples
from prm.losses import STEP_LOSSES, Targets, rollout_losses


def test_masked_labels_are_left_out_of_the_loss_exactly(tmp_path):
    lines = [{"question": f"Problem {n} [gold={n}]", "answer": str(n)} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = {"kind": "simulated", "model": "world"}
    tree = {
        "ingest": {"sources": [{"kind": "files", "name": "rows", "path": "rows.jsonl"}]},
        "rollout": {"engine": engine, "samples": 2, "prompt": "free"},
        "label": {},
        "judge": {"engine": engine | {"args": {"false_alarm": 0.2, "miss": 0.2}}},
        "shard": {"consensus": {"threshold": 0.5}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    workspace, path = Store.open(tmp_path / "w"), tmp_path / "recipe.yaml"
    pipeline.run(pipeline.load(path), workspace, Silent())
    masks = {row["rollout_id"]: row["masks"] for row in workspace.read(EXAMPLES).to_pylist()}
    examples = read_examples(workspace, ["train"])
    partly = [example for example in examples if any(masks[example.rollout_id])]
    assert partly
    for example in partly:
        masked = [reason is not None for reason in masks[example.rollout_id]]
        assert [weight == 0 for weight in example.weights] == masked
        assert None not in example.values
        other = replace(
            example, values=tuple(1 - v if out else v for v, out in zip(example.values, masked, strict=True))
        )
        for loss in STEP_LOSSES:
            found = []
            for each in (example, other):
                logits = torch.linspace(-1, 1, len(masked)).requires_grad_()
                targets = Targets.of([(range(len(masked)), each.values, each.weights)])
                (value,) = rollout_losses(loss, logits, targets.to(logits))
                value.backward()
                found.append((value.item(), logits.grad.tolist()))
            assert found[0] == found[1]
            assert [gradient == 0 for gradient in found[0][1]] == masked
    pipeline.run(pipeline.load(path, ["shard.consensus=null"]), workspace, Silent(), ["shard"])
    assert fingerprint(read_examples(workspace, ["train"])) != fingerprint(examples)
