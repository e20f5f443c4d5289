//! Which vector instructions the kernels use.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust: the specification.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, VL, BW, VNNI and VBMI, and GFNI.
    Avx512,
    /// Arm 64-bit: NEON.
    Neon,
    /// Arm 64-bit: NEON with `sdot`.
    NeonDot,
}

/// The choice made by [`Isa::select`], plus one; 0 before any.
static SELECTED: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// Every instruction set, the most capable last within its architecture.
    pub const ALL: [Self; 5] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon, Self::NeonDot];

    /// What kernels use: the selected one, or the most capable this processor has.
    pub fn current() -> Self {
        match SELECTED.load(Ordering::Relaxed) {
            0 => {
                let best = Self::available().last().unwrap_or(Self::Scalar);
                SELECTED.store(best as u8 + 1, Ordering::Relaxed);
                best
            }
            i => Self::ALL[usize::from(i - 1)],
        }
    }

    /// Makes every kernel of the process use `isa`; for tests, benches and comparisons.
    ///
    /// # Panics
    /// If this processor does not have it.
    pub fn select(isa: Self) {
        assert!(isa.is_available(), "this processor has no {isa:?}");
        SELECTED.store(isa as u8 + 1, Ordering::Relaxed);
    }

    /// Those of this processor, least capable first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("gfni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
    }
}
