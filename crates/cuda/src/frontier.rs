//! A sequence's end and its rows between the device and the form that marks and files have, which is
//! the CPU runner's: states are interchangeable.

use ds4_cpu::state::{CompEnd, Frontier, Grown, LayerEnd, MtpEnd, first_raw, needed_from};
use ds4_model::{Dims, Result};

use crate::device::Device;
use crate::seq::{CompParts, LayerParts, Seq};

/// Copies the end of `seq`.
pub(crate) fn of(device: &Device, dims: &Dims, seq: &Seq) -> Result<Frontier> {
    let comp = |c: &CompParts| -> Result<CompEnd> {
        let from = needed_from(c.ratio, seq.len);
        let ring = |part| seq.rows(device, part, from, seq.len);
        Ok(CompEnd { kv: ring(c.kv)?, score: ring(c.score)? })
    };
    let layer = |l: &LayerParts| -> Result<LayerEnd> {
        Ok(LayerEnd {
            raw: seq.rows(device, l.raw, first_raw(dims, seq.len), seq.len)?,
            comp: l.comp.as_ref().map(comp).transpose()?,
            index: l.index.as_ref().map(comp).transpose()?,
        })
    };
    let (trunk, mtp) = seq.layout.layers.split_at(dims.n_layer);
    Ok(Frontier {
        len: seq.len,
        layers: trunk.iter().map(layer).collect::<Result<_>>()?,
        mtp: mtp.first().map(|l| mtp_end(device, dims, seq, l)).transpose()?,
    })
}

fn mtp_end(device: &Device, dims: &Dims, seq: &Seq, l: &LayerParts) -> Result<MtpEnd> {
    let Some(last) = seq.len.checked_sub(1) else { return Ok(MtpEnd::default()) };
    let first = first_raw(dims, last).max(seq.pairs_from.min(last));
    let known = last >= seq.hidden_from;
    let ring = l.hidden.expect("the MTP block has this ring");
    Ok(MtpEnd {
        raw: seq.rows(device, l.raw, first, last)?,
        hidden: if known { seq.rows(device, ring, last, last + 1)? } else { Vec::new() },
    })
}

/// Makes `seq` end here; it already holds the rows that only grow. It cannot be set back further
/// without a replay.
pub(crate) fn restore(device: &Device, dims: &Dims, seq: &mut Seq, end: &Frontier) -> Result<()> {
    (seq.len, seq.floor) = (end.len, end.len);
    let (trunk, mtp) = seq.layout.layers.split_at(dims.n_layer);
    for (l, end) in trunk.iter().zip(&end.layers) {
        seq.set_rows(device, l.raw, first_raw(dims, seq.len), &end.raw)?;
        for (parts, end) in [(&l.comp, &end.comp), (&l.index, &end.index)] {
            if let (Some(c), Some(end)) = (parts, end) {
                let from = needed_from(c.ratio, seq.len);
                seq.set_rows(device, c.kv, from, &end.kv)?;
                seq.set_rows(device, c.score, from, &end.score)?;
            }
        }
    }
    let Some(l) = mtp.first().copied() else { return Ok(()) };
    let len = seq.len;
    (seq.pairs_from, seq.hidden_from) = (len, len);
    let (Some(end), Some(last)) = (&end.mtp, len.checked_sub(1)) else { return Ok(()) };
    if !end.hidden.is_empty() {
        let rows = u32::try_from(end.raw.len() / l.raw.width).expect("fewer than positions");
        (seq.pairs_from, seq.hidden_from) = (last - rows, last);
        seq.set_rows(device, l.raw, seq.pairs_from, &end.raw)?;
        let ring = l.hidden.expect("the MTP block has this ring");
        seq.set_rows(device, ring, last, &end.hidden)?;
    }
    Ok(())
}

/// Rows that only grow, on the host: attention and index rows of each trunk layer.
pub(crate) type HostRows = Vec<[Vec<f32>; 2]>;

/// The rows of the first `len` tokens.
pub(crate) fn grown(device: &Device, seq: &Seq, len: u32) -> Result<HostRows> {
    let rows = |c: &Option<CompParts>| match c {
        None => Ok(Vec::new()),
        Some(c) => {
            let n = len / u32::try_from(c.ratio).expect("small");
            seq.rows(device, c.rows, 0, n)
        }
    };
    let trunk = seq.layout.layers.iter().filter(|l| l.hidden.is_none());
    trunk.map(|l| Ok([rows(&l.comp)?, rows(&l.index)?])).collect()
}

/// As the saved form takes them.
pub(crate) fn borrowed(rows: &HostRows) -> Vec<Grown<'_>> {
    rows.iter().map(|[comp, index]| Grown { comp, index }).collect()
}

/// Stores rows from the first one on.
pub(crate) fn set_grown(device: &Device, seq: &Seq, rows: &HostRows) -> Result<()> {
    for (l, [comp, index]) in seq.layout.layers.iter().zip(rows) {
        for (parts, rows) in [(&l.comp, comp), (&l.index, index)] {
            if let Some(c) = parts {
                seq.set_rows(device, c.rows, 0, rows)?;
            }
        }
    }
    Ok(())
}

/// Copies the rows of the first `len` tokens from another sequence of the model.
pub(crate) fn copy_grown(device: &Device, from: &Seq, to: &Seq, len: u32) -> Result<()> {
    for (a, b) in from.layout.layers.iter().zip(&to.layout.layers) {
        for (a, b) in [(&a.comp, &b.comp), (&a.index, &b.index)] {
            if let (Some(a), Some(b)) = (a, b) {
                let bytes = len as usize / a.ratio * a.rows.row_bytes();
                device.copy(to.at(b.rows), from.at(a.rows), bytes)?;
            }
        }
    }
    Ok(())
}
