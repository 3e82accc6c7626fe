//! The RDB file format, as far as writing one from `DUMP` answers needs it: header, databases, keys, checksum.
//!
//! A `DUMP` payload is one value as an RDB file holds it (type byte and bytes), followed by the format's version and a
//! checksum: so a file is put together without the instance's own help, hence without a right on its directory and
//! without `CONFIG SET dbfilename`, which Redis 7 refuses by default. Pure: bytes in, bytes out.

use std::time::Duration;

const AUX: u8 = 0xFA;
const EXPIRE_MS: u8 = 0xFC;
const SELECT_DB: u8 = 0xFE;
const END: u8 = 0xFF;
/// Version (2 bytes) and checksum (8 bytes) at the end of a `DUMP` payload.
const FOOTER: usize = 10;
/// What every server since Redis 5 reads; used where no payload says a version.
const OLD_VERSION: u16 = 9;
/// From this version on the format is Valkey's own, which a file says in its first word.
const VALKEYS_OWN: u16 = 80;
/// CRC-64 of Jones, reflected, as Redis uses it.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
const TABLE: [u64; 256] = table();

const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

fn crc64(crc: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(crc, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// A payload that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer to DUMP is damaged")]
pub struct Damaged;

/// The value and the version of a `DUMP` or `FUNCTION DUMP` payload, its checksum verified.
fn payload(bytes: &[u8]) -> Result<(&[u8], u16), Damaged> {
    let (body, footer) = bytes.split_at_checked(bytes.len().wrapping_sub(FOOTER)).ok_or(Damaged)?;
    let (version, sum) = footer.split_at_checked(2).ok_or(Damaged)?;
    let (version, sum) = (version.try_into().map_err(|_| Damaged)?, sum.try_into().map_err(|_| Damaged)?);
    let sum = u64::from_le_bytes(sum);
    // Zero: checksums are switched off.
    if sum != 0 && sum != crc64(0, &bytes[..bytes.len() - 8]) {
        return Err(Damaged);
    }
    Ok((body, u16::from_le_bytes(version)))
}

/// One value of the data set, as the instance gave it.
#[derive(Debug)]
pub struct Entry {
    pub(super) key: Vec<u8>,
    /// A `DUMP` payload.
    pub(super) payload: Vec<u8>,
    /// Its time on the wall clock, since 1970.
    pub(super) expires: Option<Duration>,
}

/// A piece of the data set, as it was read; [`RdbFile`] makes bytes of it.
#[derive(Debug)]
pub enum Piece {
    /// A `FUNCTION DUMP` payload.
    Functions(Vec<u8>),
    /// What follows is of this database.
    Database(u64),
    /// Keys with their values.
    Entries(Vec<Entry>),
    /// There is no more: the file is complete.
    End,
}

/// Puts the pieces together to a file. It computes checksums of all that goes through it, and so belongs on a thread of
/// its own.
#[derive(Debug)]
pub struct RdbFile {
    remarks: Vec<(&'static str, String)>,
    begun: bool,
    /// The keys that follow are of this database; said with the first of them.
    database: Option<u64>,
    writer: Writer,
}

impl RdbFile {
    /// A file with remarks that no server minds.
    pub fn new(remarks: Vec<(&'static str, String)>) -> Self {
        Self { remarks, begun: false, database: None, writer: Writer::default() }
    }

    /// The bytes that a piece adds to the file.
    ///
    /// # Errors
    /// A payload is damaged.
    pub fn bytes(&mut self, piece: Piece) -> Result<Vec<u8>, Damaged> {
        match piece {
            Piece::Functions(bytes) => {
                let (body, version) = payload(&bytes)?;
                self.begin(version);
                self.writer.functions(body);
            }
            Piece::Database(number) => self.database = Some(number),
            Piece::Entries(entries) => {
                for Entry { key, payload: bytes, expires } in entries {
                    let (body, version) = payload(&bytes)?;
                    self.begin(version);
                    if let Some(number) = self.database.take() {
                        self.writer.database(number);
                    }
                    self.writer.key(&key, body, expires)?;
                }
            }
            Piece::End => {
                self.begin(OLD_VERSION);
                return Ok(self.writer.end());
            }
        }
        Ok(self.writer.take())
    }

    /// The version is that of the first payload.
    fn begin(&mut self, version: u16) {
        if !std::mem::replace(&mut self.begun, true) {
            self.writer.begin(version, &self.remarks);
        }
    }
}

/// Puts one file together; the caller takes the bytes away as they come.
#[derive(Debug, Default)]
struct Writer {
    out: Vec<u8>,
    crc: u64,
}

impl Writer {
    /// The header, with remarks that no server minds.
    fn begin(&mut self, version: u16, remarks: &[(&str, String)]) {
        let magic = if version < VALKEYS_OWN { format!("REDIS{version:04}") } else { format!("VALKEY{version:03}") };
        self.out.extend_from_slice(magic.as_bytes());
        for (name, value) in remarks {
            self.out.push(AUX);
            self.string(name.as_bytes());
            self.string(value.as_bytes());
        }
    }

    /// Function libraries, as `FUNCTION DUMP` gives them.
    fn functions(&mut self, body: &[u8]) {
        self.out.extend_from_slice(body);
    }

    /// The keys that follow are of this database.
    fn database(&mut self, number: u64) {
        self.out.push(SELECT_DB);
        self.length(number);
    }

    /// One key. `expires`: its time on the wall clock, since 1970.
    fn key(&mut self, key: &[u8], body: &[u8], expires: Option<Duration>) -> Result<(), Damaged> {
        let (kind, value) = body.split_first().ok_or(Damaged)?;
        if let Some(at) = expires {
            self.out.push(EXPIRE_MS);
            let ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            self.out.extend_from_slice(&ms.to_le_bytes());
        }
        self.out.push(*kind);
        self.string(key);
        self.out.extend_from_slice(value);
        Ok(())
    }

    /// What has been put together since the last time.
    fn take(&mut self) -> Vec<u8> {
        self.crc = crc64(self.crc, &self.out);
        std::mem::take(&mut self.out)
    }

    /// The last bytes of the file.
    fn end(&mut self) -> Vec<u8> {
        self.out.push(END);
        let mut last = self.take();
        last.extend_from_slice(&self.crc.to_le_bytes());
        last
    }

    fn string(&mut self, bytes: &[u8]) {
        self.length(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    fn length(&mut self, length: u64) {
        match (u32::try_from(length), length) {
            (_, 0..64) => self.out.push(length as u8),
            (_, 64..16_384) => self.out.extend_from_slice(&((length as u16) | 0x4000).to_be_bytes()),
            (Ok(length), _) => {
                self.out.push(0x80);
                self.out.extend_from_slice(&length.to_be_bytes());
            }
            (Err(_), _) => {
                self.out.push(0x81);
                self.out.extend_from_slice(&length.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_servers() {
        // The check value that Redis itself tests its function with.
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_file_names_the_format_of_its_server() {
        let first = |version| {
            let mut writer = Writer::default();
            writer.begin(version, &[]);
            String::from_utf8(writer.take()).unwrap()
        };
        assert_eq!([first(9), first(11)], ["REDIS0009", "REDIS0011"]);
        assert_eq!(first(80), "VALKEY080");
    }

    #[test]
    fn a_damaged_payload_is_refused() {
        let mut whole = vec![0, 3, b'a', b'b', b'c', 10, 0];
        let sum = crc64(0, &whole);
        whole.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(payload(&whole), Ok((&whole[..5], 10)));
        for at in 0..whole.len() - 8 {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            assert_eq!(payload(&broken), Err(Damaged));
        }
        for length in 0..whole.len() {
            assert_eq!(payload(&whole[..length]), Err(Damaged), "cut to {length}");
        }
    }

    #[test]
    fn lengths_are_the_formats() {
        let encoded = |length| {
            let mut writer = Writer::default();
            writer.length(length);
            writer.out
        };
        assert_eq!(encoded(63), [63]);
        assert_eq!(encoded(64), [0x40, 64]);
        assert_eq!(encoded(16_383), [0x7f, 0xff]);
        assert_eq!(encoded(16_384), [0x80, 0, 0, 0x40, 0]);
        assert_eq!(encoded(1 << 32), [0x81, 0, 0, 0, 1, 0, 0, 0, 0]);
    }
}
