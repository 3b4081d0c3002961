"""A tiny random Qwen2-VL in a folder, and workspaces of synthetic examples for it."""

from __future__ import annotations

import os

import pytest
import torch
from family_testbed import build
from making import network
from page_bed import CHROMIUM
from prm_testbed import example_rows, fill
from transformers import Qwen2VLForConditionalGeneration

from curate.tables.store import Store


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """Folder of a random Qwen2-VL with two layers."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = network.make_tokenizer(1, 640)
    config = network.make_config(tokenizer, hidden=64, layers=2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Qwen2VLForConditionalGeneration(config)
        # Large enough that attention, positions and images matter to the output.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(folder)
    network.make_processor(tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folders(tiny_model, tmp_path_factory):
    """Folder of a family's tiny model, built when it is first asked for."""
    made = {"qwen2_vl": tiny_model}

    def folder(family: str) -> str:
        if family not in made:
            made[family] = str(tmp_path_factory.mktemp(family))
            build(family, made[family])
        return made[family]

    return folder


@pytest.fixture
def make_workspace(tmp_path):
    """A workspace with train examples of three domains, and meta and test examples."""

    def make(name: str = "w", train: int = 12, meta: int = 8, test: int = 4) -> Store:
        workspace = Store.open(tmp_path / name)
        for role, count in (("train", train), ("meta", meta), ("test", test)):
            if count:
                fill(workspace, role, *example_rows(count, role, ("a", "b", "c")))
        return workspace

    return make


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Of a module: while it is there, nobody else may start an event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox of Chromium refuses to run as root.
        rights = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*rights, "--disable-gpu", "--disable-background-networking"]
        )
        yield launched
        launched.close()
