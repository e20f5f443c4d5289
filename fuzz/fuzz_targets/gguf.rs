//! Any bytes as a GGUF file: an error or a file of which everything can be read and written again.
#![no_main]

use ds4_gguf::write::Draft;
use ds4_gguf::{Gguf, Value, dequantize_row};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = match Gguf::from_bytes("fuzz", bytes.to_vec()) {
        Ok(file) => file,
        Err(e) => {
            let text = e.to_string();
            assert!(!text.contains('\n') && text.len() < 2000, "{text}");
            return;
        }
    };
    let mut draft = Draft::new("again");
    for (key, value) in file.metadata().iter() {
        assert!(value.to_string().len() < 2000);
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
        }
        draft.set(key, value).expect("it was read");
    }
    for tensor in file.tensors() {
        let row = tensor.ty.row_bytes(tensor.cols()).expect("it was read");
        let mut x = vec![0.0; tensor.cols()];
        for bytes in file.tensor_bytes(tensor).chunks(row) {
            dequantize_row(tensor.ty, bytes, &mut x);
        }
        draft.tensor(&tensor.name, &tensor.dims, tensor.ty).expect("it was read");
    }
    let again = draft.layout().expect("it was read").in_memory(|tensor, bytes| {
        let old = file.tensor(&tensor.name).expect("the same tensors");
        bytes.copy_from_slice(file.tensor_bytes(old));
    });
    let again = again.expect("what is written can be read");
    assert!(again.metadata().iter().eq(file.metadata().iter()) || has_nan(&file));
    assert_eq!(again.tensors().len(), file.tensors().len());
});

/// NaN differs from itself.
fn has_nan(file: &Gguf) -> bool {
    file.metadata().iter().any(|(_, v)| v.as_f32().is_some_and(f32::is_nan))
}
