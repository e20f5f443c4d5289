"""nano in PyTorch: the whole DeepSeek V4 Flash architecture, vectorised over full sequences for training.

Numbers in comments such as "§2.6" refer to the sections of the architecture's description in the
repository's documents. Shapes: B sequences, T tokens (a multiple of 128), D hidden, S streams, H heads, d head
width, R compressed rows, N experts. Matrices are stored [out, in] as in the checkpoint.

`dtype` is the type of the matrix products: bf16 for training, f32 for comparisons. Norms, gates, softmax and
rounding simulations are always f32.
"""
import math
from dataclasses import dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F

from sinkhorn import sinkhorn

CHUNK = 128  # query block of the windowed attention; equals the window


@dataclass
class Config:
    """Shape and constants; field names follow `Dims` of the engine."""
    n_layer: int = 8
    ratios: list = field(default_factory=lambda: [0, 0, 4, 128, 4, 128, 4, 128])
    n_embd: int = 256
    n_vocab: int = 4096
    n_head: int = 4
    head_dim: int = 160
    rope_dim: int = 32
    q_rank: int = 128
    n_out_group: int = 2
    out_rank: int = 128
    window: int = 128
    n_index_head: int = 4
    index_dim: int = 128
    index_top_k: int = 128
    n_expert: int = 4
    n_expert_used: int = 2
    n_ff: int = 256
    n_hash_layer: int = 3
    expert_scale: float = 1.5
    swiglu_clamp: float = 10.0
    n_hc: int = 4
    sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_eps: float = 1e-6
    rope_base: float = 10000.0
    rope_base_comp: float = 160000.0
    yarn_factor: float = 16.0
    yarn_ctx: int = 65536
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    ctx_max: int = 1048576


@dataclass
class Mode:
    """How a pass runs: what is simulated, how rows are chosen, which losses are collected."""
    dtype: torch.dtype = torch.bfloat16
    sim: bool = True          # FP8 rows and FP4 index vectors (straight-through in training)
    sparse: bool = True       # attend to the indexer's top-k rows only; False: all rows (dense warm-up)
    exact_ties: bool = False  # ties of the top-k go to the lower row, as the engine does
    index_loss: bool = False  # collect the indexer's distillation loss
    quant: object = None      # 0-dim tensor 0..1: share of a 4-bit rounding of the routed experts
    window: object = None     # i64 [B]: tokens each sequence sees directly, at most the model's window (training)
    free: object = None       # bool [B]: sequences that attend to every row all the same (training)
    focus: object = None      # f32 [B,T]: weight of each position in the indexer's loss (training)
    probe: object = None      # list that collects (rows' share of the attention [B,T,H], chosen rows [B,T,R])


