"""Trains nano in resumable runs on one GPU.

  python train.py --data DIR --plan plan.json --state STATE --out OUT --wall SECONDS [--resume CHECKPOINT]

The plan gives the whole training as phases by training seconds (compilation not counted); each call goes on
from STATE (full precision, optimiser included), trains until its wall time or the plan's end, scores the
held-out cases and writes OUT/nano.ckpt (weights f16), OUT/log.jsonl and OUT/eval.jsonl. --resume starts from a
checkpoint without optimiser state and re-warms the learning rate. --finish S stretches or squeezes the plan so
that its second S is reached as the wall time ends.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import evaluate as ev
from model import Block, Config, Mode, Mtp, Nano, Rope, parameters_of
from muon import Optimiser
from shards import Shards


MIN_LEFT = 120  # seconds of wall time under which no further phase is started: compiling would eat them
COMPILING = 50  # seconds that --finish sets aside for each phase still to be started


class Plan:
    """Phases [{"seconds","length","batch","sparse","free","graph"}], views and the learning-rate shape over them.

    `free` is the share of a sparse phase's sequences that attend to every row, so that the indexer goes on
    learning about rows it does not choose. Views [[until, share, low, high]] narrow the sliding window: a
    `share` of the sequences has the model's own, the others one between `low` and `high` tokens. What a
    narrow window hides has to come out of compressed rows, which short texts would otherwise never need.
    """

    def __init__(self, spec):
        self.phases, self.lr = spec["phases"], spec["lr"]
        self.begin = spec.get("begin", 0)                      # second of the checkpoint that this plan goes on from
        self.total = self.begin + sum(p["seconds"] for p in self.phases)
        self.quant = spec["quant"]                             # [from, to]: share of 4-bit rounding rises 0 -> 1
        self.mtp, self.index = spec.get("mtp_weight", 0.3), spec.get("index_weight", 0.1)
        self.views = spec.get("views", [])

    def view(self, clock):
        """(share of full windows, lowest, highest width) in force."""
        return next((tuple(v[1:]) for v in self.views if clock < v[0]), (1.0, 1, 1))

    def phase(self, clock):
        """The phase in force, or None when the plan is done."""
        clock -= self.begin
        for p in self.phases:
            if clock < p["seconds"]:
                return p
            clock -= p["seconds"]
        return None

    def share(self, clock):
        """Share of the experts' 4-bit rounding."""
        a, b = self.quant
        return min(1.0, max(0.0, (clock / self.total - a) / (b - a)))

    def factor(self, clock, since_start):
        """Warm-up, constant, linear decay; `since_start` seconds since a cold optimiser."""
        x = (clock - self.begin) / (self.total - self.begin)
        hold, floor = self.lr["hold"], self.lr["floor"]
        decay = 1.0 if x < hold else max(floor, 1 - (1 - floor) * (x - hold) / (1 - hold))
        return self.lr.get("peak", 1.0) * decay * min(1.0, 0.02 + since_start / self.lr["warmup_seconds"])


def nll(state, head, norm, output, targets, weights, mode):
    """Weighted mean negative log-likelihood of the targets under one head, and the share of right argmaxes."""
    logits = F.linear(head(state, norm, mode.dtype).to(mode.dtype), output.to(mode.dtype)).float()
    lse = torch.logsumexp(logits, -1)
    picked = logits.gather(-1, targets[..., None])[..., 0]
    right = (picked >= logits.amax(-1)).float()
    total = weights.sum().clamp_min(1e-6)
    return ((lse - picked) * weights).sum() / total, (right * weights).sum() / total


def losses(model, tok, wt, tables, mode, plan, length):
    """Total loss and its parts for tok/wt [B, T+2]."""
    x, kl, loads = model.trunk(tok[:, :length], tables, mode)
    flat = lambda t: t.flatten(0, 1)[None]                     # one compiled head for every length
    main, acc = head_loss(flat(x), model.hc_head, model.norm, model.output,
                          flat(tok[:, 1:length + 1]), flat(wt[:, 1:length + 1]), mode)
    y, load = model.draft(x, tok[:, 1:length + 1], tables, mode)
    mtp, macc = head_loss(flat(y), model.mtp.head, model.mtp.norm, model.output, flat(tok[:, 2:]), flat(wt[:, 2:]), mode)
    parts = torch.stack([t.detach().float() for t in (main, mtp, kl + torch.zeros_like(main), acc, macc)])
    return main + plan.mtp * mtp + plan.index * kl, parts, torch.cat((loads, load[None]))


head_loss = nll


