//! Directional steering: a direction per layer whose share in the sublayers' outputs is changed
//! (cli.md §0).
//!
//! It is part of the model as far as anyone above can tell: it changes every value that follows, so
//! it enters the fingerprint that ties saved sequences to a model.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{Dims, Error, Fingerprint, Result};

/// One direction for each layer, and how strongly the outputs are moved: `y −= scale·v·(v·y)`.
#[derive(Clone, PartialEq)]
pub struct Steering {
    /// `[n_layer, n_embd]`.
    directions: Vec<f32>,
    n_embd: usize,
    /// Scale for the outputs of attention; 0 leaves them alone.
    pub attn: f32,
    /// Scale for the outputs of the FFN; 0 leaves them alone.
    pub ffn: f32,
}

impl Steering {
    /// Reads little-endian f32 values, `[n_layer, n_embd]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the length is not that of this model, or a value not finite.
    pub fn from_bytes(bytes: &[u8], dims: &Dims, attn: f32, ffn: f32) -> Result<Self> {
        let (layers, n_embd) = (dims.n_layer, dims.n_embd);
        let (wanted, found) = (layers * n_embd * size_of::<f32>(), bytes.len());
        if found != wanted {
            return Err(Error::Unsupported(format!(
                "{found} bytes of steering directions, not {wanted}: {layers} layers of {n_embd} \
                 f32 values"
            )));
        }
        let (words, _) = bytes.as_chunks::<4>();
        let directions: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        if let Some(at) = directions.iter().position(|v| !v.is_finite()) {
            let (layer, value) = (at / n_embd, directions[at]);
            return Err(Error::Unsupported(format!(
                "the steering direction of layer {layer} has the value {value}"
            )));
        }
        Ok(Self { directions, n_embd, attn, ffn })
    }

    /// The direction of a trunk layer, `[n_embd]`.
    pub fn direction(&self, layer: usize) -> &[f32] {
        &self.directions[layer * self.n_embd..][..self.n_embd]
    }

    /// The fingerprint of a model that is steered in this way.
    pub(crate) fn fingerprint(&self, model: Fingerprint) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(model.0);
        for value in [self.attn, self.ffn].iter().chain(&self.directions) {
            hash.update(value.to_le_bytes());
        }
        Fingerprint(hash.finalize().into())
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = self.directions.len() / self.n_embd;
        f.debug_struct("Steering")
            .field("layers", &layers)
            .field("attn", &self.attn)
            .field("ffn", &self.ffn)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_belong_to_layers_and_change_the_fingerprint() {
        let mut model = crate::testing::tiny();
        let plain = model.fingerprint;
        let (layers, n_embd) = (model.dims.n_layer, model.dims.n_embd);
        let values: Vec<f32> = (0..layers * n_embd).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let read = |bytes: &[u8], ffn| Steering::from_bytes(bytes, &model.dims, 0.0, ffn);
        let steering = read(&bytes, 1.0).unwrap();
        assert_eq!(steering.direction(2), &values[2 * n_embd..3 * n_embd]);
        let other = read(&bytes, 2.0).unwrap();
        let error = read(&bytes[4..], 1.0).unwrap_err().to_string();
        assert!(error.contains("bytes of steering directions"), "{error}");
        let mut damaged = bytes.clone();
        damaged[4 * n_embd..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let error = read(&damaged, 1.0).unwrap_err().to_string();
        assert_eq!(error, "the steering direction of layer 1 has the value NaN");
        model.steer(steering);
        let first = model.fingerprint;
        assert_ne!(first, plain);
        model.steer(other);
        assert!(model.fingerprint != first && model.fingerprint != plain);
    }
}
