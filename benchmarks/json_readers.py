"""Which JSON reader should parse nuScenes' tables? Times each one on a root's sample_data.json, one process a reader.

    uv run --with msgspec --with polars --with pysimdjson python benchmarks/json_readers.py ROOT/v1.0-trainval

Every reader ends in the same ten columns, Arrow strings and numbers. Readers that are not installed are skipped.
"""

from __future__ import annotations

import json
import operator
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = ("timestamp", "height", "width")
TEXTS = ("token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "filename", "prev")
FIELDS = (*TEXTS, *NUMBERS, "is_key_frame")
BOUNDARY = re.compile(rb"\}\s*,\s*\{")


def blocks(path: Path, size: int = 8 << 20) -> Iterator[bytes]:
    """Cut a table into arrays of whole records."""
    with path.open("rb") as handle:
        pending = handle.read(size).lstrip()[1:]
        while block := handle.read(size):
            pending += block
            *_, last = BOUNDARY.finditer(pending, max(0, len(pending) - 65536))
            yield b"[" + pending[: last.start() + 1] + b"]"
            pending = pending[last.end() - 1 :]
        yield b"[" + pending


def columns(parsed: Iterable[Any], field: Callable[[Any, str], list[Any]]) -> int:
    """Turn lists of records into columns; return the rows."""
    import pyarrow as pa

    parts: dict[str, list[Any]] = {name: [] for name in FIELDS}
    for rows in parsed:
        for name in FIELDS:
            values = field(rows, name)
            parts[name].append(pa.array(values, pa.string()) if name in TEXTS else np.array(values))
    joined = {n: pa.concat_arrays(p) if n in TEXTS else np.concatenate(p) for n, p in parts.items()}
    return len(joined["token"])


def by_key(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def orjson_whole(path: Path) -> int:
    import orjson

    return columns([orjson.loads(path.read_bytes())], by_key)


def orjson_blocks(path: Path) -> int:
    import orjson

    return columns(map(orjson.loads, blocks(path)), by_key)


def msgspec_blocks(path: Path) -> int:
    import msgspec

    kinds = [(name, str if name in TEXTS else int if name in NUMBERS else bool) for name in FIELDS]
    decoder = msgspec.json.Decoder(list[msgspec.defstruct("Row", kinds, gc=False)])  # type: ignore[misc]
    return columns(map(decoder.decode, blocks(path)), lambda rows, name: list(map(operator.attrgetter(name), rows)))


def simdjson_blocks(path: Path) -> int:
    import simdjson

    def parsed() -> Iterator[list[tuple[Any, ...]]]:
        parser = simdjson.Parser()
        for block in blocks(path):
            document = parser.parse(block)
            yield [tuple(row[name] for name in FIELDS) for row in document]
            del document

    return columns(parsed(), lambda rows, name: [row[FIELDS.index(name)] for row in rows])


def pyarrow_blocks(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.json as pj

    kinds = [(name, pa.string() if name in TEXTS else pa.int64() if name in NUMBERS else pa.bool_()) for name in FIELDS]
    options = pj.ParseOptions(explicit_schema=pa.schema(kinds), unexpected_field_behavior="ignore")
    # It wants a record a line. A newline never stands inside a JSON string, so all may go before the separators become newlines.
    lines = (BOUNDARY.sub(b"}\n{", block.translate(None, b"\n\r").strip()[1:-1]) for block in blocks(path))
    return pa.concat_tables(pj.read_json(pa.BufferReader(text), parse_options=options) for text in lines).num_rows


def polars_whole(path: Path) -> int:
    import polars as pl

    kinds = {name: pl.String if name in TEXTS else pl.Int64 if name in NUMBERS else pl.Boolean for name in FIELDS}
    return pl.read_json(path, schema=kinds).to_arrow().num_rows


def duckdb_whole(path: Path) -> int:
    return sum(len(batch) for batch in list(_duckdb(path)))


def duckdb_stream(path: Path) -> int:
    return sum(len(batch) for batch in _duckdb(path))


def _duckdb(path: Path) -> Iterator[Any]:
    import duckdb

    kinds = ", ".join(
        f"'{n}': '{'VARCHAR' if n in TEXTS else 'BIGINT' if n in NUMBERS else 'BOOLEAN'}'" for n in FIELDS
    )
    query = f"SELECT {', '.join(FIELDS)} FROM read_json('{path}', format = 'array', columns = {{{kinds}}})"
    with duckdb.connect(config={"threads": 2}) as connection:
        yield from connection.sql(query).to_arrow_reader(65536)


READERS = (
    orjson_whole,
    orjson_blocks,
    msgspec_blocks,
    simdjson_blocks,
    pyarrow_blocks,
    polars_whole,
    duckdb_whole,
    duckdb_stream,
)


def main() -> None:
    path = Path(sys.argv[1]) / "sample_data.json"
    if len(sys.argv) > 2:
        reader = next(one for one in READERS if one.__name__ == sys.argv[2])
        wall, cpu = time.perf_counter(), time.process_time()
        rows = reader(path)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        print(json.dumps({"reader": sys.argv[2], "rows": rows, "seconds": wall, "cpu_seconds": cpu, "rss_mb": peak}))
        return
    print(f"{path.stat().st_size / 1e6:.0f} MB\n\n| reader | seconds | CPU s | peak RSS MB |\n|---|---|---|---|")
    results = []
    for reader in READERS:
        done = subprocess.run(
            [sys.executable, __file__, sys.argv[1], reader.__name__], check=False, capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            print(f"| {reader.__name__} | {reason} | | |")
            continue
        results.append(json.loads(done.stdout.splitlines()[-1]))
        r = results[-1]
        print(f"| {r['reader']} | {r['seconds']:.1f} | {r['cpu_seconds']:.1f} | {r['rss_mb']:.0f} |", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
