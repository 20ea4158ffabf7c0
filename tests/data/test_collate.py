import sys

import pytest

from modeling_glccl.data.collate import part_quietly


@pytest.mark.parametrize(("error", "said"), [(EOFError, False), (ConnectionResetError, False), (ValueError, True)])
def test_a_worker_says_nothing_of_a_process_that_has_gone_and_all_else(error, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restores it
    part_quietly(0)
    sys.excepthook(error, error("gone"), None)
    assert (error.__name__ in capsys.readouterr().err) == said
