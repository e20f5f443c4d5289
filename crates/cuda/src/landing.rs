//! Logits on their way to the host: through locked memory, into the caller's vector.
//!
//! Contains `unsafe`: values of a vector that several threads write.

/// `to.extend_from_slice(from)`, with several threads where there is much: the rows of many
/// sequences take as long as a tenth of their step otherwise.
pub(crate) fn append(to: &mut Vec<f32>, from: &[f32]) {
    const THREADS: usize = 4;
    const ALONE: usize = 256 << 10;
    if from.len() <= ALONE {
        return to.extend_from_slice(from);
    }
    to.reserve(from.len());
    let part = from.len().div_ceil(THREADS);
    let spare = &mut to.spare_capacity_mut()[..from.len()];
    std::thread::scope(|scope| {
        for (to, from) in spare.chunks_mut(part).zip(from.chunks(part)) {
            scope.spawn(|| {
                to.write_copy_of_slice(from);
            });
        }
    });
    // SAFETY: exactly these values were reserved and have been written.
    unsafe { to.set_len(to.len() + from.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_appended_as_little_is() {
        let from: Vec<f32> = (0..300_001).map(|i| i as f32).collect();
        let mut to = vec![7.0];
        append(&mut to, &from[..5]);
        append(&mut to, &from);
        assert_eq!(to.len(), 1 + 5 + from.len());
        assert!(to[6..].iter().zip(&from).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
