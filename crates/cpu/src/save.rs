//! A sequence as bytes: little-endian, versioned, tied to the model and its roundings, with a
//! checksum per section.
//!
//! Nothing in it depends on a backend: rows are in order of position, as [`Frontier`] has them, and
//! every length follows from the header and the model's [`Dims`]. Attention and index rows are f16
//! where the numerics round them to f16 (so nothing is lost), else f32; all else is f32.
//!
//! ```text
//! header   magic "ds4-seq\0", u32 version, u32 numerics, [u8; 32] model, [u8; 32] MTP file,
//!          u32 tokens, u32 pairs with rows, u32 final streams present, u64 checksum
//! layer    raw rows; kv_t, sc_t, compressed rows; the same three of the indexer; u64 checksum
//! mtp      raw rows of pairs, final streams; u64 checksum
//! ```
//! A checksum is XXH3-64 of its section, seeded with the section's number. The model is the
//! fingerprint of its main file; the MTP file's is 0 where none was loaded, and a runner with
//! another one leaves that section unused.

use std::io::{ErrorKind, Read, Write};

use ds4_model::{Dims, Error, INDEXED_RATIO, Numerics, Result};
use half::f16;
use xxhash_rust::xxh3::Xxh3;

use crate::frontier::{CompEnd, Frontier, LayerEnd, MtpEnd, first_raw, needed_from};

const MAGIC: [u8; 8] = *b"ds4-seq\0";
const VERSION: u32 = 1;
/// Values converted at a time.
const PIECE: usize = 4096;

/// What a saved state must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Fingerprint of the main file.
    pub model: [u8; 32],
    /// Fingerprint of the MTP block's file, or zeros.
    pub mtp: [u8; 32],
    /// Roundings of the rows.
    pub numerics: Numerics,
    /// Whether states of other weights are taken.
    pub any_model: bool,
}

impl Identity {
    fn numerics_bits(self) -> u32 {
        let n = self.numerics;
        let flags = [n.kv_fp8, n.index_fp4, n.kv_f16, n.act_q8, n.rope_f32];
        flags.into_iter().enumerate().map(|(i, on)| u32::from(on) << i).sum()
    }
}

/// The counts of a header.
struct Counts {
    len: u32,
    pairs: u32,
    hidden: u32,
    /// The MTP section was written with the MTP block that is loaded.
    same_mtp: bool,
}

/// Rows of one layer that only grow, from the first one on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grown<'a> {
    /// Compressed attention rows; empty where the layer has none.
    pub comp: &'a [f32],
    /// Index rows; empty where the layer has none.
    pub index: &'a [f32],
}

