"""A small GPT on characters of the standard library's docstrings: AdamW in two groups, clipping, warm-up, cosine."""

import argparse
import ast
import math
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope

parser = argparse.ArgumentParser()
parser.add_argument("--weight-decay", type=float, default=0.1)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--init-std", type=float, default=0.02)
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--out", default="run.h5")
args = parser.parse_args()


def docs() -> str:
    text = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
        parts = (node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        text += [ast.get_docstring(node) or "" for node in parts]
    return "\n".join(text)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.attn(self.ln_1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.proj(y)
        added: Tensor = x + self.mlp(self.ln_2(x))
        return added


class GPT(nn.Module):
    def __init__(self, vocab: int, context: int, width: int = 64) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, 0.0, args.init_std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        logits = self.lm_head(self.ln_f(self.blocks(x)))
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


torch.manual_seed(0)
text = docs()
chars = sorted(set(text))
data = torch.tensor([chars.index(c) for c in text])
train, val = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]
context = 64


def get_batch(part: Tensor, size: int = 24) -> tuple[Tensor, Tensor]:
    at = torch.randint(len(part) - context - 1, (size,))
    return torch.stack([part[i : i + context] for i in at]), torch.stack([part[i + 1 : i + context + 1] for i in at])


model = GPT(len(chars), context)
decay = [p for p in model.parameters() if p.dim() >= 2]
no_decay = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW(
    [{"params": decay, "weight_decay": args.weight_decay}, {"params": no_decay, "weight_decay": 0.0}],
    lr=args.lr,
    betas=(0.9, 0.95),
)


def rate(step: int) -> float:
    if step < 60:
        return (step + 1) / 60
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 60) / (args.steps - 60)))


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
run = gradscope.record(model, optimizer, args.out)
for _ in range(args.steps):
    _, loss = model(*get_batch(train))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    run.log(loss=loss.item())
run.close()
model.eval()
with torch.no_grad():
    val_loss = sum(model(*get_batch(val))[1].item() for _ in range(20)) / 20
share = torch.bincount(val, minlength=len(chars)).double()
share = share[share > 0] / share.sum()
print(f"val_loss {val_loss:.3f}, entropy of the characters {-(share * share.log()).sum():.3f}")
