"""nuScenes' JSON tables: small ones as records, large ones streamed into columns."""

from petrflow.tables.records import read_table, table_remedy

__all__ = ["read_table", "table_remedy"]
