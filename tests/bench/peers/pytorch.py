"""The peer of `cargo xtask bench step` on the processor: the same GPT in PyTorch, one thread, with its fused AdamW.

Reads lines `PRESET COUNT` and answers each with the seconds of processor time that COUNT steps took, so that the driver
can let contenders take turns. Prints its version first.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

# Vocabulary, context, layers, heads, width, sequences.
PRESETS = {"tiny": (65, 64, 3, 4, 64, 8), "mini": (65, 64, 4, 4, 128, 4)}
BATCHES = 16


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        rows, length, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, dim=2)
        q, k, v = (p.view(rows, length, self.heads, width // self.heads).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocabulary, context, layers, heads, width):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs, targets):
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Contender:
    def __init__(self, vocabulary, context, layers, heads, width, sequences):
        self.model = Gpt(vocabulary, context, layers, heads, width)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
        self.batches = [torch.randint(vocabulary, (sequences, context + 1)) for _ in range(BATCHES)]
        self.taken = 0

    def step(self):
        batch = self.batches[self.taken % BATCHES]
        self.taken += 1
        loss = self.model(batch[:, :-1], batch[:, 1:])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    contenders = {name: Contender(*sizes) for name, sizes in PRESETS.items()}
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        name, count = line.split()
        start = time.thread_time()
        for _ in range(int(count)):
            contenders[name].step()
        print(time.thread_time() - start, flush=True)


main()
