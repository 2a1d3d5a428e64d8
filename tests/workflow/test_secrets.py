"""What is personal in a link stays in the config: not on the terminal, not in logs, not in Snakemake's metadata."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.misbehaving_server import MisbehavingServer
from tests.helpers.workflow import copy_workflow, run_snakemake


def test_a_token_in_a_link_is_neither_printed_nor_kept(tmp_path: Path) -> None:
    with MisbehavingServer(b"not weights", lambda _number: "none") as server:
        link = f"{server.url.replace('//', '//me:pa55word@')}/w.pdparams?token=s3cret"
        config = {
            "datasets": {"d": {"kind": "nuscenes", "source": {"url": link}}},
            "runs": {"r": {"dataset": "d", "model": "petrv2_tiny", "weights": {"url": link}}},
        }
        folder = copy_workflow(tmp_path / "project", config)
        said = run_snakemake(folder, "annotate_all", "baseline_all", "--keep-going", "--printshellcmds", check=False)
        assert said.returncode and any("s3cret" in path for path, _, _ in server.log)
    texts = {"the terminal": said.stdout + said.stderr}
    for path in [*folder.rglob("*"), *(folder / ".snakemake").rglob("*")]:
        if path.is_file() and not path.is_symlink() and path != folder / "config" / "config.yaml":
            texts[str(path)] = path.read_bytes().decode(errors="replace")
    assert "/w.pdparams" in texts["the terminal"]
    assert [where for where, text in texts.items() if "s3cret" in text or "pa55word" in text] == []
