//! Matrices on the device: uploaded once, in the layout its kernels read (`kernels/common.cuh`).

use std::sync::Arc;

use ds4_gguf::TensorType;
use ds4_model::{Matrix, Result};
use zerocopy::{Immutable, IntoBytes};

use crate::args::Args;
use crate::device::{Buf, Device, Geometry};
use crate::upload::Uploader;

/// Storage format on the device; the numbers are those of `common.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Form {
    F32 = 0,
    F16 = 1,
    Q8_0 = 2,
    Iq2Xxs = 3,
    Q2K = 4,
    Q4K = 5,
    Mxfp4 = 6,
}

/// `Mat` of `common.cuh`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct MatArg {
    q: u64,
    s: u64,
    d: u64,
    form: i32,
    rows: i32,
    cols: i32,
    pad: i32,
}

impl MatArg {
    /// No matrix.
    pub(crate) const NONE: Self = Self { q: 0, s: 0, d: 0, form: 0, rows: 0, cols: 0, pad: 0 };
}

/// A matrix, or a stack of them, on the device.
pub(crate) struct DeviceMatrix {
    /// Storage format.
    pub form: Form,
    /// Rows of one matrix of the stack.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    q: Buf,
    s: Option<Buf>,
    d: Option<Buf>,
}

/// Bytes of the planes of `rows` rows.
struct Planes {
    q: usize,
    s: usize,
    d: usize,
}

impl Form {
    /// How a tensor is kept: routed experts in their own format, dense matrices as `Q8_0` or F16
    /// where the file has them so, all else in f32.
    fn of(ty: TensorType, is_expert: bool) -> Self {
        match (ty, is_expert) {
            (TensorType::F16, _) => Self::F16,
            (TensorType::Q8_0, _) => Self::Q8_0,
            (TensorType::Iq2Xxs, true) => Self::Iq2Xxs,
            (TensorType::Q2K, true) => Self::Q2K,
            (TensorType::Q4K, true) => Self::Q4K,
            (TensorType::Mxfp4, true) => Self::Mxfp4,
            _ => Self::F32,
        }
    }

    fn planes(self, rows: usize, cols: usize) -> Planes {
        let n = rows * cols;
        let (q, s, d) = match self {
            Self::F32 => (4 * n, 0, 0),
            Self::F16 => (2 * n, 0, 0),
            Self::Q8_0 => (n, 0, n / 32 * 2),
            Self::Iq2Xxs => (n / 32 * 8, n / 32 / 8 * 4, n / 256 * 2),
            Self::Q2K => (n / 256 * 64, n / 256 * 16, n / 256 * 4),
            Self::Q4K => (n / 256 * 128, n / 256 * 16, n / 256 * 4),
            Self::Mxfp4 => (n / 32 * 16, n / 32, 0),
        };
        Planes { q, s, d }
    }

    /// The kernel that lays out raw blocks of the file.
    fn repack(self) -> Option<&'static str> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Q8_0 => Some("repack_q8_0"),
            Self::Iq2Xxs => Some("repack_iq2_xxs"),
            Self::Q2K => Some("repack_q2_k"),
            Self::Q4K => Some("repack_q4_k"),
            Self::Mxfp4 => Some("repack_mxfp4"),
        }
    }
}

/// Bytes that a matrix takes on the device.
pub(crate) fn device_bytes(w: &Matrix, is_expert: bool) -> u64 {
    let p = Form::of(w.ty, is_expert).planes(w.stack * w.rows, w.cols);
    (p.q + p.s + p.d) as u64
}

impl DeviceMatrix {
    /// Uploads a dense matrix.
    pub(crate) fn new(up: &mut Uploader, w: &Matrix) -> Result<Self> {
        Self::part(up, w, Form::of(w.ty, false), w.stack)
    }

