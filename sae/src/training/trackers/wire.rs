//! Bytes as event files have them: protobuf fields, and the checksums around them.

/// Polynomial of CRC-32C, reversed.
pub(super) const CASTAGNOLI: u32 = 0x82F6_3B78;
/// Polynomial of the CRC-32 of Ethernet and zip, reversed.
pub(super) const IEEE: u32 = 0xEDB8_8320;

/// A CRC, bit by bit: records are small and rare.
pub(super) fn crc(polynomial: u32, data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ (polynomial & (c & 1).wrapping_neg()))
    })
}

fn raw_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    raw_varint(out, field << 3 | wire);
}

/// A whole number.
pub(super) fn varint(out: &mut Vec<u8>, field: u64, v: u64) {
    key(out, field, 0);
    raw_varint(out, v);
}

/// 64-bit floating point.
pub(super) fn double(out: &mut Vec<u8>, field: u64, v: f64) {
    key(out, field, 1);
    out.extend(v.to_le_bytes());
}

/// A string, bytes or a message.
pub(super) fn bytes(out: &mut Vec<u8>, field: u64, v: &[u8]) {
    key(out, field, 2);
    raw_varint(out, v.len() as u64);
    out.extend(v);
}

/// 32-bit floating point.
pub(super) fn float(out: &mut Vec<u8>, field: u64, v: f32) {
    key(out, field, 5);
    out.extend(v.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_those_of_their_catalogue() {
        assert_eq!(crc(CASTAGNOLI, b"123456789"), 0xE306_9283);
        assert_eq!(crc(IEEE, b"123456789"), 0xCBF4_3926);
    }
}
