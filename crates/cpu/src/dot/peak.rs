//! The instructions that kernels spend their time in, alone: what products could reach at most.
//!
//! Contains `unsafe` types of functions: who calls one knows that the processor has it.

use super::Isa;

/// A loop of one instruction over registers.
///
/// Unsafe to call: the processor must have the instruction.
pub(crate) struct Instruction {
    /// Its name and the registers' size.
    pub name: &'static str,
    /// Products of integers, else of f32.
    pub integer: bool,
    /// Multiply-adds of one turn of the loop.
    pub macs: usize,
    /// So many turns.
    pub turns: unsafe fn(usize),
}

/// Those of an instruction set's integer and f32 products.
pub(crate) fn instructions(isa: Isa) -> &'static [Instruction] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &x86::AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &x86::AVX512,
        _ => &[],
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![cfg_attr(
        not(test),
        expect(clippy::wildcard_imports, reason = "the intrinsics' names are their own prefix")
    )]

    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::Instruction;

    /// Sums that do not wait for each other: more than an instruction takes cycles, times two.
    const SUMS: usize = 12;

    pub(super) static AVX2: [Instruction; 2] = [
        Instruction {
            name: "vpmaddubsw + vpaddw ymm",
            integer: true,
            macs: 32 * SUMS,
            turns: maddubs,
        },
        Instruction { name: "vfmadd ymm", integer: false, macs: 8 * SUMS, turns: fma256 },
    ];

    pub(super) static AVX512: [Instruction; 2] = [
        Instruction { name: "vpdpbusd zmm", integer: true, macs: 64 * SUMS, turns: dpbusd },
        Instruction { name: "vfmadd zmm", integer: false, macs: 16 * SUMS, turns: fma512 },
    ];

    #[target_feature(enable = "avx2")]
    fn maddubs(turns: usize) {
        let one = black_box(_mm256_set1_epi8(1));
        let mut s = black_box([_mm256_setzero_si256(); SUMS]);
        for _ in 0..turns {
            for s in &mut s {
                // The factor changes, so that the product is not taken out of the loop.
                *s = _mm256_add_epi16(*s, _mm256_maddubs_epi16(*s, one));
            }
        }
        black_box(s);
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma256(turns: usize) {
        let x = black_box(_mm256_set1_ps(0.5));
        let mut s = black_box([_mm256_setzero_ps(); SUMS]);
        for _ in 0..turns {
            for s in &mut s {
                *s = _mm256_fmadd_ps(x, x, *s);
            }
        }
        black_box(s);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dpbusd(turns: usize) {
        let one = black_box(_mm512_set1_epi8(1));
        let mut s = black_box([_mm512_setzero_si512(); SUMS]);
        for _ in 0..turns {
            for s in &mut s {
                *s = _mm512_dpbusd_epi32(*s, one, one);
            }
        }
        black_box(s);
    }

    #[target_feature(enable = "avx512f")]
    fn fma512(turns: usize) {
        let x = black_box(_mm512_set1_ps(0.5));
        let mut s = black_box([_mm512_setzero_ps(); SUMS]);
        for _ in 0..turns {
            for s in &mut s {
                *s = _mm512_fmadd_ps(x, x, *s);
            }
        }
        black_box(s);
    }
}
