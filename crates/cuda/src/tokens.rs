//! The tokens of one step on the host, as the kernels read them.

use ds4_model::TokenId;

use crate::seq::{Seq, Tok};
use crate::step::Part;

/// The host's side of a step's tokens.
#[derive(Default)]
pub(crate) struct Tokens {
    pub toks: Vec<Tok>,
    pub parts: Vec<Part>,
    /// Rows whose logits are wanted.
    pub wanted: Vec<i32>,
}

impl Tokens {
    /// Appends tokens of sequence `seq`, number `index` of the runner, at positions `pos0..`; raw rows
    /// before position `from` do not exist.
    pub(crate) fn push(
        &mut self,
        index: usize,
        seq: &Seq,
        pos0: u32,
        ids: &[TokenId],
        n_logits: usize,
        from: u32,
    ) {
        let int = |n: usize| i32::try_from(n).expect("counts of a step fit");
        let (start, n) = (self.toks.len(), ids.len());
        self.parts.push(Part { seq: index, pos0, start, n, n_logits });
        let pos = |i: usize| int(pos0 as usize + i);
        self.toks.extend(ids.iter().enumerate().map(|(i, id)| Tok {
            id: int(id.0 as usize),
            pos: pos(i),
            seq: int(seq.row),
            start: int(start),
            pos0: pos(0),
            n: int(n),
            from: int(from as usize),
            pad: 0,
        }));
        self.wanted.extend((start + n - n_logits..start + n).map(int));
    }
}
