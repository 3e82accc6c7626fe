//! How a value lies on disk: schema version, CRC32, postcard.
//!
//! LMDB keeps no checksums and postcard does not describe itself, so every value says which schema wrote it and proves
//! that it is what was written, under the key it was written under. A value that does not is never decoded.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Schema of everything in the store. A store of another schema is refused.
pub const SCHEMA: u8 = 1;

const HEADER: usize = 5;

/// Why a stored value cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Shorter than its header, or not the record it should be.
    #[error("is no record of this store")]
    Malformed,
    /// Other bytes than were written.
    #[error("fails its checksum")]
    Checksum,
    /// Written by another version of mainstay.
    #[error("has schema {0}, this version of mainstay reads schema {SCHEMA}")]
    Schema(u8),
}

fn checksum(key: &[u8], schema: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(&[schema]);
    hasher.update(body);
    hasher.finalize()
}

/// Encodes `value` for `key`.
///
/// # Errors
/// `Malformed` if serde refuses the value, which none of ours does.
pub(super) fn seal<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, Flaw> {
    let body = postcard::to_stdvec(value).map_err(|_| Flaw::Malformed)?;
    Ok(under_checksum(key, &body))
}

/// An encoded value with its header.
pub(super) fn under_checksum(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.push(SCHEMA);
    out.extend_from_slice(&checksum(key, SCHEMA, body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Decodes what [`seal`] wrote for `key`.
///
/// # Errors
/// The flaw: the checksum counts before the schema, so that damage is never reported as a foreign version.
pub(super) fn open<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, Flaw> {
    let (head, body) = bytes.split_at_checked(HEADER).ok_or(Flaw::Malformed)?;
    let [schema, sum @ ..] = head else { return Err(Flaw::Malformed) };
    if checksum(key, *schema, body).to_le_bytes() != *sum {
        return Err(Flaw::Checksum);
    }
    if *schema != SCHEMA {
        return Err(Flaw::Schema(*schema));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(Flaw::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_under_its_own_key_only() {
        let bytes = seal(b"a", &(7_u64, "text")).unwrap();
        assert_eq!(open::<(u64, String)>(b"a", &bytes), Ok((7, "text".to_owned())));
        assert_eq!(open::<(u64, String)>(b"b", &bytes), Err(Flaw::Checksum));
        assert_eq!(open::<u64>(b"a", &bytes), Err(Flaw::Malformed));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = seal(b"k", &"some value").unwrap();
        for at in 0..bytes.len() {
            assert!(open::<String>(b"k", &bytes[..at]).is_err());
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                assert!(open::<String>(b"k", &altered).is_err());
            }
        }
    }

    #[test]
    fn another_schema_is_named() {
        let mut bytes = seal(b"k", &1_u8).unwrap();
        bytes[0] = 9;
        let sum = checksum(b"k", 9, &bytes[HEADER..]);
        bytes[1..HEADER].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(open::<u8>(b"k", &bytes), Err(Flaw::Schema(9)));
    }
}
