//! A device as the rest of the crate sees it: memory by address, launches by kernel name, graphs.
//!
//! Two kinds stand behind it: a GPU through its driver (`driver`), and the emulator of tests
//! (`emulator`), which runs the same kernels on the processor.

use std::sync::Arc;

use ds4_model::Result;

use crate::args::Args;
use crate::driver::Driver;
#[cfg(feature = "emulator")]
use crate::emulator::Emulator;

/// Facts about a device, for plans and messages.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// The vendor's name.
    pub name: String,
    /// Compute capability as one number, such as 90.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Bytes of memory in all.
    pub memory_bytes: u64,
}

impl DeviceInfo {
    /// Bytes of shared memory that the blocks of a multiprocessor can have together (CUDA C++
    /// Programming Guide, table of compute capabilities).
    pub(crate) fn shared_bytes(&self) -> usize {
        match self.arch {
            80 | 87 => 163 << 10,
            90..120 => 227 << 10,
            _ => 99 << 10,
        }
    }
}

enum Kind {
    Gpu(Driver),
    #[cfg(feature = "emulator")]
    Emulated(Emulator),
}

/// A device with the kernels of one shape loaded.
pub(crate) struct Device {
    kind: Kind,
    /// Facts about it.
    pub info: DeviceInfo,
}

/// What a launch needs besides its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Bytes of weights that the launch reads, for reports.
    pub reads: u64,
}

/// One launch with its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Milliseconds from the first launch's start.
    pub start_ms: f32,
    /// Milliseconds it took, its launch included.
    pub ms: f32,
    /// Bytes of weights it read.
    pub reads: u64,
}

impl Geometry {
    /// Blocks in two dimensions, no dynamic shared memory.
    pub(crate) fn new(x: usize, y: usize, block: u32) -> Self {
        Self { grid: [dim(x), dim(y), 1], block, shared: 0, reads: 0 }
    }

    /// The same with dynamic shared memory.
    pub(crate) fn shared(self, bytes: u32) -> Self {
        Self { shared: bytes, ..self }
    }

    /// The same, known to read so many bytes of weights.
    pub(crate) fn reads(self, reads: u64) -> Self {
        Self { reads, ..self }
    }

    /// The same with a third dimension of blocks.
    pub(crate) fn deep(self, z: usize) -> Self {
        Self { grid: [self.grid[0], self.grid[1], dim(z)], ..self }
    }
}

fn dim(n: usize) -> u32 {
    u32::try_from(n).expect("grids are small")
}

/// A recorded sequence of launches; the emulator does not record, its user launches again.
pub(crate) struct Graph(crate::driver::Graph);

impl Device {
    /// A GPU.
    pub(crate) fn gpu(driver: Driver) -> Self {
        Self { info: driver.info.clone(), kind: Kind::Gpu(driver) }
    }

    /// The emulator.
    #[cfg(feature = "emulator")]
    pub(crate) fn emulated(emulator: Emulator) -> Self {
        let info =
            DeviceInfo { name: "emulator".to_owned(), arch: 0, sms: 4, memory_bytes: 8 << 30 };
        Self { kind: Kind::Emulated(emulator), info }
    }

