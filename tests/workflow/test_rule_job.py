"""What a rule prints reaches the terminal and the log, without what nobody can act on."""

from __future__ import annotations

import io

import pytest

from tests.helpers.workflow import REPOSITORY


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, io.StringIO, object]:
    monkeypatch.syspath_prepend(str(REPOSITORY / "workflow" / "scripts"))
    import rule_job

    terminal, log = io.StringIO(), io.StringIO()
    return terminal, log, rule_job._Tee(terminal, log)


def test_paddles_words_on_threads_are_dropped_and_everything_else_stays(streams) -> None:
    terminal, log, tee = streams
    print("before", file=tee)
    print("WARNING: OMP_NUM_THREADS set to 2, not 1. The computation speed …", file=tee)
    print("PLEASE USE OMP_NUM_THREADS WISELY.", file=tee)
    tee.write("a\nWARNING: OMP_NUM_THREADS set to 2, not 1.\nPLEASE USE OMP_NUM_THREADS WISELY.\nb\n")
    print(file=tee)
    print("WARNING: the disk is nearly full", file=tee)
    assert terminal.getvalue() == log.getvalue() == "before\na\nb\n\nWARNING: the disk is nearly full\n"


def test_a_terminal_that_is_gone_does_not_stop_the_log(streams, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, log, tee = streams

    def gone(_text: str) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(terminal, "write", gone)
    print("still here", file=tee)
    assert log.getvalue() == "still here\n"
