"""A trained PRM in its folder: the backbone with its processor (or tokenizer) as transformers reads them, the head,
and a card.

<workspace>/models/<run>/  model.safetensors config.json ... prm_head.safetensors prm.json
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from curate.errors import UserError
from curate.tables.store import Store, write_atomic
from prm.config import TrainConfig
from prm.data.encode import Encoder
from prm.model import digests
from prm.model.digests import CARD
from prm.model.reward_model import Prm


@dataclass(frozen=True)
class Card:
    """How a PRM reads its input and what its scores are for; written last, so a folder with a card is whole."""

    run: str
    instruction: str
    max_length: int
    aggregation: str
    head: str
    precision: str
    config: dict[str, Any]
    # The text after each step at whose end it is read; null where that is the step's own end.
    suffix: str | None = None
    # In an exported folder: how any client reads scores, see `prm.serving.export`.
    reading: dict[str, Any] | None = None
    # Checksums of the files beside the card, by name; and of the card itself.
    files: dict[str, str] = field(default_factory=dict)
    seal: str = ""

    @property
    def of_outcomes(self) -> bool:
        """Whether it is an outcome reward model, which has a score at the last step alone."""
        return bool(self.config.get("target") == "outcome")

    @classmethod
    def of(cls, run: str, config: TrainConfig, suffix: str | None) -> Card:
        """The card of a run whose encoder reads after this suffix."""
        return cls(
            run,
            config.instruction,
            config.max_length,
            config.aggregation,
            config.head,
            config.precision,
            config.model_dump(mode="json"),
            suffix,
        )


def model_folder(workspace: Store, run: str) -> Path:
    """Where the PRM of a run lies."""
    return workspace.root / "models" / run


def has_card(folder: Path) -> bool:
    """Whether a whole PRM lies there."""
    return (folder / CARD).is_file()


def save_model(prm: Prm, folder: Path, encoder: Encoder, card: Card) -> None:
    """Write the PRM; a folder of the same name is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        prm.save(folder)
        encoder.processor.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The PRM cannot be written to {folder} ({error}); free some space and run again.") from None
    write_card(folder, card)


def write_card(folder: Path, card: Card) -> Card:
    """Write the card of a folder whose other files are there, with their checksums; returns it with them."""
    whole = replace(card, files=digests.of_files(folder))
    whole = replace(whole, seal=digests.of_card(asdict(whole)))
    write_atomic(folder / CARD, json.dumps(asdict(whole), indent=1, sort_keys=True).encode())
    return whole


def read_card(folder: Path) -> Card:
    """The card of a saved PRM; UserError when there is none, or it is not as it was written."""
    try:
        content = json.loads((folder / CARD).read_bytes())
        card = Card(**content)
    except FileNotFoundError:
        raise UserError(f"There is no trained PRM at {folder}; run `prm train` first.") from None
    except (ValueError, TypeError, OSError):
        raise UserError(f"{folder / CARD} is damaged; {digests.cure(folder)}.") from None
    if not card.files:
        raise UserError(
            f"The PRM at {folder} was saved by an earlier version of this program; train or export it again."
        )
    if card.seal != digests.of_card(content):
        raise UserError(f"{folder / CARD} is damaged: it is not the card that was saved; {digests.cure(folder)}.")
    return card
