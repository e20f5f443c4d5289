"""Optimiser: Muon (orthogonalised momentum) for hidden matrices, AdamW for everything else."""
import torch


@torch.compile(dynamic=False, disable=not torch.cuda.is_available())
def orthogonalise(g):
    """Newton-Schulz towards the orthogonal factor of g [K,r,c], r <= c, in bf16 on a GPU."""
    x = g.bfloat16() if g.is_cuda else g.float()
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(5):
        a = x @ x.mT
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return x.float()


def is_hidden_matrix(name, p):
    """Matrices inside sublayers; embeddings, head, routers, gates and tables go to AdamW."""
    leaf = name.rsplit(".", 1)[-1]
    return p.ndim >= 2 and leaf not in ("embed", "output", "router", "fn", "ape", "proj")


class Muon:
    """Momentum lives stacked per shape, so each shape costs a handful of kernels."""

    def __init__(self, named, groups_of, momentum=0.95, decay=0.05):
        self.momentum, self.decay = momentum, decay
        shapes = {}
        for name, p in named:
            r, c = p.shape[-2] // groups_of(name), p.shape[-1]
            shapes.setdefault((min(r, c), max(r, c), r > c), []).append(p)
        self.groups = [(key, ps) for key, ps in sorted(shapes.items(), key=lambda kv: kv[0])]
        self.buffers = [None] * len(self.groups)

    @staticmethod
    def _matrix(t, key):
        """[..] -> [k,r,c] with r <= c."""
        small, large, tall = key
        m = t.reshape(-1, large, small).mT if tall else t.reshape(-1, small, large)
        return m

    @torch.no_grad()
    def step(self, lr):
        for i, (key, ps) in enumerate(self.groups):
            small, large, tall = key
            g = torch.cat([self._matrix(p.grad, key) for p in ps])
            if self.buffers[i] is None:
                self.buffers[i] = torch.zeros_like(g)
            buf = self.buffers[i]
            buf.lerp_(g, 1 - self.momentum)
            u = orthogonalise(g.lerp(buf, self.momentum))
            if tall:
                u = u.mT
            gain = (large / small) ** 0.5 if tall else 1.0
            parts = u.split([p.numel() // (small * large) for p in ps])
            parts = [t.reshape(p.shape).contiguous() for t, p in zip(parts, ps)]
            torch._foreach_mul_(ps, 1 - lr * self.decay)
            torch._foreach_mul_(parts, lr * gain)
            torch._foreach_sub_(ps, parts)

    def state(self):
        return self.buffers

    def load(self, buffers):
        self.buffers = buffers


class Optimiser:
    """Both halves with one schedule factor; the rates are device tensors, so a step can be a CUDA graph."""

    def __init__(self, model, lr_muon=0.012, lr_embed=4e-3, lr_gate=5e-4, lr_rest=2e-3):
        named = list(model.named_parameters())
        hidden = [(n, p) for n, p in named if is_hidden_matrix(n, p)]
        rest = [(n, p) for n, p in named if not is_hidden_matrix(n, p)]
        groups = model.c.n_out_group
        self.muon = Muon(hidden, lambda n: groups if n.endswith("out_a") else 1)
        self.bases = (lr_embed, lr_gate, lr_rest, lr_muon)
        self.rates = [torch.zeros((), device=model.embed.device) for _ in self.bases]
        kinds = [[], [], []]                                   # embedding, gates on normed inputs, the rest
        for n, p in rest:
            leaf = n.rsplit(".", 1)[-1]
            kinds[0 if n == "embed" else 1 if leaf in ("fn", "router", "proj") else 2].append(p)
        gpu = model.embed.is_cuda
        self.adam = torch.optim.AdamW([{"params": k, "lr": r} for k, r in zip(kinds, self.rates)], lr=self.rates[0],
                                      betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=gpu, capturable=gpu)

    def set_rate(self, factor):
        for rate, base in zip(self.rates, self.bases):
            rate.fill_(base * factor)

    def step(self):
        self.adam.step()
        self.muon.step(self.rates[3])

    def state(self):
        return {"muon": self.muon.state(), "adam": self.adam.state_dict()["state"]}

    def load(self, s):
        self.muon.load(s["muon"])
        whole = self.adam.state_dict()
        whole["state"] = s["adam"]
        self.adam.load_state_dict(whole)
        for g, rate in zip(self.adam.param_groups, self.rates):
            g["lr"] = rate
