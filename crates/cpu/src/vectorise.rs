//! Plain loops compiled for more than the baseline.
//!
//! Contains `unsafe`: calls of functions compiled for instructions that were found at run time.

/// Defines a function twice, for the baseline and for AVX2, and chooses when it is called. Loops
/// are vectorised by the compiler; it neither contracts nor reorders f32 arithmetic, so both give
/// the same bits.
macro_rules! vectorised {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn any($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                any($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            if crate::dot::Isa::current() >= crate::dot::Isa::Avx2 {
                // SAFETY: the current instruction set is one that this processor has.
                return unsafe { avx2($($arg),*) };
            }
            any($($arg),*)
        }
    )*};
}

pub(crate) use vectorised;
