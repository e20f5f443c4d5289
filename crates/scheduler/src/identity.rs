//! Whose cache files these are: fingerprints of a model as it computes.

use ds4_kvstore::Identity;
use ds4_model::{ModelFile, Numerics};
use sha2::{Digest, Sha256};

/// Changes with the meaning of a saved state or of a key.
const LAYOUT: &str = "ds4 sequence 1";

/// The identity of a model's sequences: `model` covers the file (header, tokenizer, a sample of every
/// tensor), the roundings and the layout of states; `family` the same without the weights, so that
/// quantisations of one model share it.
pub fn identity(file: &ModelFile, numerics: Numerics) -> Identity {
    let mut model = Sha256::new();
    part(&mut model, LAYOUT.as_bytes());
    part(&mut model, &file.fingerprint.0);
    part(&mut model, format!("{numerics:?}").as_bytes());

    let mut family = Sha256::new();
    part(&mut family, LAYOUT.as_bytes());
    part(&mut family, format!("{:?}", file.dims).as_bytes());
    part(&mut family, format!("{numerics:?}").as_bytes());
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        for text in file.gguf.metadata().strs(key).into_iter().flatten() {
            part(&mut family, text.as_bytes());
        }
    }
    Identity { model: model.finalize().into(), family: family.finalize().into() }
}

fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roundings_and_weights_tell_models_apart_and_weights_alone_not_families() {
        let (a, b) = (ds4_model::testing::quant_gguf(1), ds4_model::testing::quant_gguf(2));
        let file = |gguf: ds4_model::Result<_>| ModelFile::new(gguf.unwrap(), None).unwrap();
        let (a, b) = (file(a), file(b));
        let id = |file, numerics| identity(file, numerics);
        assert_eq!(id(&a, Numerics::PROFILE_G), id(&a, Numerics::PROFILE_G));
        let (x, y) = (id(&a, Numerics::PROFILE_G), id(&b, Numerics::PROFILE_G));
        assert_ne!(x.model, y.model);
        assert_eq!(x.family, y.family);
        let plain = id(&a, Numerics::PLAIN);
        assert!(x.model != plain.model && x.family != plain.family);
        let tiny = id(&ds4_model::testing::tiny(), Numerics::PLAIN);
        assert_ne!(tiny.family, plain.family);
    }
}
