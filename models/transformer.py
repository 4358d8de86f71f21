"""DETR's transformer: post-norm layers, positions added to queries and keys of every attention.

Source: Carion et al. 2020, section A.3. Parameter names are those of the published checkpoints. No normalisation at the
encoder's end; one, shared by all decoder layers' outputs, at the decoder's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention


class EncoderLayer(nn.Module):
    """Self-attention over the cells and a feed-forward network, each with shortcut, dropout and normalisation."""

    def __init__(self, d_model: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, heads, dropout)
        self.linear1 = nn.Linear(d_model, ffn)
        self.linear2 = nn.Linear(ffn, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """`x` and `positions` [B, hw, d], `mask` [B, 1, 1, hw]; gives [B, hw, d]."""
        at = x + positions
        x = self.norm1(x + self.dropout(self.self_attn(at, at, x, mask)))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Self-attention among the queries, attention to the encoder's memory, and a feed-forward network."""

    def __init__(self, d_model: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, heads, dropout)
        self.multihead_attn = Attention(d_model, heads, dropout)
        self.linear1 = nn.Linear(d_model, ffn)
        self.linear2 = nn.Linear(ffn, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, queries: Tensor, memory: Tensor, mask: Tensor, keys: Tensor, num_groups: int = 1
    ) -> Tensor:
        """`x`, `queries` [B, Q, d]; `memory`, `keys` (memory plus positions) [B, hw, d]; `mask` [B, 1, 1, hw].

        With `num_groups` above 1 the queries are that many sets in a row, and see those of their own set only. Gives
        [B, Q, d].
        """
        if num_groups == 1:
            at = x + queries
            among = self.self_attn(at, at, x)
        else:
            at = (x + queries).reshape(len(x) * num_groups, -1, x.shape[2])
            among = self.self_attn(at, at, x.reshape(at.shape)).reshape(x.shape)
        x = self.norm1(x + self.dropout(among))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + queries, keys, memory, mask)))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """`num_layers` encoder layers; none at all is allowed."""

    def __init__(self, num_layers: int, d_model: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d_model, heads, ffn, dropout) for _ in range(num_layers))

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """`x` and `positions` [B, hw, d], `mask` [B, 1, 1, hw]; gives the memory [B, hw, d]."""
        for layer in self.layers:
            x = layer(x, mask, positions)
        return x


class Decoder(nn.Module):
    """`num_layers` decoder layers and the normalisation of their outputs."""

    def __init__(self, num_layers: int, d_model: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d_model, heads, ffn, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, queries: Tensor, memory: Tensor, mask: Tensor, positions: Tensor, num_groups: int = 1
    ) -> list[Tensor]:
        """`queries` [B, Q, d], in `num_groups` sets that do not see each other; `memory` and `positions` [B, hw, d],
        `mask` [B, 1, 1, hw].

        Gives every layer's normalised output, [B, Q, d] each; the last one is the decoder's.
        """
        keys = memory + positions
        x = torch.zeros_like(queries)
        outputs = []
        for layer in self.layers:
            x = layer(x, queries, memory, mask, keys, num_groups)
            outputs.append(self.norm(x))
        return outputs


class Transformer(nn.Module):
    """Encoder and decoder under the names of the published checkpoints."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
