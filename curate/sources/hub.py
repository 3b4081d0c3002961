"""Source: a dataset on the Hugging Face hub, or a folder that `datasets` can load, read as a stream.

`datasets` finds the files; tables and lines of text are read here, as those of kind `files` are, because it would guess
types and lose texts by it (007, None, dates). No dataset's own code is run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from curate.errors import RowError, UserError
from curate.recipe.source_sections import HubSource
from curate.runtime import hubs
from curate.sources import columns
from curate.sources.base import BadRow, Numbered, Record, SourceRow
from curate.sources.files import read_input
from curate.sources.readers.arrow_files import named
from curate.sources.readers.inputs import Input
from curate.sources.roots import Root, open_root

# What tells pandas how a table is written, where that is not what it takes by itself.
_ODD = (
    "names",
    "header",
    "skiprows",
    "quotechar",
    "quoting",
    "escapechar",
    "encoding",
    "comment",
    "skipfooter",
    "usecols",
)
_METADATA = ("metadata.csv", "metadata.jsonl")
_REPOSITORY = re.compile(r"(?:.*::)?(hf://datasets/[^@]+@[^/]+)/.*")


class _Unfit(Exception):
    """What is there cannot be read as the recipe says; the message says why, and what to set."""


class HubReader:
    """Rows of one split; images as their original bytes. Paths of images stay inside the dataset's folder.

    `notes` are there when all rows were read: what shows in the split as a whole.
    """

    def __init__(self, config: HubSource, base: Path) -> None:
        self._config = config
        self._base = base
        self.read_from: dict[str, str] = {}
        self.root: Root | None = None
        self.notes: list[str] = []
        if config.root is not None:
            at = config.root if config.root.is_absolute() else base / config.root
            if not at.exists():
                raise UserError(f'Source "{config.name}": there is no folder or archive at {config.root}; check root.')
            self.root = open_root(at)

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows, in the order of the dataset."""
        records = self.records()
        yield from columns.problems(records, self._config, self.root, self.notes)

    def records(self) -> Iterator[Numbered]:
        """The records as they are, checked for the columns that are named; `root` is known when this returns."""
        names, records, name = self._open()
        what = f'Source "{self._config.name}": {name}'
        if names:
            columns.check(self._config, names, what)
        # Without named columns the first record has to be asked.
        ahead = list(itertools.islice(records, 1))
        for _, record in ahead:
            if not names and not isinstance(record, RowError):
                columns.check(self._config, record, what)
        return itertools.chain(ahead, records)

    def unchecked(self) -> Iterator[Numbered]:
        """The records as they are, whatever columns are named; `root` is known when this returns."""
        return self._open()[1]

    def _open(self) -> tuple[Sequence[str], Iterator[Numbered], str]:
        """Columns (none where they are not known), records, and the id: the first of the ids that can be opened."""
        datasets = library()
        config, first = self._config, None
        for name in (config.dataset, *config.fallbacks):
            local = self._base / name
            try:
                builder = self._builder(datasets, str(local) if local.is_dir() else name)
                names, records = self._read(datasets, builder, local if local.is_dir() else None)
            except _Unfit as error:
                first = first or UserError(f'Source "{config.name}": {name} {error}.')
            except failures() as error:
                first = first or self._failed(
                    "cannot be opened", error, "check dataset, config, split, revision and the network"
                )
            else:
                self.read_from = place_of(builder)
                return names, records, name
        assert first is not None  # noqa: S101
        raise first

    def _builder(self, datasets: Any, path: str) -> Any:
        config = self._config
        try:
            return datasets.load_dataset_builder(path, config.config, revision=config.revision)
        except RuntimeError as error:
            if "scripts" not in str(error):
                raise
            raise _Unfit(
                "has a loading script, and no dataset's own code is run; take its Parquet branch (revision: "
                "refs/convert/parquet), or get its files and read them as a source of kind files"
            ) from None
        except ValueError as error:
            if "Config name is missing" not in str(error) and "BuilderConfig" not in str(error):
                raise
            known = datasets.get_dataset_config_names(path, revision=config.revision)
            listed = f"{', '.join(known[:-1])} and {known[-1]}" if len(known) > 1 else "".join(known)
            said = "" if config.config is None else f'no config "{config.config}", it has '
            raise _Unfit(f"has {said}the configs {listed}; set config to one of them") from None

    def _read(self, datasets: Any, builder: Any, local: Path | None) -> tuple[Sequence[str], Iterator[Numbered]]:
        split = self._config.split
        files = builder.config.data_files
        if files is not None and split not in files:
            raise _Unfit(f'has no split "{split}", it has {", ".join(map(str, files))}; set split')
        chosen = [str(file) for file in files[split]] if files is not None else []
        found = _inputs(datasets, builder, chosen)
        if self.root is None:
            self.root = open_root(local) if local is not None else _Repository.of(chosen)
        if self._config.records is not None and builder.name != "json":
            raise _Unfit(f"is no JSON ({builder.name}), so that records has no effect")
        if found:
            return self._texts(found, builder, local)
        if builder.name == "csv":
            # What pandas is told has to be kept; that it guesses types has not.
            builder.config.keep_default_na, builder.config.dtype = False, str
        data, features = builder.as_streaming_dataset(split=split), {}
        if data.features:
            # What is stored must be the original image, not a re-encoding.
            data, features = data.decode(False), data.features.to_dict()
        records = ((number, named(record, features)) for number, record in enumerate(self._sound(data), start=1))
        return data.column_names or [], records

    def _texts(
        self, found: Sequence[Input], builder: Any, local: Path | None
    ) -> tuple[Sequence[str], Iterator[Numbered]]:
        """Tables and lines of text, one after the other."""
        wanted = columns.wanted(self._config) - ({"image", "images"} if builder.name == "imagefolder" else set())
        under = self._config.records or getattr(builder.config, "field", None)
        features = builder.info.features.to_dict() if builder.info.features else {}
        names = list[str]()
        for each in found:
            names += [name for name in read_input(each, wanted=wanted, under=under)[0] if name not in names]
            if wanted <= set(names):
                break

        def records() -> Iterator[Numbered]:
            count = itertools.count(1)
            for each in found:
                folder = _folder(each, local)
                for number, record in self._sound(read_input(each, wanted=wanted, under=under)[1]):
                    if not isinstance(record, RowError):
                        record = named(record, features)
                        record = _imaged(record, folder) if builder.name == "imagefolder" else record
                    place = next(count)
                    yield number if isinstance(number, str) else place, record

        if builder.name == "imagefolder":
            names = list(_imaged(dict.fromkeys(names), PurePosixPath()))
        return names, records()

    def _sound(self, data: Any) -> Iterator[Any]:
        try:
            yield from data
        except failures() as error:
            raise self._failed(
                "stopped in the middle", error, "run again when the data and the network are sound; what is in is kept"
            ) from None

    def _failed(self, what: str, error: Exception, cure: str) -> UserError:
        name = self._config.name
        return UserError(f'Source "{name}": {self._config.dataset} {what} ({hubs.reason(error)}); {cure}.')


