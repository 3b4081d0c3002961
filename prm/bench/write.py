"""Results as files: <workspace>/reports/eval/<benchmark>/<run>/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from curate.tables.store import Store, write_atomic
from prm.bench.read import UnreadRow
from prm.bench.result import BenchmarkResult


def write(
    workspace: Store,
    result: BenchmarkResult,
    layouts: Mapping[str, str],
    unread: Sequence[UnreadRow] = (),
) -> Path:
    """Write results.json, results.md, the files of the benchmark's own scorer, unread.jsonl where a row could not be
    read, and calibration.html; the folder. Files of an earlier evaluation go.
    """
    from prm.bench import presentation, reliability

    folder = workspace.root / "reports" / "eval" / result.benchmark / result.run
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": json.dumps(result.to_json(), ensure_ascii=False, indent=1, allow_nan=False),
        "results.md": presentation.markdown(result),
        **layouts,
    }
    if unread:
        texts["unread.jsonl"] = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in unread)
    if any(group.bins for group in result.groups):
        texts["calibration.html"] = reliability.page(result)
    for path in folder.iterdir():
        if path.is_file() and path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        # Lone surrogates cannot be UTF-8; the reader sees a replacement for them.
        write_atomic(folder / name, text.encode("utf-8", "replace"))
    return folder
