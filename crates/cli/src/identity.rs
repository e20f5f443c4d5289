//! Which saved sessions belong to a model: to exactly this one, or to the same in other weights.

use ds4_kvstore::Identity;
use ds4_model::{ModelFile, Numerics};
use sha2::{Digest, Sha256};

/// The identity of sessions that a model computes with these roundings.
pub(crate) fn identity(file: &ModelFile, numerics: Numerics) -> Identity {
    // The state of the MTP block is part of a saved session.
    let how = format!("{numerics:?} mtp {}", file.has_mtp());
    let mtp = file.mtp.as_deref().map(ds4_model::Fingerprint::of);
    let digest = |parts: &[&[u8]]| {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    };
    let tokens = file.gguf.metadata().strs("tokenizer.ggml.tokens").into_iter().flatten();
    let tokens: Vec<u8> = tokens.flat_map(|t| [t.as_bytes(), b"\0"].concat()).collect();
    let dims = format!("{:?}", file.dims);
    let mtp = mtp.map(|fingerprint| fingerprint.0);
    Identity {
        model: digest(&[
            &file.fingerprint.0,
            mtp.as_ref().map_or(&[], |bytes| bytes.as_slice()),
            how.as_bytes(),
        ]),
        family: digest(&[dims.as_bytes(), &tokens, how.as_bytes()]),
    }
}
