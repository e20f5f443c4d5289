"""Reads the packed sequences that data/build.py writes, also while it is still writing."""
import glob
import os
import queue
import threading
import time

import numpy as np
import torch


WAIT_SECONDS = 180  # for the first shard of a build.py started beside the training


class Shards:
    """Endless batches of one sequence length from DIR/T{len}/shard_*.tok.npy (+ .wt.npy).

    A thread reads ahead. Shards are read in the order of their numbers, because the mixture changes along it,
    and none a second time while another has been read less. `reads` (name -> times) carries over from an
    earlier reader.
    """

    def __init__(self, root, length, batch, seed, device, reads=None, ahead=6):
        self.dir = os.path.join(root, f"T{length}")
        self.length, self.batch, self.device = length, batch, device
        self.rng = np.random.default_rng(seed)
        self.reads, self.sequences = {} if reads is None else reads, 0
        self.queue = queue.Queue(ahead)
        threading.Thread(target=self._work, daemon=True).start()

    def _next_shard(self):
        names, waited = [], 0
        while not names:
            names = sorted(n for n in glob.glob(os.path.join(self.dir, "shard_*.tok.npy")) if ".part." not in n)
            if not names and waited > WAIT_SECONDS:
                raise FileNotFoundError(f"no shards in {self.dir}: run data/build.py first")
            time.sleep(0 if names else 1)
            waited += 1
        name = min(names, key=lambda n: (self.reads.get(n, 0), n))
        self.reads[name] = self.reads.get(name, 0) + 1
        tok = np.load(name)
        return tok, np.load(name.replace(".tok.npy", ".wt.npy"))

    def _work(self):
        try:
            pool_t, pool_w = None, None
            while True:
                while pool_t is None or len(pool_t) < self.batch:
                    t, w = self._next_shard()
                    order = self.rng.permutation(len(t))
                    t, w = t[order], w[order]
                    pool_t = t if pool_t is None else np.concatenate((pool_t, t))
                    pool_w = w if pool_w is None else np.concatenate((pool_w, w))
                t, pool_t = pool_t[:self.batch], pool_t[self.batch:]
                w, pool_w = pool_w[:self.batch], pool_w[self.batch:]
                t = torch.from_numpy(t.astype(np.int32))
                w = torch.from_numpy(np.ascontiguousarray(w))
                if self.device != "cpu":
                    t, w = t.pin_memory(), w.pin_memory()
                self.queue.put((t, w))
        except Exception as e:  # handed to the reader, which raises it
            self.queue.put(e)

    def next(self):
        """tokens [B, T+2] i64, weights [B, T+2] f32, on the device."""
        item = self.queue.get()
        if isinstance(item, Exception):
            raise item
        self.sequences += self.batch
        t, w = (x.to(self.device, non_blocking=True) for x in item)
        return t.long(), w.float() / 255

    def passes(self):
        """Times the most-read shard was read."""
        return max(self.reads.values(), default=0)
