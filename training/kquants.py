"""Q4_K encoder: 256 values in 8 sub-blocks of 32 with 6-bit scales and minima (y = d*S*q - dmin*M)."""
import numpy as np


def _fit(b, steps=20):
    """Scale and minimum (>= 0, subtracted) of each row of b [n,32] by a search over step sizes with least squares."""
    low = np.minimum(b.min(-1), 0)
    span = np.maximum(b.max(-1) - low, 1e-12)
    best = np.full(len(b), np.inf)
    scale, minimum = span / 15, -low
    for k in range(steps + 1):
        inv = (15 - 1.5 + 3.0 * k / steps) / span
        q = np.clip(np.rint((b - low[:, None]) * inv[:, None]), 0, 15)
        sq, sb = q.sum(-1), b.sum(-1)
        sqq, sqb = (q * q).sum(-1), (q * b).sum(-1)
        det = 32 * sqq - sq * sq
        s = np.where(det > 0, (32 * sqb - sq * sb) / np.where(det > 0, det, 1), 0)
        m = (s * sq - sb) / 32                                  # y = s q - m
        alone = np.where(sqq > 0, sqb / np.where(sqq > 0, sqq, 1), 0)
        s, m = np.where(m < 0, alone, s), np.maximum(m, 0)
        err = ((s[:, None] * q - m[:, None] - b) ** 2).sum(-1)
        better = (err < best) & (s > 0)
        best = np.where(better, err, best)
        scale, minimum = np.where(better, s, scale), np.where(better, m, minimum)
    return scale, minimum


def quantize_q4_k(x):
    """f32 [..., n], n a multiple of 256 -> uint8 [..., n/256*144]."""
    b = np.asarray(x, np.float64).reshape(-1, 32)
    scale, minimum = (t.reshape(-1, 8) for t in _fit(b))
    half = lambda t: np.float16(np.maximum(t.max(-1, keepdims=True) / 63, 1e-7))
    d, dmin = half(scale), half(minimum)
    df, mf = d.astype(np.float64), dmin.astype(np.float64)
    s = np.clip(np.rint(scale / df), 1, 63).astype(np.uint8)
    m = np.clip(np.rint(minimum / mf), 0, 63).astype(np.uint8)
    y = b.reshape(-1, 8, 32)
    q = np.clip(np.rint((y + (mf * m)[..., None]) / (df * s)[..., None]), 0, 15).astype(np.uint8)
    q = q.reshape(-1, 4, 2, 32)
    packed = (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)
    scales = np.concatenate([s[:, :4] | (s[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6,
                             (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4], 1)
    raw = np.concatenate([d.view(np.uint8), dmin.view(np.uint8), scales, packed], 1)
    return np.ascontiguousarray(raw.reshape(*x.shape[:-1], -1))
