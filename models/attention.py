"""Multi-head attention as explicit matrix products, with the parameter names of `torch.nn.MultiheadAttention`.

Explicit, because the exporter has no scaled-dot-product attention below opset 14, and so that every engine sees plain
matrix products. Source: Vaswani et al. 2017, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d / heads)) v over `heads` heads, projections in and out; `dropout` on the weights."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.d_model = d_model
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """`query` [B, n, d], `key` and `value` [B, m, d], `mask` [B, 1, 1, m] added to the scores; gives [B, n, d]."""
        d, heads = self.d_model, self.heads
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key:
            both = self._split(F.linear(query, weight[: 2 * d], bias[: 2 * d]))
            q, k = both[:, :heads], both[:, heads:]
        else:
            q = self._split(F.linear(query, weight[:d], bias[:d]))
            k = self._split(F.linear(key, weight[d : 2 * d], bias[d : 2 * d]))
        v = self._split(F.linear(value, weight[2 * d :], bias[2 * d :]))
        if self.training:
            y = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask.to(q.dtype), self.dropout)
        else:
            scores = (q * (d // heads) ** -0.5) @ k.transpose(2, 3)
            y = torch.softmax(scores if mask is None else scores + mask, dim=3) @ v
        return self.out_proj(y.transpose(1, 2).reshape(len(query), -1, d))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """[B, n, heads * c] to [B, heads, n, c]; twice as many heads for the joint projection of queries and keys."""
        width = self.d_model // self.heads
        return x.reshape(len(x), -1, x.shape[2] // width, width).transpose(1, 2)
