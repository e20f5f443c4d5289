//! The tool map behind the payload: which sampled DSML block a tool-call id stands for (kvcache.md §2.3).

use std::collections::BTreeMap;

const MAGIC: [u8; 3] = *b"KTM";
const VERSION: u8 = 1;
/// Longest accepted id, in bytes.
const ID_BYTES_MAX: usize = 256;
/// Largest accepted map.
const ENTRIES_MAX: usize = 400_000;

/// One tool-call id and the exact block it was sampled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolEntry {
    /// The id handed to the client.
    pub id: String,
    /// The sampled bytes of the whole block.
    pub dsml: Vec<u8>,
}

/// Encodes a map, sorted by id so that equal maps give equal bytes. Entries out of bounds are left out.
pub(crate) fn encode(entries: &[ToolEntry]) -> Vec<u8> {
    let sorted: BTreeMap<&[u8], &[u8]> = entries
        .iter()
        .filter(|e| (1..=ID_BYTES_MAX).contains(&e.id.len()) && u32::try_from(e.dsml.len()).is_ok())
        .take(ENTRIES_MAX)
        .map(|e| (e.id.as_bytes(), e.dsml.as_slice()))
        .collect();
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    out.extend(len_u32(sorted.len()).to_le_bytes());
    for (id, dsml) in sorted {
        out.extend(len_u32(id.len()).to_le_bytes());
        out.extend(len_u32(dsml.len()).to_le_bytes());
        out.extend(id);
        out.extend(dsml);
    }
    out
}

fn len_u32(n: usize) -> u32 {
    u32::try_from(n).expect("bounded when the entry was accepted")
}

/// Decodes a map. A violation ends the reading: what came before it stays usable.
pub(crate) fn decode(bytes: &[u8]) -> Vec<ToolEntry> {
    let mut out = Vec::new();
    let Some((head, mut rest)) = bytes.split_at_checked(8) else { return out };
    if head[..3] != MAGIC || head[3] != VERSION {
        return out;
    }
    let count = read_u32(&head[4..]).min(ENTRIES_MAX);
    while out.len() < count {
        let Some(entry) = take_entry(&mut rest) else { break };
        out.push(entry);
    }
    out
}

fn take_entry(rest: &mut &[u8]) -> Option<ToolEntry> {
    let (head, tail) = rest.split_at_checked(8)?;
    let (id_len, dsml_len) = (read_u32(&head[..4]), read_u32(&head[4..]));
    if !(1..=ID_BYTES_MAX).contains(&id_len) {
        return None;
    }
    let (id, tail) = tail.split_at_checked(id_len)?;
    let (dsml, tail) = tail.split_at_checked(dsml_len)?;
    let id = std::str::from_utf8(id).ok()?.to_owned();
    *rest = tail;
    Some(ToolEntry { id, dsml: dsml.to_vec() })
}

fn read_u32(b: &[u8]) -> usize {
    u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<ToolEntry> {
        vec![
            ToolEntry { id: "call_b".into(), dsml: b"block two".to_vec() },
            ToolEntry { id: "call_a".into(), dsml: b"block one".to_vec() },
        ]
    }

    #[test]
    fn round_trip_is_sorted() {
        let got = decode(&encode(&sample()));
        assert_eq!(got.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["call_a", "call_b"]);
        assert_eq!(got[1].dsml, b"block two");
    }

    #[test]
    fn every_truncation_keeps_a_prefix() {
        let bytes = encode(&sample());
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).len() < 2);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let mut whole = MAGIC.to_vec();
            whole.push(VERSION);
            whole.extend(bytes);
            decode(&whole);
        }
    }
}
