//! The tokens of one step, of all its sequences, side by side.

use ds4_model::TokenId;

use crate::model::Model;

/// The tokens of one sequence within a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Index of the sequence in the runner's table.
    pub seq: usize,
    /// Position of the first token.
    pub pos0: u32,
    /// Its row in the batch.
    pub start: usize,
    /// Tokens.
    pub n: usize,
    /// How many of the last rows go through the head.
    pub n_logits: usize,
}

impl Part {
    /// Position after the last token.
    pub(crate) fn end(&self) -> u32 {
        self.pos0 + u32::try_from(self.n).expect("a part is no longer than chunk_max")
    }

    /// This part's rows of a table with `width` values per token.
    pub(crate) fn rows<'a>(&self, table: &'a [f32], width: usize) -> &'a [f32] {
        &table[self.start * width..][..self.n * width]
    }
}

/// Tokens of a step; row `t` of every table of the step belongs to token `t`.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// One per sequence.
    pub parts: Vec<Part>,
    /// Token ids.
    pub ids: Vec<TokenId>,
    /// Positions.
    pub pos: Vec<u32>,
    /// Index into `parts`.
    pub part_of: Vec<u32>,
    /// Rows that go through the head, part after part.
    pub wanted: Vec<u32>,
    /// Cosines and sines of each token, for window layers and for compressed ones.
    turns: [Vec<f32>; 2],
}

impl Batch {
    /// Forgets all tokens; keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.parts.clear();
        self.ids.clear();
        self.pos.clear();
        self.part_of.clear();
        self.wanted.clear();
    }

    /// Appends tokens of a sequence at positions `pos0..`.
    pub(crate) fn push(&mut self, seq: usize, pos0: u32, ids: &[TokenId], n_logits: usize) {
        let row = |t: usize| u32::try_from(t).expect("a batch is no longer than chunk_max");
        let (start, n) = (self.ids.len(), ids.len());
        self.part_of.resize(start + n, row(self.parts.len()));
        self.parts.push(Part { seq, pos0, start, n, n_logits });
        self.ids.extend_from_slice(ids);
        self.pos.extend(pos0..pos0 + row(n));
        self.wanted.extend(row(start + n - n_logits)..row(start + n));
    }

    /// Computes the rotations; call after the last [`Batch::push`].
    pub(crate) fn finish(&mut self, model: &Model) {
        let width = model.dims.rope_dim;
        for (turns, rope) in self.turns.iter_mut().zip(&model.ropes) {
            turns.resize(self.pos.len() * width, 0.0);
            for (&pos, row) in self.pos.iter().zip(turns.chunks_exact_mut(width)) {
                rope.turns(pos, row);
            }
        }
    }

    /// Tokens.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The part that token `t` belongs to.
    pub(crate) fn part(&self, t: usize) -> &Part {
        &self.parts[self.part_of[t] as usize]
    }

    /// Cosines and sines of token `t` in layers of this ratio.
    pub(crate) fn turns(&self, ratio: usize, t: usize) -> &[f32] {
        let turns = &self.turns[usize::from(ratio != 0)];
        let width = turns.len() / self.len();
        &turns[t * width..][..width]
    }
}