# ---------------------------------------------------------------- elementary operations
def rms(x, eps):
    """x / sqrt(mean(x^2) + eps) over the last axis, f32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def linear(x, w, dt):
    """x W^T in the product type."""
    return F.linear(x.to(dt), w.to(dt))


def rope_freqs(c, compressed):
    """Angles per position of the rope_dim/2 interleaved pairs (§2.5), f64 rounded to f32."""
    base = c.rope_base_comp if compressed else c.rope_base
    i = torch.arange(c.rope_dim // 2, dtype=torch.float64)
    f = base ** (-2 * i / c.rope_dim)
    if not compressed:
        return f.float()
    corr = lambda n: c.rope_dim * math.log(c.yarn_ctx / (2 * math.pi * n)) / (2 * math.log(base))
    low = max(0.0, math.floor(corr(c.yarn_beta_fast)))
    high = min(c.rope_dim - 1.0, math.ceil(corr(c.yarn_beta_slow)))
    ramp = ((i - low) / max(1e-3, high - low)).clamp(0, 1)
    return (f / c.yarn_factor * ramp + f * (1 - ramp)).float()


def rope(x, cos, sin):
    """Rotate the interleaved pairs of the last 2*cos.shape[-1] channels; cos/sin broadcast over x[..., pairs]."""
    n = 2 * cos.shape[-1]
    head, tail = x[..., :-n], x[..., -n:]
    a, b = tail[..., 0::2], tail[..., 1::2]
    out = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    return torch.cat((head, out), -1)


def pow2_scale(amax, top):
    """2^ceil(log2(amax/top)), exact: the exponent bits of amax * f32(1/top), one up if any mantissa bit is set."""
    bits = (amax * (1.0 / top)).view(torch.int32)
    return (((bits >> 23) + ((bits & 0x7FFFFF) != 0)) << 23).view(torch.float32)


def straight_through(x, q):
    """q forward, identity backward."""
    return x + (q - x).detach()


def fp8_rows(x, rope_dim):
    """E4M3 round trip of all but the rotated channels in blocks of 64 (§6.9)."""
    nope, tail = x[..., :-rope_dim], x[..., -rope_dim:]
    b = nope.detach().unflatten(-1, (-1, 64))
    s = pow2_scale(b.abs().amax(-1, keepdim=True).clamp_min(1e-4), 448.0)
    q = ((b / s).clamp(-448, 448).to(torch.float8_e4m3fn).float() * s).flatten(-2)
    return torch.cat((straight_through(nope, q), tail), -1)


def e2m1(v):
    """Nearest of 0, .5, 1, 1.5, 2, 3, 4, 6 with sign, ties to the even code (§6.10); v within +-6."""
    a = v.abs()
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    return torch.copysign(torch.round(a / step) * step, v)  # round is half-to-even in units of the step


def fp4_index(x, hadamard):
    """Hadamard transform, then E2M1 round trip in blocks of 32 (§2.8)."""
    y = x @ hadamard
    b = y.detach().unflatten(-1, (-1, 32))
    s = pow2_scale(b.abs().amax(-1, keepdim=True).clamp_min(6 * 2.0 ** -126), 6.0)
    return straight_through(y, (e2m1((b / s).clamp(-6, 6)) * s).flatten(-2))


def fake_q4(w, share):
    """4-bit affine rounding in groups of 32 inputs, like Q4_K's inner blocks; straight-through.

    `share` blends the rounding in without another compiled graph.
    """
    b = w.detach().unflatten(-1, (-1, 32))
    low = b.amin(-1, keepdim=True).clamp_max(0)
    step = (b.amax(-1, keepdim=True).clamp_min(0) - low).clamp_min(1e-8) / 15
    return w + (((((b - low) / step).round() * step + low).flatten(-2) - w) * share).detach()


def hadamard_matrix(n):
    """Sylvester order, orthonormal."""
    h = torch.ones(1, 1)
    while h.shape[0] < n:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)), 0)
    return h / math.sqrt(n)


class Rope:
    """cos/sin of every position for both frequency sets, [T, rope_dim/2] f32."""

    def __init__(self, c, n, device):
        pos = torch.arange(n, dtype=torch.float32)
        self.tables = {}
        for compressed in (False, True):
            angle = (pos[:, None] * rope_freqs(c, compressed)[None]).double()
            self.tables[compressed] = (angle.cos().float().to(device), angle.sin().float().to(device))


# ---------------------------------------------------------------- hyper-connections
def hc_mix(c, x, fn, dt):
    """The gate inputs fn . rms(flat(X)) for X [B,T,S,D] -> [B,T,out] f32."""
    flat = x.flatten(-2)
    scale = torch.rsqrt(flat.float().square().mean(-1, keepdim=True) + c.rms_eps)
    return linear(flat, fn, dt).float() * scale


def weigh_streams(w, x):
    """sum_h w[h] X[h] without a matrix product, f32."""
    return sum(w[..., h, None] * x[..., h, :].float() for h in range(x.shape[-2]))


class HyperConnection(nn.Module):
    """hc_pre and hc_post of one sublayer (§2.2, §2.3)."""

    def __init__(self, c):
        super().__init__()
        n = c.n_hc
        self.c = c
        self.fn = nn.Parameter(torch.randn(2 * n + n * n, n * c.n_embd) * 0.01)
        self.scale = nn.Parameter(torch.ones(3))
        base = torch.randn(2 * n + n * n) * 0.3
        base[:n] -= 1.1                                   # sigmoid(-1.1) = 1/4: the streams' mean
        base[2 * n:] += 3.0 * torch.eye(n).flatten()      # near the identity: streams keep apart
        self.base = nn.Parameter(base)

    def pre(self, x, dt):
        """X -> sublayer input [B,T,D] f32, post [B,T,S], comb [B,T,S,S]."""
        c, n = self.c, self.c.n_hc
        m = hc_mix(c, x, self.fn, dt)
        pre = torch.sigmoid(m[..., :n] * self.scale[0] + self.base[:n]) + c.hc_eps
        post = 2 * torch.sigmoid(m[..., n:2 * n] * self.scale[1] + self.base[n:2 * n])
        comb = (m[..., 2 * n:] * self.scale[2] + self.base[2 * n:]).unflatten(-1, (n, n))
        return weigh_streams(pre, x), post, sinkhorn(comb, c.sinkhorn_iters, c.hc_eps)

    @staticmethod
    def post(y, x, post, comb):
        """X'[k] = post[k] y + sum_j comb[j][k] X[j]: the sum runs over the source stream."""
        n = x.shape[-2]
        out = post[..., None] * y.float()[..., None, :]
        for j in range(n):
            out = out + comb[..., j, :, None] * x[..., j, None, :].float()
        return out.to(x.dtype)


