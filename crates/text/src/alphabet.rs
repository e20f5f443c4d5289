//! The printable alphabet of byte-level vocabularies: one character for each byte (§A.2 step 4).

/// The character that stands for each byte: printable Latin-1 stands for itself, the remaining 68
/// bytes in ascending order for U+0100, U+0101, …
pub(crate) const TO_CHAR: [char; 256] = to_char();

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

const fn to_char() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut byte = 0u8;
    let mut next = 0x100u32;
    loop {
        table[byte as usize] = if stands_for_itself(byte) {
            byte as char
        } else {
            next += 1;
            match char::from_u32(next - 1) {
                Some(c) => c,
                None => '\0',
            }
        };
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

/// The byte that a character stands for.
pub(crate) fn to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&b| stands_for_itself(b)),
        code => TO_CHAR.iter().position(|&x| u32::from(x) == code).and_then(|b| b.try_into().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        assert_eq!(TO_CHAR[usize::from(b'A')], 'A');
        assert_eq!(TO_CHAR[usize::from(b' ')], 'Ġ');
        assert_eq!(TO_CHAR[usize::from(b'\n')], 'Ċ');
        assert_eq!(TO_CHAR[0], 'Ā');
        for byte in 0..=255u8 {
            assert_eq!(to_byte(TO_CHAR[usize::from(byte)]), Some(byte));
        }
        assert_eq!(to_byte(' '), None);
        assert_eq!(to_byte('中'), None);
    }
}
