"""A decoder that is handed one vector a token, and so asks no frames.

Source: Dong and Xu 2020, "CIF: Continuous Integrate-and-Fire for End-to-End
Speech Recognition", section 3.1; sizes as in the published code of Han et al.
2023, "Knowledge Transfer from Pre-trained Language Models to Cif-based Speech
Recognizers via Hierarchical Distillation".
"""

import torch
from speechbrain.lobes.models.transformer.Transformer import PositionalEncoding

from slu_kd_lobes.students.conformer import check_heads, feed_forward
from slu_kd_lobes.students.dropout import Dropout


class TokenDecoder(torch.nn.Module):
    """Causal layers over what was said before, and the vector of each token.

    All tokens at once, as in training, and one after the other with a cache
    are the same.

    Arguments
    ---------
    num_symbols : int
    size : int
        Channels of a token's vector, and of the decoder.
    ffn_size, num_heads, num_layers : int
    input_dropout : float
        Of what enters the first layer.
    dropout : float
        In the layers.

    Raises
    ------
    ValueError
        If the heads do not share the channels.

    Example
    -------
    >>> decoder = TokenDecoder(11, 16, 32, num_heads=2, num_layers=1).eval()
    >>> vectors, before = torch.rand(2, 5, 16), torch.randint(11, (2, 5))
    >>> states, scores, cache = decoder(vectors, before)
    >>> states.shape, scores.shape
    (torch.Size([2, 5, 16]), torch.Size([2, 5, 11]))
    >>> _, first, cache = decoder(vectors[:, :1], before[:, :1])
    >>> _, second, _ = decoder(
    ...     vectors[:, 1:2], before[:, 1:2], vectors[:, 0], cache
    ... )
    >>> torch.allclose(torch.cat([first, second], 1), scores[:, :2], atol=1e-6)
    True
    """

    def __init__(
        self,
        num_symbols,
        size=256,
        ffn_size=2048,
        num_heads=4,
        num_layers=2,
        input_dropout=0.1,
        dropout=0.2,
    ):
        super().__init__()
        check_heads(size, num_heads)
        self.embedding = torch.nn.Embedding(num_symbols, size)
        self.enter = torch.nn.Linear(2 * size, size, bias=False)
        self.positions = PositionalEncoding(size)
        self.dropout = Dropout(input_dropout)
        self.layers = torch.nn.ModuleList(
            DecoderLayer(size, ffn_size, num_heads, dropout)
            for _ in range(num_layers)
        )
        self.norm = torch.nn.LayerNorm(size)
        self.leave = torch.nn.Linear(2 * size, size, bias=False)
        self.symbols = torch.nn.Linear(size, num_symbols, bias=False)
        for layer in (self.embedding, self.symbols):
            torch.nn.init.normal_(layer.weight, std=size**-0.5)

    def forward(self, vectors, before, vector_before=None, cache=None):
        """Returns states and scores of tokens.

        Arguments
        ---------
        vectors : torch.Tensor
            Of the tokens, [batch, tokens, size].
        before : torch.Tensor
            Symbols of the tokens before them, [batch, tokens].
        vector_before : torch.Tensor or None
            Of the token before the first of them, [batch, size]; None if there
            is none.
        cache : list of tuple or None
            What was returned for the tokens before these. With it there is one
            token.

        Returns
        -------
        states : torch.Tensor
            From which the scores are made, [batch, tokens, size].
        scores : torch.Tensor
            Of the symbols, before a softmax, [batch, tokens, num_symbols].
        cache : list of tuple
            Keys and values of each layer, [batch, heads, tokens so far, size
            of a head].
        """
        if vector_before is None:
            vector_before = torch.zeros_like(vectors[:, 0])
        heard = torch.cat([vector_before.unsqueeze(1), vectors[:, :-1]], 1)
        said = self.embedding(before) * vectors.shape[2] ** 0.5
        start = 0 if cache is None else cache[0][0].shape[2]
        places = self.positions.pe[:, start : start + vectors.shape[1]]
        x = self.enter(torch.cat([said, heard.to(said.dtype)], 2)) + places
        x, kept = self.dropout(x), []
        for number, layer in enumerate(self.layers):
            x, pair = layer(x, None if cache is None else cache[number])
            kept.append(pair)
        x = torch.cat([self.norm(x), vectors.to(x.dtype)], 2)
        states = self.leave(x)
        return states, self.symbols(states), kept


class DecoderLayer(torch.nn.Module):
    """Attention to the tokens before, and a feed-forward.

    Arguments
    ---------
    size, ffn_size, num_heads : int
    dropout : float
    """

    def __init__(self, size, ffn_size, num_heads, dropout):
        super().__init__()
        self.num_heads = num_heads
        self.norm = torch.nn.LayerNorm(size)
        self.enter = torch.nn.Linear(size, 3 * size)  # query, key, value
        self.leave = torch.nn.Linear(size, size)
        self.dropout = Dropout(dropout)
        self.feed_forward = feed_forward(
            size, ffn_size, torch.nn.ReLU(), dropout
        )

    def forward(self, x, past=None):
        """Returns the tokens, and keys and values of all so far.

        Arguments
        ---------
        x : torch.Tensor
            [batch, tokens, size]; with `past` one token.
        past : tuple or None
            Keys and values of the tokens before.
        """
        query, key, value = (
            y.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for y in self.enter(self.norm(x)).chunk(3, 2)
        )
        if past is not None:
            key = torch.cat([past[0], key], 2)
            value = torch.cat([past[1], value], 2)
        found = torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout.p if self.training else 0.0,
            is_causal=past is None,
        )
        x = x + self.dropout(self.leave(found.transpose(1, 2).flatten(2)))
        return x + self.feed_forward(x), (key, value)
