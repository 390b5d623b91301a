"""Errors of libraries in one line of advice."""

import pytest

from convnext_dense.mm.errors import explain


@pytest.mark.parametrize(
    "message",
    [
        # gloo
        "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711",
        "Read error [127.0.0.1]:4711: Connection reset by peer",
        # nccl, and what torch says of its error codes
        "Net : Connection closed by remote peer node2<4711>",
        "remote process exited or there was a network error",
        "A call failed possibly due to a network error or a remote process exiting prematurely.",
    ],
)
def test_a_process_that_lost_another_one_says_so(message):
    assert explain(RuntimeError(message)).startswith("another process of this job ended")
    assert explain(ValueError(message)) is None
