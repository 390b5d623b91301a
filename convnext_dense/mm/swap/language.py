"""A small text encoder in place of BERT, a download of 440 MB that a test of shapes can do without."""

from types import SimpleNamespace
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

LANGUAGE_DIM = 768  # of BERT-base, which the models' other parts assume


class _Tokens(NamedTuple):
    """One token per character."""

    input_ids: Tensor

    def char_to_token(self, position: int) -> int | None:
        return position if position < self.input_ids.shape[1] else None


@MODELS.register_module()
class SmallLanguageModel(BaseModule):
    """The interface of mmdet's ``BertModel`` as Grounding DINO uses it, with an embedding of characters."""

    def __init__(self) -> None:
        super().__init__()
        self.max_tokens, self.pad_to_max = 256, False
        self.embedding = nn.Embedding(128, LANGUAGE_DIM)
        self.language_backbone = SimpleNamespace(body=SimpleNamespace(language_dim=LANGUAGE_DIM))

    def tokenizer(self, captions: list[str], **_: object) -> _Tokens:
        """Captions of one length -> their tokens (N, L)."""
        return _Tokens(torch.tensor([[ord(char) % 128 for char in caption] for caption in captions]))

    def forward(self, captions: list[str]) -> dict[str, Tensor]:
        """N captions of L characters -> embeddings (N, L, 768) and masks in which every token counts."""
        ids = self.tokenizer(captions).input_ids
        embedded = self.embedding(ids)
        count, length = ids.shape
        return dict(
            embedded=embedded,
            hidden=embedded,
            masks=torch.ones(count, length, length, dtype=torch.bool),
            position_ids=torch.arange(length).expand(count, length),
            text_token_mask=torch.ones(count, length, dtype=torch.bool),
        )