# ---------------------------------------------------------------- compressor
class Compressor(nn.Module):
    """Pools r tokens (2r with overlap when r = 4) into one row, per channel (§2.7)."""

    def __init__(self, c, ratio, dim):
        super().__init__()
        self.c, self.ratio, self.dim = c, ratio, dim
        width = dim * (2 if ratio == 4 else 1)
        self.kv = nn.Parameter(torch.randn(width, c.n_embd) * c.n_embd ** -0.5)
        self.gate = nn.Parameter(torch.randn(width, c.n_embd) * 0.3 * c.n_embd ** -0.5)
        ape = torch.randn(ratio, width) * 0.3
        if ratio == 4:
            # An attention row starts as four groups of channels that each keep one of its own tokens, so that
            # a head can match a token and copy what stands beside it; an index row as their mean, so that a
            # key matches wherever it stands. Lane A, the previous window, starts low.
            kept = dim - c.rope_dim if dim == c.head_dim else 0
            at = torch.arange(width) % dim
            slot = torch.where(at < kept, at * ratio // max(1, kept), -1)
            ape += 3.0 * (slot[None] == torch.arange(ratio)[:, None])
            ape[:, :dim] = ape[:, :dim] * 0.1 - 1.5
        self.ape = nn.Parameter(ape)
        # Queries have no gain of their own: rows of gain 1 could not be told apart sharply enough to be chosen.
        self.norm = nn.Parameter(torch.full((dim,), 2.0 if ratio == 4 else 1.0))

    def forward(self, x, cos, sin, dt):
        """x [B,T,D] -> rows [B,T/r,dim], f32, normed and rotated at the window's first position."""
        r, d = self.ratio, self.dim
        kv = linear(x, self.kv, dt).float().unflatten(1, (-1, r))
        sc = linear(x, self.gate, dt).float().unflatten(1, (-1, r)) + self.ape
        if r == 4:  # lane A pools the previous window, lane B this one
            pad = lambda t, v: torch.cat((torch.full_like(t[:, :1], v), t[:, :-1]), 1)
            kv = torch.cat((pad(kv[..., :d], 0.0), kv[..., d:]), 2)
            sc = torch.cat((pad(sc[..., :d], -1e30), sc[..., d:]), 2)
        rows = (torch.softmax(sc, 2) * kv).sum(2)
        rows = rms(rows, self.c.rms_eps) * self.norm
        n = rows.shape[1] * r
        return rope(rows, cos[:n:r], sin[:n:r])


# ---------------------------------------------------------------- attention
class Indexer(nn.Module):
    """Scores the compressed rows of a ratio-4 layer for every token (§2.8)."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_b = nn.Parameter(torch.randn(c.n_index_head * c.index_dim, c.q_rank) * c.q_rank ** -0.5)
        self.proj = nn.Parameter(torch.randn(c.n_index_head, c.n_embd) * c.n_embd ** -0.5)
        self.comp = Compressor(c, 4, c.index_dim)
        self.register_buffer("hadamard", hadamard_matrix(c.index_dim), persistent=False)

    def forward(self, x, qr, cos, sin, mode):
        """x [B,T,D], qr [B,T,q_rank] -> scores [B,T,R] f32, unmasked."""
        c, dt = self.c, mode.dtype
        rows = self.comp(x, cos, sin, dt)
        q = linear(qr, self.q_b, dt).float().unflatten(-1, (c.n_index_head, c.index_dim))
        q = rope(q, cos[:, None], sin[:, None])
        if mode.sim:
            rows, q = fp4_index(rows, self.hadamard), fp4_index(q, self.hadamard)
        w = linear(x, self.proj, dt).float() * (c.index_dim * c.n_index_head) ** -0.5
        dots = torch.matmul(q.to(dt).flatten(1, 2), rows.to(dt).mT).unflatten(1, q.shape[1:3])
        return sum(w[:, :, h, None] * dots[:, :, h].float().relu() for h in range(c.n_index_head))


def top_rows(score, k, exact):
    """Mask of the k largest scores of each row of score [B,T,R] (-inf: not visible)."""
    k = min(k, score.shape[-1])
    if exact:
        idx = torch.sort(score, dim=-1, descending=True, stable=True).indices[..., :k]
    else:
        idx = torch.topk(score, k, dim=-1, sorted=False).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, idx, True)


class Attention(nn.Module):
    """Windowed attention over shared K=V rows plus compressed rows, with sinks (§2.6)."""

    def __init__(self, c, ratio):
        super().__init__()
        self.c, self.ratio = c, ratio
        init = lambda out, inn, g=1.0: nn.Parameter(torch.randn(out, inn) * g * inn ** -0.5)
        self.q_a = init(c.q_rank, c.n_embd)
        self.q_a_norm = nn.Parameter(torch.ones(c.q_rank))
        self.q_b = init(c.n_head * c.head_dim, c.q_rank)
        self.kv = init(c.head_dim, c.n_embd)
        self.kv_norm = nn.Parameter(torch.ones(c.head_dim))
        self.sinks = nn.Parameter(torch.zeros(c.n_head))
        self.out_a = init(c.n_out_group * c.out_rank, c.n_head * c.head_dim // c.n_out_group)
        self.out_b = init(c.n_embd, c.n_out_group * c.out_rank, 0.3)
        self.comp = Compressor(c, ratio, c.head_dim) if ratio else None
        self.index = Indexer(c) if ratio == 4 else None

    def queries(self, x, cos, sin, dt):
        c = self.c
        qr = rms(linear(x, self.q_a, dt), c.rms_eps) * self.q_a_norm
        q = rms(linear(qr, self.q_b, dt).unflatten(-1, (c.n_head, c.head_dim)), c.rms_eps)
        return qr, rope(q, cos[:, None], sin[:, None])

    def choose(self, x, qr, cos, sin, mode, seen):
        """Index scores [B,T,R] (or None) and the mask of rows each token may attend to."""
        if self.index is None or not (mode.sparse or mode.index_loss):
            return None, seen
        score = self.index(x.detach(), qr.detach(), cos, sin, mode)
        if not mode.sparse or score.shape[-1] <= self.c.index_top_k:
            return score, seen
        masked = torch.where(seen, score.detach(), -torch.inf)
        chosen = top_rows(masked, self.c.index_top_k, mode.exact_ties)
        if mode.free is not None:
            chosen = chosen | mode.free[:, None, None]
        return score, seen & chosen

    def forward(self, x, tables, mode):
        """x [B,T,D] normed -> ([B,T,D], indexer loss)."""
        c, dt, (b, t, _) = self.c, mode.dtype, x.shape
        cos, sin = (a[:t] for a in tables[self.ratio != 0])
        qr, q = self.queries(x, cos, sin, dt)
        kv = rope(rms(linear(x, self.kv, dt), c.rms_eps) * self.kv_norm, cos, sin)
        if mode.sim:
            kv = fp8_rows(kv, c.rope_dim)
        n = t // CHUNK
        # keys of query block i: raw blocks i-1 and i, then every compressed row
        keys = F.pad(kv.to(dt), (0, 0, CHUNK, 0)).unfold(1, 2 * CHUNK, CHUNK).mT
        i, j = torch.arange(CHUNK, device=x.device)[:, None], torch.arange(2 * CHUNK, device=x.device)[None]
        block = torch.arange(n, device=x.device)[:, None, None]
        ok = (j > i) & (j <= i + CHUNK) & ((block > 0) | (j >= CHUNK))        # [n,128,256]
        ok, score, seen = ok[None].expand(b, -1, -1, -1), None, None
        if mode.window is not None:
            ok = ok & (j > i + CHUNK - mode.window[:, None, None, None])
        if self.ratio:
            rows = self.comp(x, cos, sin, dt)
            if mode.sim:
                rows = fp8_rows(rows, c.rope_dim)
            r = rows.shape[1]
            pos, row = torch.arange(t, device=x.device), torch.arange(r, device=x.device)
            seen = (row[None] < ((pos + 1) // self.ratio)[:, None])[None].expand(b, -1, -1)
            score, seen = self.choose(x, qr, cos, sin, mode, seen)
            keys = torch.cat((keys, rows.to(dt)[:, None].expand(-1, n, -1, -1)), 2)
            ok = torch.cat((ok, seen.unflatten(1, (n, CHUNK))), -1)
        # one product per block: all heads of 128 queries against the block's keys
        qb = q.to(dt).reshape(b * n, CHUNK * c.n_head, c.head_dim)
        kb = keys.reshape(b * n, -1, c.head_dim)
        s = torch.bmm(qb, kb.mT).float() * c.head_dim ** -0.5
        s = s.unflatten(1, (CHUNK, c.n_head)).masked_fill(~ok.flatten(0, 1)[:, :, None], -1e30)
        sink = self.sinks[None, None, :, None]
        top = torch.maximum(s.amax(-1, keepdim=True), sink).detach()
        e = torch.exp(s - top)
        p = e / (e.sum(-1, keepdim=True) + torch.exp(sink - top))
        o = torch.bmm(p.to(dt).flatten(1, 2), kb).float().view(b, t, c.n_head, c.head_dim)
        loss = x.new_zeros(())
        if score is not None and mode.index_loss:
            loss = self.index_loss(p, score, seen, x.new_ones(b, t).float() if mode.focus is None else mode.focus)
        if mode.probe is not None and self.index is not None:
            mode.probe.append((p[..., 2 * CHUNK:].sum(-1).view(b, t, -1), seen))
        o = rope(o, cos[:, None], -sin[:, None]).view(b, t, c.n_out_group, -1).to(dt)
        wa = self.out_a.to(dt).unflatten(0, (c.n_out_group, c.out_rank))
        low = torch.einsum("btgi,goi->btgo", o, wa).flatten(-2)
        return linear(low, self.out_b, dt), loss

    @staticmethod
    def index_loss(p, score, seen, focus):
        """KL(attention over compressed rows || softmax of the index scores), mean over positions.

        Each position counts by its focus and by the share of its attention that rows get: where rows are
        needed, the scores have to be right. Only the indexer learns from it: p is taken as given.
        """
        p = p.detach()[..., 2 * CHUNK:].mean(2).view(*focus.shape, -1)
        mass = p.sum(-1, keepdim=True).clamp_min(1e-9)
        logq = torch.log_softmax(score.masked_fill(~seen, -1e30), -1)
        kl = (p * ((p / mass).clamp_min(1e-9).log() - logq)).masked_fill(~seen, 0).sum(-1)
        return (kl * focus).sum() / focus.sum().clamp_min(1e-6)


# ---------------------------------------------------------------- experts
class Experts(nn.Module):
    """Routed and shared experts (§2.9), all computed as one wide masked network: there are only a few."""

    def __init__(self, c, hash_routed):
        super().__init__()
        self.c = c
        init = lambda *s, g=1.0: nn.Parameter(torch.randn(*s) * g * s[-1] ** -0.5)
        n, ff, d = c.n_expert, c.n_ff, c.n_embd
        self.router = init(n, d)
        self.gate, self.up, self.down = init(n, ff, d), init(n, ff, d), init(n, d, ff, g=0.3)
        self.sh_gate, self.sh_up, self.sh_down = init(ff, d), init(ff, d), init(d, ff, g=0.3)
        self.register_buffer("bias", torch.zeros(n))
        self.register_buffer("is_hash", torch.tensor(hash_routed))
        table = torch.rand(c.n_vocab, n).argsort(-1)[:, :c.n_expert_used] if hash_routed else \
            torch.zeros(c.n_vocab, c.n_expert_used, dtype=torch.long)
        self.register_buffer("table", table.to(torch.int32))

    def route(self, x, tokens):
        """Weights of all experts [B,T,N] (0: not chosen) and the load [N]."""
        c = self.c
        score = F.softplus(F.linear(x.float(), self.router)).sqrt()
        s = (score + self.bias).detach()
        lower = torch.arange(c.n_expert, device=x.device)
        beats = (s[..., None, :] > s[..., None]) | ((s[..., None, :] == s[..., None]) & (lower < lower[:, None]))
        best = beats.sum(-1) < c.n_expert_used            # lower index wins ties
        named = (self.table[tokens][..., None] == lower).any(-2)
        chosen = torch.where(self.is_hash, named, best)
        w = score * chosen
        return w * (c.expert_scale / w.sum(-1, keepdim=True).clamp_min(2.0 ** -14)), chosen.float().mean((0, 1))

    def forward(self, x, tokens, mode):
        """x [B,T,D] normed, tokens [B,T] -> ([B,T,D], load [N])."""
        c, dt, lim = self.c, mode.dtype, self.c.swiglu_clamp
        w, load = self.route(x, tokens)
        q = (lambda t: t) if mode.quant is None else (lambda t: fake_q4(t, mode.quant))
        gate = torch.cat((q(self.gate).flatten(0, 1), self.sh_gate))
        up = torch.cat((q(self.up).flatten(0, 1), self.sh_up))
        down = torch.cat((q(self.down).permute(1, 0, 2).flatten(1), self.sh_down), 1)
        a = linear(x, gate, dt).float().clamp_max(lim)
        u = linear(x, up, dt).float().clamp(-lim, lim)
        w = torch.cat((w, torch.ones_like(w[..., :1])), -1)
        mid = (F.silu(a) * u).unflatten(-1, (c.n_expert + 1, c.n_ff)) * w[..., None]
        return linear(mid.flatten(-2), down, dt), load


# ---------------------------------------------------------------- the model
class Block(nn.Module):
    """One layer: attention and experts, each inside its hyper-connection (§2.4)."""

    def __init__(self, c, ratio, hash_routed):
        super().__init__()
        self.c = c
        self.hc_attn, self.hc_ffn = HyperConnection(c), HyperConnection(c)
        self.attn_norm, self.ffn_norm = nn.Parameter(torch.ones(c.n_embd)), nn.Parameter(torch.ones(c.n_embd))
        self.attn, self.ffn = Attention(c, ratio), Experts(c, hash_routed)

    def attend(self, x, tables, mode):
        h, post, comb = self.hc_attn.pre(x, mode.dtype)
        y, loss = self.attn((rms(h, self.c.rms_eps) * self.attn_norm).to(mode.dtype), tables, mode)
        return self.hc_attn.post(y, x, post, comb), loss

    def feed(self, x, tokens, mode):
        h, post, comb = self.hc_ffn.pre(x, mode.dtype)
        y, load = self.ffn((rms(h, self.c.rms_eps) * self.ffn_norm), tokens, mode)
        return self.hc_ffn.post(y, x, post, comb), load

    def forward(self, x, tokens, tables, mode):
        b, t = tokens.shape
        x, loss = self.attend(x, tables, mode)
        # one flat sequence: the compiled code of this half serves every length
        x, load = self.feed(x.flatten(0, 1)[None], tokens.reshape(1, -1), mode)
        return x.view(b, t, *x.shape[2:]), loss, load


class HcHead(nn.Module):
    """Collapses the streams before the output norm (§2.10)."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.fn = nn.Parameter(torch.randn(c.n_hc, c.n_hc * c.n_embd) * 0.01)
        self.scale = nn.Parameter(torch.ones(1))
        self.base = nn.Parameter(torch.randn(c.n_hc) * 0.3 - 1.1)

    def forward(self, x, norm, dt):
        w = torch.sigmoid(hc_mix(self.c, x, self.fn, dt) * self.scale + self.base) + self.c.hc_eps
        return rms(weigh_streams(w, x), self.c.rms_eps) * norm


class Mtp(nn.Module):
    """Predicts t_{p+2} from the trunk's state at p and t_{p+1} (§4)."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.enorm, self.hnorm = nn.Parameter(torch.ones(c.n_embd)), nn.Parameter(torch.ones(c.n_embd))
        self.norm = nn.Parameter(torch.ones(c.n_embd))
        self.e_proj = nn.Parameter(torch.randn(c.n_embd, c.n_embd) * c.n_embd ** -0.5)
        self.h_proj = nn.Parameter(torch.randn(c.n_embd, c.n_embd) * c.n_embd ** -0.5)
        self.block, self.head = Block(c, 0, False), HcHead(c)

    def enter(self, x, emb, mode):
        e = linear(rms(emb, self.c.rms_eps) * self.enorm, self.e_proj, mode.dtype)
        h = linear(rms(x, self.c.rms_eps) * self.hnorm, self.h_proj, mode.dtype)
        return (e[..., None, :] + h).to(x.dtype)


class Nano(nn.Module):
    """Trunk, output head and MTP block."""

    def __init__(self, c, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.c = c
        self.embed = nn.Parameter(torch.randn(c.n_vocab, c.n_embd) * 0.7)
        self.layers = nn.ModuleList(Block(c, c.ratios[i], i < c.n_hash_layer) for i in range(c.n_layer))
        self.hc_head, self.norm = HcHead(c), nn.Parameter(torch.ones(c.n_embd))
        self.output = nn.Parameter(torch.randn(c.n_vocab, c.n_embd) * 0.5 * c.n_embd ** -0.5)
        self.mtp = Mtp(c)

    def trunk(self, tokens, tables, mode):
        """tokens [B,T] -> (state [B,T,S,D], indexer loss summed over layers, loads [L,N])."""
        emb = F.embedding(tokens, self.embed).to(mode.dtype)
        x = emb[..., None, :].expand(-1, -1, self.c.n_hc, -1).contiguous()
        loss, loads = 0.0, []
        for layer in self.layers:
            x, l, load = layer(x, tokens, tables, mode)
            loss, loads = loss + l, loads + [load]
        return x, loss, torch.stack(loads)

    def draft(self, x, following, tables, mode):
        """State [B,T,S,D] and the tokens after each position -> (state, load [N])."""
        emb = F.embedding(following, self.embed)
        y = self.mtp.enter(x.flatten(0, 1), emb.flatten(0, 1), mode).view(x.shape)
        y, _, load = self.mtp.block(y, following, tables, mode)
        return y, load

    def logits(self, x, mode, mtp=False):
        """State -> logits [B,T,V] in the product type."""
        head, norm = (self.mtp.head, self.mtp.norm) if mtp else (self.hc_head, self.norm)
        return linear(head(x, norm, mode.dtype), self.output, mode.dtype)

    def forward(self, tokens, tables, mode):
        """tokens [B,T] -> logits [B,T,V] of the trunk."""
        x, _, _ = self.trunk(tokens, tables, mode)
        return self.logits(x, mode)


def parameters_of(model):
    """Trained values, tables not counted."""
    return sum(p.numel() for p in model.parameters())
