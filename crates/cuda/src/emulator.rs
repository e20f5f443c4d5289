//! The kernels on the processor: built by the system's C++ compiler for one shape, loaded as a
//! library, run a block at a time. For tests on machines without a GPU; slow, but the same
//! arithmetic in the same order.
//!
//! Contains `unsafe`: the library's calls and the memory that stands for a device's.

#![expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "the methods are those of the driver, which need and do more"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use ds4_model::{Error, Result};
use libloading::Library;

use crate::args::Args;
use crate::device::Geometry;
use crate::shape::Defines;

type Launch = unsafe extern "C" fn(
    *const c_char,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut *mut c_void,
) -> c_int;
type Message = unsafe extern "C" fn() -> *const c_char;

/// A library of kernels and how to run them.
pub(crate) struct Emulator {
    /// Owns what the functions point into.
    _library: Library,
    launch: Launch,
    message: Message,
}

fn fail(what: impl std::fmt::Display) -> Error {
    Error::Device(format!("emulator: {what}"))
}

/// One launch at a time in the process: libraries of several shapes may be loaded, and runners of
/// several tests share one.
static TURN: Mutex<()> = Mutex::new(());

/// Bytes behind every allocation that nobody may write.
const GUARD: usize = 4096;
/// What they hold.
const GUARD_BYTE: u8 = 0xa5;
/// Alignment of every allocation, as on a device.
const ALIGN: usize = 256;

impl Emulator {
    /// Builds the kernels of a shape, or takes the library an earlier run has built.
    pub(crate) fn new(defines: &Defines) -> Result<Self> {
        let path = build(defines)?;
        // SAFETY: the library was built from this crate's sources; its initialisers only fill a
        // table of kernels.
        let library = unsafe { Library::new(&path) }.map_err(fail)?;
        // SAFETY: the signatures are those of `emu/launch.h`.
        let (launch, message) = unsafe {
            let launch = *library.get::<Launch>(b"ds4_emu_launch\0").map_err(fail)?;
            let message = *library.get::<Message>(b"ds4_emu_error\0").map_err(fail)?;
            (launch, message)
        };
        Ok(Self { _library: library, launch, message })
    }

    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64> {
        let layout = Layout::from_size_align(bytes + GUARD, ALIGN).map_err(fail)?;
        // SAFETY: the size is not zero: `Device::alloc` asks for 16 bytes at least.
        let at = unsafe { alloc_zeroed(layout) };
        if at.is_null() {
            return Err(Error::Memory(format!("{bytes} bytes for the emulator")));
        }
        // SAFETY: the guard lies behind the bytes that were asked for.
        unsafe { at.add(bytes).write_bytes(GUARD_BYTE, GUARD) };
        Ok(at as u64)
    }

    pub(crate) fn free(&self, at: u64, bytes: usize) {
        let layout = Layout::from_size_align(bytes + GUARD, ALIGN).expect("it was allocated");
        // SAFETY: from `alloc`, with its guard.
        let guard = unsafe { std::slice::from_raw_parts((at as *const u8).add(bytes), GUARD) };
        let whole = guard.iter().all(|b| *b == GUARD_BYTE);
        assert!(whole || std::thread::panicking(), "a kernel wrote past {bytes} bytes of memory");
        // SAFETY: from `alloc` with this size, freed once by its `Buf`.
        unsafe { dealloc(at as *mut u8, layout) };
    }

    pub(crate) fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: a live allocation of at least this size.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    pub(crate) fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as in `write`.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    pub(crate) fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }

    pub(crate) fn launch(&self, name: &str, g: Geometry, args: &mut Args) -> Result<()> {
        let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let c_name = CString::new(name).expect("names have no zeros");
        let [x, y, z] = g.grid;
        // SAFETY: the arguments are those the kernel declares (this crate's invariant).
        let result = unsafe {
            (self.launch)(c_name.as_ptr(), x, y, z, g.block, 1, 1, g.shared, args.pointers())
        };
        if result == 0 {
            return Ok(());
        }
        // SAFETY: a terminated string of the calling thread.
        let message = unsafe { CStr::from_ptr((self.message)()) };
        Err(fail(format!("{name}: {}", message.to_string_lossy())))
    }
}

/// One build at a time in the process: threads would write the same file.
static BUILD: Mutex<()> = Mutex::new(());

/// A name of the state of the kernels and of the emulator, whose files are in `folder`.
fn sources(folder: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    let texts = files.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>()?;
    let kernels = crate::image::sources_key();
    let parts = std::iter::once(kernels.as_bytes()).chain(texts.iter().map(Vec::as_slice));
    Ok(crate::image::hash(&parts.collect::<Vec<_>>()))
}

/// Compiles the kernels into a library in the system's temporary folder.
fn build(defines: &Defines) -> Result<PathBuf> {
    let _turn = BUILD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::temp_dir().join("ds4-cuda-emulator");
    std::fs::create_dir_all(&folder)?;
    let key = defines.key(&sources(&root.join("emu"))?);
    let path = folder.join(format!("{key}.so"));
    if path.exists() {
        return Ok(path);
    }
    // Another process may build the same: each has its own file until it is complete.
    let part = folder.join(format!("{key}.{}.part", std::process::id()));
    let out = Command::new("g++")
        .args(["-std=c++20", "-O2", "-fPIC", "-shared", "-pthread", "-DDS4_EMU", "-w", "-x", "c++"])
        .arg(format!("-I{}", root.join("kernels").display()))
        .arg(format!("-I{}", root.join("emu").display()))
        // Launches come one at a time.
        .arg("-DDS4_EMU_SINGLE")
        .args(defines.flags())
        .arg("-o")
        .arg(&part)
        .arg(root.join("kernels/ds4.cu"))
        .output()
        .map_err(|e| fail(format!("g++ is needed to build it: {e}")))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        return Err(fail(text.lines().take(20).collect::<Vec<_>>().join("\n")));
    }
    std::fs::rename(&part, &path)?;
    Ok(path)
}