    /// Memory of `bytes` bytes, zeroed.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buf> {
        // Nothing is a legal size of a table; addresses are distinct all the same.
        let bytes = bytes.max(16);
        let at = match &self.kind {
            Kind::Gpu(d) => d.alloc(bytes)?,
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.alloc(bytes)?,
        };
        let buf = Buf { device: Arc::clone(self), at, bytes };
        self.zero(at, bytes)?;
        Ok(buf)
    }

    /// Bytes of memory not in use.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        match &self.kind {
            Kind::Gpu(d) => d.free_bytes(),
            #[cfg(feature = "emulator")]
            Kind::Emulated(_) => Ok(self.info.memory_bytes),
        }
    }

    /// Host to device; the bytes are read before this returns.
    pub(crate) fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        match &self.kind {
            Kind::Gpu(d) => d.write(to, bytes),
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.write(to, bytes),
        }
    }

    /// Device to host, after all launches before it.
    pub(crate) fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        match &self.kind {
            Kind::Gpu(d) => d.read(from, bytes),
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.read(from, bytes),
        }
    }

    /// As [`Device::read`], through locked memory of at least `bytes` bytes: `f` is given one piece
    /// after the other while the next ones are on their way.
    pub(crate) fn read_pieces(
        &self,
        from: u64,
        through: &mut Pinned,
        bytes: usize,
        mut f: impl FnMut(&[u8]),
    ) -> Result<()> {
        /// The copy of a piece takes about as long as its way from the device.
        const PIECE: usize = 128 << 10;
        let pieces = || (0..bytes).step_by(PIECE).map(|at| at..bytes.min(at + PIECE));
        let mut arrivals = Vec::with_capacity(bytes.div_ceil(PIECE));
        for piece in pieces() {
            let (from, to) = (from + piece.start as u64, &mut through.bytes_mut()[piece]);
            match &self.kind {
                Kind::Gpu(d) => d.read_async(from, to)?,
                #[cfg(feature = "emulator")]
                Kind::Emulated(e) => e.read(from, to)?,
            }
            arrivals.push(self.moment()?);
        }
        for (piece, arrival) in pieces().zip(arrivals) {
            Self::wait(&arrival)?;
            f(&through.bytes()[piece]);
        }
        Ok(())
    }

    /// Within the device, in order with launches.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        match &self.kind {
            Kind::Gpu(d) => d.copy(to, from, bytes),
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.copy(to, from, bytes),
        }
    }

    /// Zeroes memory, in order with launches.
    pub(crate) fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        match &self.kind {
            Kind::Gpu(d) => d.zero(at, bytes),
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.zero(at, bytes),
        }
    }

    /// Waits for everything.
    pub(crate) fn sync(&self) -> Result<()> {
        match &self.kind {
            Kind::Gpu(d) => d.sync(),
            #[cfg(feature = "emulator")]
            Kind::Emulated(_) => Ok(()),
        }
    }

    /// Starts a kernel after all earlier work.
    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        geometry: Geometry,
        args: &mut Args,
    ) -> Result<()> {
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        match &self.kind {
            Kind::Gpu(d) => d.launch(kernel, geometry, args),
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.launch(kernel, geometry, args),
        }
    }

    /// Records the launches that `f` makes. `None` where the device does not record: then they
    /// have been made.
    pub(crate) fn record(&self, f: impl FnOnce() -> Result<()>) -> Result<Option<Graph>> {
        match &self.kind {
            Kind::Gpu(d) => d.record(f).map(|g| Some(Graph(g))),
            #[cfg(feature = "emulator")]
            Kind::Emulated(_) => f().map(|()| None),
        }
    }

    /// Makes recorded launches again.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        match &self.kind {
            Kind::Gpu(d) => d.replay(&graph.0),
            #[cfg(feature = "emulator")]
            Kind::Emulated(_) => Ok(()),
        }
    }

    /// A point in the order of work, after everything started so far.
    pub(crate) fn moment(&self) -> Result<Moment> {
        match &self.kind {
            Kind::Gpu(d) => d.moment().map(Moment::Gpu),
            #[cfg(feature = "emulator")]
            Kind::Emulated(_) => Ok(Moment::Past),
        }
    }

    /// Waits until the work before a moment is done.
    pub(crate) fn wait(moment: &Moment) -> Result<()> {
        match moment {
            Moment::Gpu(m) => m.wait(),
            #[cfg(feature = "emulator")]
            Moment::Past => Ok(()),
        }
    }

    /// Times every launch of `f`; nothing is timed on the emulator.
    pub(crate) fn timed(&self, f: impl FnOnce() -> Result<()>) -> Result<Vec<Timed>> {
        match &self.kind {
            Kind::Gpu(d) => {
                d.start_timing();
                let done = f();
                let times = d.stop_timing();
                done.and(times)
            }
            #[cfg(feature = "emulator")]
            Kind::Emulated(_) => f().map(|()| Vec::new()),
        }
    }

    /// Pinned host memory for uploads of weights and for results; plain memory in the emulator.
    pub(crate) fn pinned(&self, bytes: usize) -> Result<Pinned> {
        match &self.kind {
            Kind::Gpu(d) => d.pinned(bytes).map(Pinned::Locked),
            #[cfg(feature = "emulator")]
            Kind::Emulated(_) => Ok(Pinned::Heap(vec![0; bytes])),
        }
    }

    /// Starts a copy from pinned memory, which must not change before [`Device::sync`].
    pub(crate) fn write_async(&self, to: u64, from: &Pinned, bytes: usize) -> Result<()> {
        match &self.kind {
            Kind::Gpu(d) => d.write_async(to, &from.bytes()[..bytes]),
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.write(to, &from.bytes()[..bytes]),
        }
    }

    fn free(&self, at: u64, bytes: usize) {
        match &self.kind {
            Kind::Gpu(d) => d.free(at),
            #[cfg(feature = "emulator")]
            Kind::Emulated(e) => e.free(at, bytes),
        }
        let _ = bytes;
    }
}

/// A point in the order of work.
pub(crate) enum Moment {
    /// Marked in a GPU's stream.
    Gpu(crate::driver::Event),
    /// Work of the emulator is done when it returns.
    #[cfg(feature = "emulator")]
    Past,
}

/// Host memory that a device copies from without a detour.
pub(crate) enum Pinned {
    /// Locked by the driver.
    Locked(crate::driver::Locked),
    /// Ordinary memory.
    #[cfg(feature = "emulator")]
    Heap(Vec<u8>),
}

impl Pinned {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Locked(l) => l.bytes(),
            #[cfg(feature = "emulator")]
            Self::Heap(v) => v,
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Locked(l) => l.bytes_mut(),
            #[cfg(feature = "emulator")]
            Self::Heap(v) => v,
        }
    }
}

/// Memory on a device, freed when dropped.
pub(crate) struct Buf {
    device: Arc<Device>,
    at: u64,
    bytes: usize,
}

impl Buf {
    /// Its address.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.device.free(self.at, self.bytes);
    }
}