/// Writes a sequence that ends in `end` and has these rows, one item per layer; returns the bytes
/// written.
pub fn save(
    end: &Frontier,
    rows: &[Grown<'_>],
    dims: &Dims,
    id: Identity,
    w: &mut dyn Write,
) -> Result<u64> {
    let half = id.numerics.kv_f16;
    let mut out = Out { w, hash: Xxh3::with_seed(0), section: 0, written: 0, bytes: Vec::new() };
    let (pairs, hidden) = end
        .mtp
        .as_ref()
        .map_or((0, 0), |m| (m.raw.len() / dims.head_dim, usize::from(!m.hidden.is_empty())));
    out.put(&MAGIC)?;
    out.put(&VERSION.to_le_bytes())?;
    out.put(&id.numerics_bits().to_le_bytes())?;
    out.put(&id.model)?;
    out.put(&id.mtp)?;
    for count in [end.len as usize, pairs, hidden] {
        out.put(&u32::try_from(count).expect("fewer than positions").to_le_bytes())?;
    }
    out.seal()?;
    for (rows, end) in rows.iter().zip(&end.layers) {
        out.values(&end.raw, half)?;
        for (rows, end) in [(rows.comp, &end.comp), (rows.index, &end.index)] {
            if let Some(end) = end {
                out.values(&end.kv, false)?;
                out.values(&end.score, false)?;
                out.values(rows, half)?;
            }
        }
        out.seal()?;
    }
    if let Some(mtp) = &end.mtp {
        out.values(&mtp.raw, half)?;
        out.values(&mtp.hidden, false)?;
    }
    out.seal()?;
    Ok(out.written)
}

/// Fills values from the saved state.
pub type Fill<'f> = &'f mut dyn FnMut(&mut [f32]) -> Result<()>;

/// Reads a state of at most `cap` tokens. The rows that only grow go where `place` lets them be
/// filled in: it is called with a layer, whether they are index rows, and their number.
pub fn load(
    dims: &Dims,
    cap: u32,
    id: Identity,
    r: &mut dyn Read,
    place: &mut dyn FnMut(usize, bool, usize, Fill<'_>) -> Result<()>,
) -> Result<Frontier> {
    let half = id.numerics.kv_f16;
    let mut input = In { r, hash: Xxh3::with_seed(0), section: 0, bytes: Vec::new() };
    let counts = header(&mut input, dims, id)?;
    if counts.len > cap {
        let len = counts.len;
        return Err(state(format!("it holds {len} tokens, more than a context of {cap}")));
    }
    let len = counts.len;
    let mut end = Frontier { len, ..Frontier::default() };
    for (il, &ratio) in dims.ratios.iter().enumerate() {
        let rows = (len - first_raw(dims, len)) as usize;
        let raw = input.values(rows * dims.head_dim, half)?;
        let mut comp = |is_index: bool, dim: usize| -> Result<CompEnd> {
            let width = Dims::comp_lanes(ratio) * dim;
            let open = (len - needed_from(ratio, len)) as usize * width;
            let (kv, score) = (input.values(open, false)?, input.values(open, false)?);
            let mut fill = |values: &mut [f32]| input.fill(values, half);
            place(il, is_index, len as usize / ratio, &mut fill)?;
            Ok(CompEnd { kv, score })
        };
        let attention = (ratio != 0).then(|| comp(false, dims.head_dim)).transpose()?;
        let index = (ratio == INDEXED_RATIO).then(|| comp(true, dims.index_dim)).transpose()?;
        input.check()?;
        end.layers.push(LayerEnd { raw, comp: attention, index });
    }
    let raw = input.values(counts.pairs as usize * dims.head_dim, half)?;
    let hidden = input.values(counts.hidden as usize * dims.n_hc * dims.n_embd, false)?;
    input.check()?;
    end.mtp = counts.same_mtp.then_some(MtpEnd { raw, hidden });
    Ok(end)
}

/// Reads and checks everything about a state but its rows.
fn header(input: &mut In<'_>, dims: &Dims, id: Identity) -> Result<Counts> {
    if input.array::<8>()? != MAGIC {
        return Err(state("it is not a saved sequence".to_owned()));
    }
    let version = input.u32()?;
    if version != VERSION {
        return Err(state(format!("it has version {version}, this build reads {VERSION}")));
    }
    let numerics = input.u32()?;
    let (model, mtp) = (input.array::<32>()?, input.array::<32>()?);
    let (len, pairs, hidden) = (input.u32()?, input.u32()?, input.u32()?);
    input.check()?;
    if model != id.model && !id.any_model {
        return Err(state("it belongs to another model file".to_owned()));
    }
    if numerics != id.numerics_bits() {
        return Err(state("it was computed with other --numerics".to_owned()));
    }
    if len > dims.ctx_max || pairs as usize >= dims.window || pairs > len || hidden > 1 {
        return Err(state(format!("{len} tokens, {pairs} pairs, {hidden} streams: impossible")));
    }
    let same_mtp = mtp == id.mtp && mtp != [0; 32];
    Ok(Counts { len, pairs, hidden, same_mtp })
}

fn state(what: String) -> Error {
    Error::State(what)
}

/// Sections being written.
struct Out<'a> {
    w: &'a mut dyn Write,
    hash: Xxh3,
    section: u64,
    written: u64,
    bytes: Vec<u8>,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.w.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn values(&mut self, values: &[f32], half: bool) -> Result<()> {
        for piece in values.chunks(PIECE) {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            if half {
                bytes.extend(piece.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
            } else {
                bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes()));
            }
            self.put(&bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Ends the section with its checksum.
    fn seal(&mut self) -> Result<()> {
        let sum = self.hash.digest().to_le_bytes();
        self.put(&sum)?;
        self.section += 1;
        self.hash = Xxh3::with_seed(self.section);
        Ok(())
    }
}

/// Sections being read.
struct In<'a> {
    r: &'a mut dyn Read,
    hash: Xxh3,
    section: u64,
    bytes: Vec<u8>,
}

impl In<'_> {
    fn take(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.r.read_exact(bytes).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => state("it is cut off".to_owned()),
            _ => Error::Io(e),
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.take(&mut bytes)?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn values(&mut self, n: usize, half: bool) -> Result<Vec<f32>> {
        let mut values = vec![0.0; n];
        self.fill(&mut values, half)?;
        Ok(values)
    }

    fn fill(&mut self, values: &mut [f32], half: bool) -> Result<()> {
        let size = if half { 2 } else { 4 };
        for piece in values.chunks_mut(PIECE) {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.resize(piece.len() * size, 0);
            self.take(&mut bytes)?;
            self.hash.update(&bytes);
            for (v, b) in piece.iter_mut().zip(bytes.chunks_exact(size)) {
                *v = match *b {
                    [a, b] => f16::from_le_bytes([a, b]).to_f32(),
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    _ => unreachable!("two or four bytes"),
                };
            }
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Compares the section's checksum.
    fn check(&mut self) -> Result<()> {
        let expected = self.hash.digest();
        let mut sum = [0; 8];
        self.take(&mut sum)?;
        if u64::from_le_bytes(sum) != expected {
            return Err(state(format!("section {} is damaged", self.section)));
        }
        self.section += 1;
        self.hash = Xxh3::with_seed(self.section);
        Ok(())
    }
}