def compile_parts():
    """Compile the pieces that repeat, not the whole graph: layers of one kind share their code."""
    global head_loss
    torch._dynamo.config.cache_size_limit = 64
    torch._inductor.config.fx_graph_cache = True
    Block.attend = torch.compile(Block.attend, dynamic=False)
    Block.feed = torch.compile(Block.feed, dynamic=False)
    Mtp.enter = torch.compile(Mtp.enter, dynamic=False)
    head_loss = torch.compile(nll, dynamic=False)


@torch.no_grad()
def balance(model, loads, rate):
    """Move each score-routed layer's selection bias towards equal load."""
    blocks = [*model.layers, model.mtp.block]
    for i, b in enumerate(blocks):
        if not (i < model.c.n_hash_layer):
            b.ffn.bias += rate * torch.sign(loads[i].mean() - loads[i])


def checkpoint(model, path, extra):
    """Weights as f16 (vectors f32), loadable by export.py."""
    state = {k: (v.half() if v.is_floating_point() and v.ndim > 1 else v).cpu() for k, v in model.state_dict().items()}
    for k, v in state.items():
        if v.is_floating_point() and not torch.isfinite(v).all():
            print(f"warning: {k} does not fit f16 or is not finite", flush=True)
    torch.save({"config": vars(model.c), "model": state, **extra}, path)


class Stepper:
    """One training step of a phase, as a CUDA graph where asked for: launching it piecewise is CPU-bound."""

    def __init__(self, run, data, tables, mode, length, graph):
        self.run, self.data, self.args, self.length = run, data, (tables, mode), length
        self.batch, self.mode = data.batch, mode
        self.rng = np.random.default_rng(run.step + length)
        mode.window = torch.full((data.batch,), run.model.c.window, device=run.dev)
        mode.free = torch.zeros(data.batch, dtype=torch.bool, device=run.dev) if mode.sparse else None
        self.total = torch.zeros(5, device=run.dev)
        self.loads = None
        self.tok, self.wt = data.next()
        self.graph = None
        stream = torch.cuda.Stream() if graph else None
        if graph:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3 if graph else 1):
                self._step()
        if graph:
            torch.cuda.current_stream().wait_stream(stream)
            try:
                self._capture()
            except RuntimeError as e:
                print(f"no CUDA graph, going on without: {str(e)[:300]}", flush=True)
                torch.cuda.synchronize()
                for p in run.model.parameters():
                    p.grad = None

    def _capture(self):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g):
            self._step(keep_grad=True)
        self.graph = g

    def _step(self, keep_grad=False):
        run, (tables, mode) = self.run, self.args
        mode.focus = self.wt[:, 1:self.length + 1] + 0.02
        loss, parts, self.loads = losses(run.model, self.tok, self.wt, tables, mode, run.plan, self.length)
        loss.backward()
        run.opt.step()
        balance(run.model, self.loads, run.opt.rates[2])
        self.total += parts
        if not keep_grad:
            for p in run.model.parameters():
                p.grad = None

    def draw(self, view, free):
        """Each sequence's window and freedom for the coming step."""
        share, low, high = view
        width = np.exp(self.rng.uniform(np.log(low), np.log(high + 1), self.batch)).astype(np.int64)
        width[self.rng.random(self.batch) < share] = self.run.model.c.window
        self.mode.window.copy_(torch.from_numpy(width), non_blocking=True)
        if self.mode.free is not None:
            self.mode.free.copy_(torch.from_numpy(self.rng.random(self.batch) < free), non_blocking=True)

    def go(self, view, free):
        self.draw(view, free)
        tok, wt = self.data.next()
        if self.graph is None:
            self.tok, self.wt = tok, wt
            self._step()
        else:
            self.tok.copy_(tok)
            self.wt.copy_(wt)
            self.graph.replay()

    def close(self):
        """Frees the graph's memory."""
        self.graph = None
        for p in self.run.model.parameters():
            p.grad = None
        torch.cuda.empty_cache()


