//! Weights on their way to the device: from the file's pages through locked memory, in pieces, so
//! that copying there, the transfer and the layout on the device overlap.

use std::sync::Arc;

use ds4_model::Result;
use zerocopy::IntoBytes;

use crate::device::{Buf, Device, Pinned};

/// Bytes of a piece.
const PIECE: usize = 32 << 20;
/// Kernels read whole lines of 16 bytes, the last one beyond a piece's end.
const PAD: usize = 16;
/// Pieces under way.
const DEPTH: usize = 4;
/// Threads that copy a piece out of the page cache.
const COPIERS: usize = 4;

/// Moves bytes to a device.
pub(crate) struct Uploader {
    device: Arc<Device>,
    slots: Vec<Slot>,
    next: usize,
}

struct Slot {
    host: Pinned,
    raw: Buf,
    /// Work that reads this slot has been started; it is done once this many launches are.
    busy: Option<crate::device::Moment>,
}

impl Uploader {
    /// Most bytes of a piece.
    pub(crate) const PIECE_BYTES: usize = PIECE;

    pub(crate) fn new(device: &Arc<Device>) -> Result<Self> {
        let slot = || {
            Ok(Slot { host: device.pinned(PIECE)?, raw: device.alloc(PIECE + PAD)?, busy: None })
        };
        let slots = (0..DEPTH).map(|_| slot()).collect::<Result<_>>()?;
        Ok(Self { device: Arc::clone(device), slots, next: 0 })
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Brings at most [`Uploader::PIECE_BYTES`] bytes to the device and lets `use_raw` start work
    /// that reads them there.
    pub(crate) fn piece(
        &mut self,
        bytes: &[u8],
        use_raw: impl FnOnce(&Device, u64) -> Result<()>,
    ) -> Result<()> {
        let slot = &mut self.slots[self.next];
        self.next = (self.next + 1) % DEPTH;
        if let Some(moment) = slot.busy.take() {
            Device::wait(&moment)?;
        }
        copy(&mut slot.host.bytes_mut()[..bytes.len()], bytes);
        self.device.write_async(slot.raw.at(), &slot.host, bytes.len())?;
        use_raw(&self.device, slot.raw.at())?;
        slot.busy = Some(self.device.moment()?);
        Ok(())
    }

    /// Copies bytes as they are.
    pub(crate) fn copy(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let to = to + (i * PIECE) as u64;
            self.piece(piece, |device, raw| device.copy(to, raw, piece.len()))?;
        }
        Ok(())
    }

    /// A vector of f32 values on the device.
    pub(crate) fn floats(&mut self, values: &[f32]) -> Result<Buf> {
        self.bytes(values.as_bytes())
    }

    /// Bytes in memory of their own on the device.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<Buf> {
        let buf = self.device.alloc(bytes.len())?;
        self.copy(buf.at(), bytes)?;
        Ok(buf)
    }
}

/// `to.copy_from_slice(from)` with several threads: one does not keep up with the bus.
fn copy(to: &mut [u8], from: &[u8]) {
    const ALONE: usize = 1 << 20;
    if from.len() <= ALONE {
        return to.copy_from_slice(from);
    }
    let part = from.len().div_ceil(COPIERS);
    std::thread::scope(|scope| {
        for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
            scope.spawn(|| to.copy_from_slice(from));
        }
    });
}
