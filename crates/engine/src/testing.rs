//! A runner whose logits are a function of the tokens: for schedulers and edge cases of decoding,
//! where a model would only be in the way. Public because every crate above this one tests with it.

use std::collections::HashMap;
use std::io::{Read, Write};

use ds4_model::{Dims, Error, Mark, Probe, Result, Runner, SeqId, Span, TokenId, shapes};

/// Logits after these tokens, `[n_vocab]`.
pub type Script = Box<dyn Fn(&[TokenId]) -> Vec<f32> + Send>;
/// Drafts after these tokens, the last of which is not yet appended.
pub type Drafts = Box<dyn Fn(&[TokenId]) -> Vec<TokenId> + Send>;

/// A second [`Runner`]: exact bookkeeping, scripted logits.
pub struct ScriptedRunner {
    dims: Dims,
    script: Script,
    drafts: Drafts,
    seqs: HashMap<u32, (Vec<TokenId>, u32)>,
    /// How far `truncate` can go back.
    pub margin: u32,
    /// Largest span.
    pub chunk: usize,
    /// Length of every span ever computed.
    pub spans: Vec<usize>,
    next_id: u32,
}

impl ScriptedRunner {
    /// A runner with these logits, no drafts, spans of at most 8 tokens and a margin of 16.
    pub fn new(n_vocab: usize, script: Script) -> Self {
        let drafts: Drafts = Box::new(|_| Vec::new());
        let (seqs, spans) = (HashMap::new(), Vec::new());
        // Only the vocabulary is ever looked at.
        let dims = Dims { n_vocab, ..shapes::flash_with(1) };
        Self { dims, script, drafts, seqs, margin: 16, chunk: 8, spans, next_id: 0 }
    }

    /// The same runner, proposing drafts.
    #[must_use]
    pub fn with_drafts(mut self, drafts: Drafts) -> Self {
        self.drafts = drafts;
        self
    }

    fn seq(&self, seq: SeqId) -> Result<&(Vec<TokenId>, u32)> {
        self.seqs.get(&seq.0).ok_or(Error::NoSequence(seq.0))
    }
}

impl Runner for ScriptedRunner {
    fn dims(&self) -> &Dims {
        &self.dims
    }

    fn open_seq(&mut self, cap: u32) -> Result<SeqId> {
        self.next_id += 1;
        self.seqs.insert(self.next_id, (Vec::new(), cap));
        Ok(SeqId(self.next_id))
    }

    fn close_seq(&mut self, seq: SeqId) {
        self.seqs.remove(&seq.0);
    }

    fn seq_len(&self, seq: SeqId) -> Result<u32> {
        Ok(u32::try_from(self.seq(seq)?.0.len()).expect("capacity is u32"))
    }

    fn forward(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<()> {
        for span in spans {
            let (tokens, cap) = self.seq(span.seq)?;
            let len = self.seq_len(span.seq)?;
            let more = span.tokens.len();
            if more == 0 || more > self.chunk || span.n_logits > more {
                return Err(Error::Span(format!("{more} tokens, {} logits", span.n_logits)));
            }
            if tokens.len() + more > *cap as usize {
                return Err(Error::ContextFull { len, more, cap: *cap });
            }
        }
        logits.clear();
        for span in spans {
            self.spans.push(span.tokens.len());
            let tokens = &mut self.seqs.get_mut(&span.seq.0).expect("checked above").0;
            for (ix, token) in span.tokens.iter().enumerate() {
                tokens.push(*token);
                if ix + span.n_logits >= span.tokens.len() {
                    logits.extend((self.script)(tokens));
                }
            }
        }
        Ok(())
    }

    fn chunk_max(&self) -> usize {
        self.chunk
    }

    fn draft(&mut self, seq: SeqId, last: TokenId, out: &mut [TokenId]) -> Result<usize> {
        let mut tokens = self.seq(seq)?.0.clone();
        tokens.push(last);
        let drafts = (self.drafts)(&tokens);
        let n = drafts.len().min(out.len());
        out[..n].copy_from_slice(&drafts[..n]);
        Ok(n)
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<()> {
        let now = self.seq_len(seq)?;
        if now.saturating_sub(len) > self.margin {
            return Err(Error::NeedsReplay { len, now });
        }
        self.seqs.get_mut(&seq.0).expect("just found").0.truncate(len as usize);
        Ok(())
    }

    fn save_seq(&mut self, seq: SeqId, w: &mut dyn Write) -> Result<u64> {
        let bytes: Vec<u8> = self.seq(seq)?.0.iter().flat_map(|t| t.0.to_le_bytes()).collect();
        w.write_all(&bytes)?;
        Ok(bytes.len() as u64)
    }

    fn load_seq(&mut self, r: &mut dyn Read, cap: u32) -> Result<SeqId> {
        let mut bytes = Vec::new();
        r.read_to_end(&mut bytes)?;
        let words = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let tokens = words.map(|word| TokenId(u32::from_le_bytes(word))).collect();
        let id = self.open_seq(cap)?;
        self.seqs.insert(id.0, (tokens, cap));
        Ok(id)
    }

    fn mark(&mut self, seq: SeqId) -> Result<Option<Mark>> {
        let len = self.seq_len(seq)?;
        Ok(Some(Mark { len, state: Box::new(()) }))
    }

    fn rewind(&mut self, seq: SeqId, mark: &Mark) -> Result<()> {
        self.seq(seq)?;
        self.seqs.get_mut(&seq.0).expect("just found").0.truncate(mark.len as usize);
        Ok(())
    }

    fn fork(&mut self, seq: SeqId, mark: &Mark, cap: u32) -> Result<SeqId> {
        let tokens = self.seq(seq)?.0[..mark.len as usize].to_vec();
        let id = self.open_seq(cap)?;
        self.seqs.insert(id.0, (tokens, cap));
        Ok(id)
    }

    fn set_probe(&mut self, _: Option<Box<dyn Probe>>) {}

    fn seq_bytes(&self, cap: u32) -> u64 {
        u64::from(cap) * 4
    }
}