class Run:
    """One call: state, loop, log."""

    def __init__(self, o):
        self.o, self.start = o, time.time()
        with open(o.plan, encoding="utf-8") as f:
            self.plan = Plan(json.load(f))
        self.dev = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.dev == "cuda" else torch.float32
        torch.set_float32_matmul_precision("high")
        self.model = Nano(Config()).to(self.dev)
        self.clock, self.cold, self.brake, self.rate = 0.0, 0.0, 1.0, 1.0
        self.reads, self.scored = {}, time.time()
        self.step = self.tokens = 0
        self.opt = Optimiser(self.model)
        self.share = torch.zeros((), device=self.dev)
        self._restore()
        self.log = open(os.path.join(o.out, "log.jsonl"), "a", encoding="utf-8", buffering=1)
        print(f"{parameters_of(self.model)} parameters, clock {self.clock:.0f}/{self.plan.total} s", flush=True)

    def _restore(self):
        o = self.o
        if os.path.exists(o.state):
            s = torch.load(o.state, map_location=self.dev, weights_only=True)
            self.model.load_state_dict(s["model"])
            self.opt.load(s["opt"])
            self.clock, self.cold, self.step, self.tokens = s["at"]
            self.reads = s["reads"]
        elif o.resume:
            s = torch.load(o.resume, map_location=self.dev, weights_only=True)
            self.model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in s["model"].items()})
            self.clock, _, self.step, self.tokens = s["at"]

    def save(self):
        at = (self.clock, self.cold, self.step, self.tokens)
        torch.save({"model": self.model.state_dict(), "opt": self.opt.state(), "at": at, "reads": {k: dict(v) for k, v in self.reads.items()}},
                   self.o.state + ".part")
        os.replace(self.o.state + ".part", self.o.state)
        checkpoint(self.model, os.path.join(self.o.out, "nano.ckpt"), {"at": at})

    def set_rates(self):
        """Learning rate and quantisation share of the coming steps."""
        factor = self.plan.factor(self.clock, self.cold) * self.brake
        self.opt.set_rate(factor)
        self.share.fill_(self.plan.share(self.clock))
        return factor

    def sync(self):
        if self.dev == "cuda":
            torch.cuda.synchronize()
        return time.time()

    def live(self):
        """Every tensor that a step changes: a graph holds their addresses, so they are only copied into."""
        adam = [v for s in self.opt.adam.state.values() for v in s.values() if torch.is_tensor(v)]
        return [*(p.detach() for p in self.model.parameters()), *self.opt.muon.state(), *adam]

    def run_phase(self, phase, deadline):
        """Steps until the phase or the wall time ends; False when the wall time ended it."""
        length, o = phase["length"], self.o
        mode = Mode(dtype=self.dtype, sparse=phase["sparse"], quant=self.share, index_loss=True)
        tables = Rope(self.model.c, length, self.dev).tables
        self.set_rates()
        stepper = self.ready(phase, mode, tables)
        taken, snapshot = self.clock, [t.clone() for t in self.live()]
        last = self.sync()
        self.set_pace(phase, deadline - last)
        print(f"phase {phase}: ready after {last - self.start:.0f} s", flush=True)
        while True:
            factor = self.set_rates()
            stepper.total.zero_()
            for _ in range(o.log_every):
                stepper.go(self.plan.view(self.clock), phase.get("free", 0.0))
            self.step += o.log_every
            self.tokens += o.log_every * stepper.batch * length
            now = self.sync()
            took, last = now - last, now
            self.clock += took * self.rate
            self.cold += took
            if not self.write_row(stepper, factor, took, length):
                print("the loss is not a number: back to the last snapshot, at half the rate", flush=True)
                self.brake *= 0.5
                for kept, live in zip(snapshot, self.live()):
                    live.copy_(kept)
            elif self.clock > taken + 60:
                taken, snapshot = self.clock, [t.clone() for t in self.live()]
            if now > self.scored + o.score_every:
                self.quick(length)
                self.save()
                last = self.scored = self.sync()
                self.set_pace(phase, deadline - last)
            if now > deadline:
                stepper.close()
                return False
            if self.plan.phase(self.clock) is not phase or 0 < self.o.finish <= self.clock:
                stepper.close()
                return True

    def set_pace(self, phase, left):
        """With --finish: plan seconds per second, so that the wanted one is reached as the wall time ends."""
        if not self.o.finish:
            return
        ends = self.plan.begin + np.cumsum([p["seconds"] for p in self.plan.phases])
        later = int((ends < self.o.finish).sum()) - self.plan.phases.index(phase)
        self.rate = max(0.01, self.o.finish - self.clock) / max(20.0, left - 1 - COMPILING * later)
        print(f"pace: {self.rate:.2f} plan seconds per second", flush=True)

    def ready(self, phase, mode, tables):
        """A stepper that has compiled and run; at half the batch if memory does not suffice."""
        for batch in (phase["batch"], phase["batch"] // 2):
            try:
                reads = self.reads.setdefault(phase["length"], {})
                data = Shards(self.o.data, phase["length"], batch, self.step, self.dev, reads)
                return Stepper(self, data, tables, mode, phase["length"], phase.get("graph", False))
            except torch.OutOfMemoryError as e:
                print(f"out of memory at batch {batch}: {str(e)[:120]}", flush=True)
            torch.cuda.empty_cache()
        raise RuntimeError("half the batch does not fit either")

    def write_row(self, stepper, factor, took, length):
        o = self.o
        values = (stepper.total / o.log_every).tolist()
        row = dict(step=self.step, clock=round(self.clock, 1), tokens=self.tokens, length=length, factor=round(factor, 4),
                   share=round(float(self.share), 2), speed=round(o.log_every * stepper.batch * length / took),
                   **{k: round(v, 4) for k, v in zip(("loss", "mtp_loss", "index_kl", "acc", "mtp_acc"), values)},
                   passes=stepper.data.passes(), low_load=round(float(stepper.loads.min()), 3))
        self.log.write(json.dumps(row) + "\n")
        if self.step // o.log_every % o.print_every == 0:
            print(json.dumps(row), flush=True)
        return all(x == x for x in values)

    def quick(self, length):
        """A few held-out cases between steps, and how the long recall comes about."""
        cases, t0 = os.path.join(self.o.data, "eval_cases.jsonl"), self.sync()
        if not os.path.exists(cases):
            return
        torch.compiler.set_stance("force_eager")
        try:
            few = {"needle1k": 40, "tool": 135, "arith": 40, "copy": 30, "lookup": 40}
            few |= {"needle4k": 24} if length >= 4096 else {}
            few |= {"needle16k": 8} if length >= 16384 else {}
            got = ev.evaluate(self.model, cases, self.dev, self.dtype, lambda k: few.get(k, 0), 1 << 15)
            row = {k: v["exact"] for k, v in got.items()}
            row |= ev.recall_path(self.model, cases, self.dev, self.dtype, "needle1k", 16)
        except (RuntimeError, ValueError) as e:                # a score is no reason to lose a run
            row = {"failed": str(e)[:200]}
        finally:
            torch.compiler.set_stance("default")
        row = dict(step=self.step, clock=round(self.clock, 1), quick=row, took=round(self.sync() - t0, 1))
        print(json.dumps(row), flush=True)
        self.put("eval.jsonl", row)

    def put(self, name, row):
        with open(os.path.join(self.o.out, name), "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def score(self):
        """Held-out scores with the deployed numerics, uncompiled."""
        o, t0 = self.o, self.sync()
        torch.compiler.set_stance("force_eager")
        cases = os.path.join(o.data, "eval_cases.jsonl")
        out = {"step": self.step, "clock": round(self.clock, 1), "tokens": self.tokens}
        if os.path.exists(cases):
            per = lambda k: min(24, o.cases) if "16k" in k else o.cases
            out["cases"] = ev.evaluate(self.model, cases, self.dev, self.dtype, per)
        text = os.path.join(o.data, "heldout_text.tok.npy")
        if os.path.exists(text):
            out["text_nll"] = round(ev.text_loss(self.model, text, self.dev, self.dtype), 4)
        out["took"] = round(self.sync() - t0, 1)
        self.put("eval.jsonl", out)
        print(json.dumps(out), flush=True)

    def run(self):
        deadline = self.start + self.o.wall
        phase = self.plan.phase(self.clock)
        while phase is not None and self.run_phase(phase, deadline):
            phase = self.plan.phase(self.clock)
            if self.clock >= self.o.finish if self.o.finish else deadline - time.time() < MIN_LEFT:
                break
        if abs(self.clock - self.o.finish) < 5:
            self.clock = self.o.finish
        self.save()
        self.log.flush()
        if self.dev == "cuda":
            print(f"peak memory {torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB", flush=True)
        self.score()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--data", required=True)
    a.add_argument("--plan", required=True)
    a.add_argument("--state", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--wall", type=float, required=True, help="seconds of training after which this run saves and scores")
    a.add_argument("--resume", default="")
    a.add_argument("--cases", type=int, default=64, help="held-out cases per kind")
    a.add_argument("--log-every", type=int, default=10)
    a.add_argument("--print-every", type=int, default=20)
    a.add_argument("--score-every", type=float, default=60, help="seconds between the short held-out scores")
    a.add_argument("--finish", type=float, default=0, help="second of the plan to be reached with this run")
    a.add_argument("--no-compile", action="store_true")
    o = a.parse_args()
    os.makedirs(o.out, exist_ok=True)
    if torch.cuda.is_available() and not o.no_compile:
        compile_parts()
    Run(o).run()


if __name__ == "__main__":
    main()
