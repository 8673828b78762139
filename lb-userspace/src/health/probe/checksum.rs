//! The Internet checksum (RFC 1071) of the probes that raw sockets send.

#![forbid(unsafe_code)]

use std::net::IpAddr;

/// The checksum over all parts; each but the last must have an even length.
pub(super) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for part in parts {
        let mut words = part.chunks_exact(2);
        sum += words.by_ref().map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
        sum += words.remainder().first().map_or(0, |odd| u32::from(*odd) << 8);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = sum as u16;
    (!folded).to_be_bytes()
}

/// The pseudo header of a segment of `length` bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
///
/// Both families sum to the same as their own layouts do; unused bytes are zero and do not count.
pub(super) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u16) -> [u8; 36] {
    let mut header = [0; 36];
    let mut put = |at: usize, address: IpAddr| match address {
        IpAddr::V4(address) => header[at..at + 4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => header[at..at + 16].copy_from_slice(&address.octets()),
    };
    put(0, source);
    put(16, destination);
    header[33] = protocol;
    header[34..36].copy_from_slice(&length.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_over_data_and_its_checksum_is_zero() {
        let data = [0x45, 0x00, 0x00, 0x73, 0x12, 0x34, 0xff];
        let [high, low] = checksum(&[&data]);
        // The odd byte is padded, so the checksum follows the padding.
        let whole = [0x45, 0x00, 0x00, 0x73, 0x12, 0x34, 0xff, 0x00, high, low];
        assert_eq!(checksum(&[&whole]), [0, 0]);
    }

    #[test]
    fn example_of_rfc_1071_sums_as_printed_there() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), [0x22, 0x0d]);
    }
}