def library() -> Any:
    """The package `datasets`; UserError when it is not installed."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(
            "Hub sources need the package datasets; install it with: pip install 'curate-prm[hub]'."
        ) from None
    return datasets


def failures() -> tuple[type[Exception], ...]:
    """What `datasets` raises for data and networks that are not there or not sound."""
    import datasets

    return *hubs.failures(), pa.ArrowException, datasets.exceptions.DatasetsError


def place_of(builder: Any) -> dict[str, str]:
    """`dataset`, the id on the hub that a builder of `datasets` reads, and `revision`, its commit; none of a folder."""
    match = re.match(r"hf://datasets/([^@]+)@([0-9a-f]{40})", builder.base_path or "")
    return {} if match is None else {"dataset": match[1], "revision": match[2]}


def _inputs(datasets: Any, builder: Any, files: Sequence[str]) -> list[Input]:
    """The files that are read here; none for a dataset of another kind, or with a table that is written oddly."""
    from datasets.download.streaming_download_manager import StreamingDownloadManager
    from datasets.utils.file_utils import xopen

    config = builder.config
    if builder.name == "csv":
        usual = type(config)(name="usual")
        if any(getattr(config, name, None) != getattr(usual, name, None) for name in _ODD):
            return []
    elif builder.name == "imagefolder":
        if config.drop_metadata or config.metadata_filenames or any(file.endswith(".zip") for file in files):
            return []
        files = [file for file in files if PurePosixPath(file).name in _METADATA]
    elif builder.name != "json" or config.encoding != "utf-8":
        return []
    options = datasets.DownloadConfig(token=builder.token, storage_options=builder.storage_options)
    manager = StreamingDownloadManager(base_path=builder.base_path, download_config=options)
    found = []
    for file in files:
        packed = file.partition("::")[0].lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))
        for each in manager.iter_files(manager.download_and_extract(file)) if packed else [file]:

            def raw(name: str = each) -> Any:
                return xopen(name, "rb", download_config=options)

            found.append(Input(PurePosixPath(each.partition("::")[0]).name, raw, at=each))
    return found


def _folder(found: Input, local: Path | None) -> PurePosixPath:
    """The folder of a file, relative to the dataset's."""
    at = found.at or ""
    if local is not None:
        path = Path(at)
        return PurePosixPath(path.parent.relative_to(local)) if path.is_relative_to(local) else PurePosixPath()
    match = _REPOSITORY.fullmatch(at)
    return PurePosixPath(at.removeprefix(match[1]).lstrip("/")).parent if match else PurePosixPath()


def _imaged(record: Record, folder: PurePosixPath) -> Record:
    """A record of an image folder's metadata: names of files become the images, as `datasets` calls them."""
    made = dict[str, Any]()
    for name, value in record.items():
        match = re.fullmatch(r"(?:(.*)_)?file_name(s?)", name)
        if match is None:
            made[name] = value
        elif isinstance(value, list):
            made[match[1] or "images"] = [{"path": str(folder / str(each))} for each in value]
        else:
            made[match[1] or "image" + match[2]] = None if value is None else {"path": str(folder / str(value))}
    return made


class _Repository:
    """The files of a dataset's repository on the hub, in one revision."""

    def __init__(self, base: str) -> None:
        self._base = base

    @classmethod
    def of(cls, files: Sequence[str]) -> _Repository | None:
        """The repository that files are in; null where they are somewhere else."""
        match = next((match for file in files if (match := _REPOSITORY.fullmatch(file))), None)
        return None if match is None else cls(match[1])

    def read(self, name: str) -> bytes:
        """The file's bytes; what the network does wrong is no row's fault and goes through."""
        from datasets.utils.file_utils import xopen

        plain = str(PurePosixPath(name))
        if plain.startswith(("/", "..")) or "/../" in f"/{plain}/" or "::" in plain:
            raise RowError("image-outside-root", f"{name} leads out of the dataset's repository")
        try:
            with xopen(f"{self._base}/{plain}", "rb") as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise RowError("image-missing", f"{name} is no file of the dataset's repository") from None
