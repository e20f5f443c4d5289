"""Held-out scores by teacher forcing.

The greedy continuation of a prompt equals the expected answer exactly when, with prompt and answer given,
the most likely token at every answer position is the answer's: one pass per case decides it. Cases with
tied or several right answers are for the engine's own evaluation, not for this one.
"""
import json
import os
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F

from model import Mode, Rope


def read_cases(path, per_kind):
    kinds = defaultdict(list)
    with open(path, encoding="utf-8") as f:
        for line in f:
            case = json.loads(line)
            if len(kinds[case["kind"]]) < per_kind(case["kind"]):
                kinds[case["kind"]].append(case)
    return kinds


def batches(cases, budget):
    """Groups of similar padded length, at most `budget` tokens each."""
    cases = sorted(cases, key=lambda c: len(c["prompt_ids"]) + len(c["answer_ids"]))
    group, width = [], 0
    for case in cases:
        need = -(-(len(case["prompt_ids"]) + len(case["answer_ids"])) // 128) * 128
        if group and max(width, need) * (len(group) + 1) > budget:
            yield group, width
            group, width = [], 0
        group.append(case)
        width = max(width, need)
    if group:
        yield group, width


@torch.no_grad()
def score_batch(model, group, width, mode, device):
    """Per case: all right, tokens right, tokens; and accepted / offered MTP drafts on right answers."""
    tok = torch.zeros(len(group), width, dtype=torch.long)
    ans = torch.zeros(len(group), width, dtype=torch.bool)
    for i, c in enumerate(group):
        ids = c["prompt_ids"] + c["answer_ids"]
        tok[i, :len(ids)] = torch.tensor(ids)
        ans[i, len(c["prompt_ids"]) - 1:len(ids) - 1] = True   # positions that predict the answer
    tok, ans = tok.to(device), ans.to(device)
    tables = Rope(model.c, width, device).tables
    x, _, _ = model.trunk(tok, tables, mode)
    nxt = torch.roll(tok, -1, 1)
    y, _ = model.draft(x, nxt, tables, mode)
    out, best, draft = [], [], []
    for i in range(len(group)):
        best.append(model.logits(x[i:i + 1], mode).argmax(-1)[0])
        draft.append(model.logits(y[i:i + 1], mode, mtp=True).argmax(-1)[0])
    best, draft = torch.stack(best), torch.stack(draft)
    hit = (best == nxt) & ans
    offer = ans & torch.roll(ans, -1, 1)                       # p and p+1 both predict answer tokens
    ok = (draft == torch.roll(best, -1, 1)) & offer
    for i in range(len(group)):
        out.append((bool(hit[i].sum() == ans[i].sum()), int(hit[i].sum()), int(ans[i].sum()),
                    int(ok[i].sum()), int(offer[i].sum())))
    return out


def evaluate(model, path, device, dtype=torch.bfloat16, per_kind=lambda k: 64, budget=65536):
    """{kind: {"n", "exact", "token", "mtp"}} over the cases of `path`."""
    mode = Mode(dtype=dtype)
    result = {}
    for kind, cases in read_cases(path, per_kind).items():
        if not cases:
            continue
        rows = [r for g, w in batches(cases, budget) for r in score_batch(model, g, w, mode, device)]
        total = np.array(rows, float).sum(0)
        result[kind] = {"n": len(rows), "exact": round(total[0] / len(rows), 4),
                        "token": round(total[1] / max(1, total[2]), 4), "mtp": round(total[3] / max(1, total[4]), 4)}
    return result


def value_at(prompt, answer, words):
    """(k, position): the first answer token that gives the needle's value away, and where it stands in the prompt.

    `words` are the ids of " is", " in" and " ".
    """
    is_, in_, space = words
    for k in range(3, len(answer)):
        if answer[k - 1] not in (is_, in_) or in_ in answer[k:k + 6]:
            continue
        k += answer[k] == space
        want = answer[k - 3:k + 1]
        found = [i for i in range(len(prompt) - 3) if prompt[i:i + 4] == want]
        if len(found) == 1:
            return k, found[0] + 3
    return None


@torch.no_grad()
def recall_path(model, path, device, dtype, kind, count):
    """Where recall succeeds or fails, over needle cases at the first token of the value.

    mass: for each layer with an indexer, the share of attention that compressed rows get (best head); chosen:
    how often the indexer chooses a row that holds the value; first: how often that token is predicted.
    """
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "data/vocab.json"), encoding="utf-8") as f:
        vocab = json.load(f)["tokens"]
    words = [vocab.index(w) for w in ("\u0120is", "\u0120in", "\u0120")]
    mass, chosen, first = [], [], []
    for case in read_cases(path, lambda k: count if k == kind else 0)[kind]:
        prompt, answer = case["prompt_ids"], case["answer_ids"]
        spot = value_at(prompt, answer, words)
        if spot is None:
            continue
        k, value = spot
        ids = torch.tensor(prompt + answer)
        ids = F.pad(ids, (0, -len(ids) % 128))[None].to(device)
        mode = Mode(dtype=dtype, probe=[])
        x, _, _ = model.trunk(ids, Rope(model.c, ids.shape[1], device).tables, mode)
        at = len(prompt) + k - 1
        best = model.logits(x[:, at:at + 1], mode).argmax(-1)
        first.append(int(best) == answer[k])
        mass.append([float(m[0, at].max()) for m, _ in mode.probe])
        chosen.append([bool(rows[0, at, value // 4:value // 4 + 2].any()) for _, rows in mode.probe])
    if not first:
        return {}
    return {"mass": np.mean(mass, 0).round(3).tolist(), "chosen": np.mean(chosen, 0).round(3).tolist(),
            "first": round(float(np.mean(first)), 3)}


@torch.no_grad()
def text_loss(model, path, device, dtype=torch.bfloat16, rows=32):
    """Mean negative log-likelihood per token of held-out text rows [n, T+2], trunk only."""
    tok = torch.from_numpy(np.load(path)[:rows].astype(np.int64)).to(device)
    t = (tok.shape[1] - 1) // 128 * 128
    x, _, _ = model.trunk(tok[:, :t], Rope(model.c, t, device).tables, Mode(dtype=dtype))
    losses = [F.cross_entropy(model.logits(x[i:i + 1], Mode(dtype=dtype))[0].float(), tok[i, 1:t + 1])
              for i in range(len(tok))]
    return float(torch.stack(losses).mean())