    /// A dense matrix from its planes.
    #[cfg(test)]
    pub(crate) fn of_planes(
        device: &Arc<Device>,
        (form, rows, cols): (Form, usize, usize),
        q: &[u8],
        d: &[u8],
    ) -> Result<Self> {
        let buf = |bytes: &[u8]| -> Result<Buf> {
            let buf = device.alloc(bytes.len())?;
            device.write(buf.at(), bytes)?;
            Ok(buf)
        };
        Ok(Self { form, rows, cols, q: buf(q)?, s: None, d: Some(buf(d)?) })
    }

    /// Uploads the first `n` matrices of a stack of experts.
    pub(crate) fn experts(up: &mut Uploader, w: &Matrix, n: usize) -> Result<Self> {
        Self::part(up, w, Form::of(w.ty, true), n)
    }

    fn part(up: &mut Uploader, w: &Matrix, form: Form, n: usize) -> Result<Self> {
        let device = Arc::clone(up.device());
        let rows = n * w.rows;
        let bytes = &w.bytes()[..rows * w.row_bytes()];
        let p = form.planes(rows, w.cols);
        let plane = |bytes: usize| (bytes > 0).then(|| device.alloc(bytes)).transpose();
        let m = Self {
            form,
            rows: w.rows,
            cols: w.cols,
            q: device.alloc(p.q)?,
            s: plane(p.s)?,
            d: plane(p.d)?,
        };
        match form.repack() {
            Some(kernel) => m.upload_blocks(up, bytes, w.row_bytes(), kernel)?,
            None if matches!(w.ty, TensorType::F16 | TensorType::F32) => {
                up.copy(m.q.at(), bytes)?;
            }
            None => {
                let mut values = vec![0.0; rows * w.cols];
                ds4_gguf::dequantize_row(w.ty, bytes, &mut values);
                up.copy(m.q.at(), values.as_bytes())?;
            }
        }
        Ok(m)
    }

    /// Uploads raw blocks in pieces of whole units of 8 rows, each laid out on the device.
    fn upload_blocks(
        &self,
        up: &mut Uploader,
        bytes: &[u8],
        row_bytes: usize,
        kernel: &'static str,
    ) -> Result<()> {
        let per = (Uploader::PIECE_BYTES / row_bytes / 8 * 8).max(8);
        let mut first = 0;
        for piece in bytes.chunks(per * row_bytes) {
            let n = piece.len() / row_bytes;
            let (q, s, d, cols) =
                (self.q.at(), at(self.s.as_ref()), at(self.d.as_ref()), self.cols);
            up.piece(piece, |device: &Device, raw: u64| {
                let mut args = Args::new().ptr(raw).ptr(q).ptr(s).ptr(d);
                args = args.long(first).long(n).int(cols);
                // Grid-stride over blocks of the format.
                let blocks = (n * cols / 32).div_ceil(256).clamp(1, 4096);
                device.launch(kernel, Geometry::new(blocks, 1, 256), &mut args)
            })?;
            first += n;
        }
        Ok(())
    }

    /// Address and bytes of its values, without scales that lie apart.
    pub(crate) fn values(&self) -> (u64, u64) {
        (self.q.at(), self.form.planes(self.rows, self.cols).q as u64)
    }

    /// Bytes of one matrix of the stack.
    pub(crate) fn one_bytes(&self) -> u64 {
        let p = self.form.planes(self.rows, self.cols);
        (p.q + p.s + p.d) as u64
    }

    /// As an argument of a kernel.
    pub(crate) fn arg(&self) -> MatArg {
        let int = |n: usize| i32::try_from(n).expect("checked by Dims");
        MatArg {
            q: self.q.at(),
            s: at(self.s.as_ref()),
            d: at(self.d.as_ref()),
            form: self.form as i32,
            rows: int(self.rows),
            cols: int(self.cols),
            pad: 0,
        }
    }
}

fn at(buf: Option<&Buf>) -> u64 {
    buf.map_or(0, Buf::at)
}
