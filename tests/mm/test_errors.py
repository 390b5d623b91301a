"""Errors of libraries in one line of advice."""

import pytest
import torch

from convnext_dense.mm.errors import explain


def test_images_of_several_sizes_in_a_batch_are_named_and_nothing_else_is():
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)]

    def stack_batch():
        return torch.stack(images)

    def inside_a_model():
        return torch.stack(images)

    for function, said in (
        (stack_batch, "the images of a batch have different sizes"),
        (inside_a_model, None),
    ):
        with pytest.raises(RuntimeError) as error:
            function()
        found = explain(error.value)
        assert found is None if said is None else found.startswith(said)


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
