//! Where the bytes of a file live: mapped, in anonymous memory, on the heap or in the program.
//!
//! The only module with `unsafe` code: mapping a file and giving its pages back.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapMut};

/// Read-only bytes with an owner.
pub struct Bytes(Owner);

enum Owner {
    /// Part of the program (an embedded model).
    Static(&'static [u8]),
    /// On the heap.
    Heap(Box<[u8]>),
    /// A mapped file; its pages can be dropped and read again.
    File(Mmap),
    /// A mapping whose pages must stay.
    Memory(Mmap),
}

impl Bytes {
    /// Maps a file read-only. The file must not be changed while it is mapped.
    pub fn map_file(path: &Path) -> io::Result<Self> {
        // Asked before opening: opening a named pipe would block.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only. As with every reader of mapped files,
        // another process that rewrites the file while it is open breaks its promise to us;
        // nothing is executed or interpreted as an address from these bytes.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(Owner::File(map)))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Owner::Static(b) => b,
            Owner::Heap(b) => b,
            Owner::File(m) | Owner::Memory(m) => m,
        }
    }

    fn map(&self) -> Option<&Mmap> {
        match &self.0 {
            Owner::File(m) | Owner::Memory(m) => Some(m),
            Owner::Static(_) | Owner::Heap(_) => None,
        }
    }

    /// Passes one hint about `range` to the system; nothing to do for bytes that are not mapped.
    #[cfg(unix)]
    pub(crate) fn advise(&self, advice: memmap2::Advice, range: Range<usize>) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.as_slice().len(), "{range:?}");
        match self.map() {
            Some(map) if !range.is_empty() => map.advise_range(advice, range.start, range.len()),
            _ => Ok(()),
        }
    }

    /// Whether the bytes are a mapped file, whose pages can be dropped and read again.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.0, Owner::File(_))
    }

    /// Gives every page that `range` touches back to the system, if it can be read again from the
    /// file; bytes beside the range that share its first or last page go as well.
    #[cfg(unix)]
    pub(crate) fn evict(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.as_slice().len(), "{range:?}");
        match &self.0 {
            Owner::File(map) if !range.is_empty() => {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: as in `release`: no value changes. That the call is widened to whole
                // pages stays within the same mapping.
                unsafe { map.unchecked_advise_range(advice, range.start, range.len()) }
            }
            _ => Ok(()),
        }
    }

    /// Gives the pages that lie wholly inside `range` back to the system, if they can be read
    /// again from the file.
    #[cfg(unix)]
    pub(crate) fn release(&self, range: Range<usize>) -> io::Result<()> {
        /// A multiple of every page size in use (4, 16 and 64 KiB).
        const PAGE: usize = 1 << 16;
        assert!(range.start <= range.end && range.end <= self.as_slice().len(), "{range:?}");
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        match &self.0 {
            Owner::File(map) if start < end => {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: the pages belong to a read-only private mapping of a file, so dropping
                // them changes no value: the next access reads the same bytes from the file.
                unsafe { map.unchecked_advise_range(advice, start, end - start) }
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.0 {
            Owner::Static(_) => "static",
            Owner::Heap(_) => "heap",
            Owner::File(_) => "file",
            Owner::Memory(_) => "memory",
        };
        write!(f, "Bytes({kind}, {})", self.as_slice().len())
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Owner::Static(bytes))
    }
}

impl From<Box<[u8]>> for Bytes {
    fn from(bytes: Box<[u8]>) -> Self {
        Self(Owner::Heap(bytes))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Owner::Heap(bytes.into_boxed_slice()))
    }
}

impl From<Mmap> for Bytes {
    fn from(map: Mmap) -> Self {
        Self(Owner::Memory(map))
    }
}

/// Zeroed memory from the system that takes room only where it is written; becomes [`Bytes`].
#[derive(Debug)]
pub struct Memory(MmapMut);

impl Memory {
    /// `len` zero bytes, in huge pages where the system has them.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len)?;
        #[cfg(target_os = "linux")]
        // Only a hint: kernels without huge pages refuse it, and then small pages do.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self(map))
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Ends writing.
    pub fn freeze(self) -> io::Result<Bytes> {
        Ok(self.0.make_read_only()?.into())
    }
}
