//! Arguments of a launch, in the order and layout of the kernel's parameters.

use std::ffi::c_void;

/// Most bytes of one launch's arguments, each at its alignment.
const BYTES_MAX: usize = 2048;
/// Most arguments of a launch.
const COUNT_MAX: usize = 32;

/// A list of argument values; structs are passed as bytes in the layout the kernel declares.
pub(crate) struct Args {
    bytes: Box<Aligned>,
    len: usize,
    starts: [u16; COUNT_MAX],
    count: usize,
    pointers: [*mut c_void; COUNT_MAX],
}

#[repr(align(64))]
struct Aligned([u8; BYTES_MAX]);

impl Args {
    /// No arguments.
    pub(crate) fn new() -> Self {
        Self {
            bytes: Box::new(Aligned([0; BYTES_MAX])),
            len: 0,
            starts: [0; COUNT_MAX],
            count: 0,
            pointers: [std::ptr::null_mut(); COUNT_MAX],
        }
    }

    /// A value of `align` bytes of alignment.
    pub(crate) fn raw(mut self, value: &[u8], align: usize) -> Self {
        let start = self.len.next_multiple_of(align);
        self.bytes.0[start..start + value.len()].copy_from_slice(value);
        self.starts[self.count] = u16::try_from(start).expect("arguments are small");
        self.count += 1;
        self.len = start + value.len();
        self
    }

    /// An address on the device.
    pub(crate) fn ptr(self, at: u64) -> Self {
        self.raw(&at.to_le_bytes(), 8)
    }

    /// An `int`.
    pub(crate) fn int(self, v: usize) -> Self {
        self.raw(&i32::try_from(v).expect("counts of a step fit").to_le_bytes(), 4)
    }

    /// An `int64_t`.
    pub(crate) fn long(self, v: usize) -> Self {
        self.raw(&(v as u64).to_le_bytes(), 8)
    }

    /// A `float`.
    pub(crate) fn float(self, v: f32) -> Self {
        self.raw(&v.to_le_bytes(), 4)
    }

    /// Pointers to the values, as a driver takes them.
    pub(crate) fn pointers(&mut self) -> *mut *mut c_void {
        for i in 0..self.count {
            self.pointers[i] = self.bytes.0[usize::from(self.starts[i])..].as_mut_ptr().cast();
        }
        self.pointers.as_mut_ptr()
    }
}
