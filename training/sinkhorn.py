"""Sinkhorn normalisation of the hyper-connection mix, as one GPU kernel each way (architecture: 20 iterations).

`sinkhorn(logits, iters, eps)` maps [..., 4, 4] f32 logits to nearly doubly stochastic matrices: a row softmax
plus eps, a column normalisation, then iters-1 further row/column pairs. On the CPU plain tensor operations
(with exact autograd) do the same.

The backward pass uses the converged form: for C = diag(u) exp(L) diag(v) with unit row and column sums,
dL = C * (G - a 1' - 1 b'), where a and b make the rows and columns of dL sum to zero. They are found by the
same alternation as the forward pass, so twenty rounds are as converged as the forward pass itself.
"""
import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU-only machine
    triton = None


def sinkhorn_plain(logits, iters, eps):
    """The defining loop; differentiable."""
    c = torch.softmax(logits, -1) + eps
    c = c / (c.sum(-2, keepdim=True) + eps)
    for _ in range(iters - 1):
        c = c / (c.sum(-1, keepdim=True) + eps)
        c = c / (c.sum(-2, keepdim=True) + eps)
    return c


def backward_plain(c, grad, iters):
    """dL of the implicit form described above."""
    cg = c * grad
    row, col = cg.sum(-1, keepdim=True), cg.sum(-2, keepdim=True)
    a, b = torch.zeros_like(row), torch.zeros_like(col)
    for _ in range(iters):
        b = col - (c * a).sum(-2, keepdim=True)
        a = row - (c * b).sum(-1, keepdim=True)
    return cg - c * (a + b)


if triton is not None:
    @triton.jit
    def _offsets(n, BLOCK: tl.constexpr):
        rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        i = tl.arange(0, 4)
        offs = rows[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]
        return offs, (rows < n)[:, None, None] & (i[None, :, None] >= 0) & (i[None, None, :] >= 0)

    @triton.jit
    def _forward_kernel(x, y, n, iters: tl.constexpr, eps: tl.constexpr, BLOCK: tl.constexpr):
        offs, ok = _offsets(n, BLOCK)
        c = tl.load(x + offs, mask=ok, other=0.0)
        c = tl.exp(c - tl.max(c, axis=2, keep_dims=True))
        c = c / tl.sum(c, axis=2, keep_dims=True) + eps
        c = c / (tl.sum(c, axis=1, keep_dims=True) + eps)
        for _ in range(iters - 1):
            c = c / (tl.sum(c, axis=2, keep_dims=True) + eps)
            c = c / (tl.sum(c, axis=1, keep_dims=True) + eps)
        tl.store(y + offs, c, mask=ok)

    @triton.jit
    def _backward_kernel(c_ptr, g_ptr, out, n, iters: tl.constexpr, BLOCK: tl.constexpr):
        offs, ok = _offsets(n, BLOCK)
        c = tl.load(c_ptr + offs, mask=ok, other=0.25)
        cg = c * tl.load(g_ptr + offs, mask=ok, other=0.0)
        row = tl.sum(cg, axis=2, keep_dims=True)
        col = tl.sum(cg, axis=1, keep_dims=True)
        a = row * 0.0
        b = col * 0.0
        for _ in range(iters):
            b = col - tl.sum(c * a, axis=1, keep_dims=True)
            a = row - tl.sum(c * b, axis=2, keep_dims=True)
        tl.store(out + offs, cg - c * (a + b), mask=ok)

BLOCK = 128


@torch.library.custom_op("nano::sinkhorn", mutates_args=())
def _sinkhorn_op(logits: torch.Tensor, iters: int, eps: float) -> torch.Tensor:
    x = logits.contiguous()
    y = torch.empty_like(x)
    n = x.numel() // 16
    _forward_kernel[(triton.cdiv(n, BLOCK),)](x, y, n, iters, eps, BLOCK)
    return y


@_sinkhorn_op.register_fake
def _(logits, iters, eps):
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


@torch.library.custom_op("nano::sinkhorn_backward", mutates_args=())
def _sinkhorn_backward_op(c: torch.Tensor, grad: torch.Tensor, iters: int) -> torch.Tensor:
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    n = c.numel() // 16
    _backward_kernel[(triton.cdiv(n, BLOCK),)](c, grad, out, n, iters, BLOCK)
    return out


@_sinkhorn_backward_op.register_fake
def _(c, grad, iters):
    return torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(output)
    ctx.iters = inputs[1]


def _backward(ctx, grad):
    (c,) = ctx.saved_tensors
    return torch.ops.nano.sinkhorn_backward(c, grad, ctx.iters), None, None


_sinkhorn_op.register_autograd(_backward, setup_context=_setup)


def sinkhorn(logits, iters, eps):
    """[..., 4, 4] f32 logits -> [..., 4, 4] f32; the kernel on CUDA, the plain loop elsewhere."""
    if logits.is_cuda:
        return torch.ops.nano.sinkhorn(logits, iters, eps)
    return sinkhorn_plain(logits, iters, eps)
