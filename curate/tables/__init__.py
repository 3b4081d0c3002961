"""The workspace: its tables on disk, their journals, lineage and lock, and SQL over them."""

from __future__ import annotations

from curate.errors import UserError
from curate.runtime.registry import Registry
from curate.tables.schema import TABLES, Table

KNOWN: Registry[Table] = Registry("curate.tables", "table", TABLES, of="curate.tables.schema:Table")
# A view of the accounts that SQL has beside the tables.
_TAKEN = "ledger"


def all_tables() -> dict[str, Table]:
    """Every table by name: those of `curate.tables.schema`, and those in the entry point group `curate.tables`.

    UserError where an installed package brings one that cannot be loaded or has a name that no table can have.
    """
    strange = next((name for name in KNOWN.installed() if name == _TAKEN or not name.isidentifier()), None)
    if strange is not None:
        raise UserError(f'A package brings a table "{strange}", which no table can be called; repair or uninstall it.')
    return {name: KNOWN.find(name) for name in KNOWN}
