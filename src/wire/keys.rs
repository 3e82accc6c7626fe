//! The cluster key: 32 random bytes shared by all nodes, and a second one while keys are rotated.
//!
//! Holds parsing and generating of the key file. It must never print, log or leave behind key material: `Debug` hides
//! it, errors name the line and not its text, memory is wiped on drop. A key file that others may read is refused.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::{Zeroize, Zeroizing};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes in a key.
const KEY_LEN: usize = 32;

/// Two lines of base64 are under 100 bytes; a file much larger is some other file.
const MAX_FILE: u64 = 4096;

/// The cluster key and, during a rotation, the one being retired.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// What we dial with, and accept.
    pub current: [u8; KEY_LEN],
    /// What we still accept, and dial with where the current one is refused.
    pub retiring: Option<[u8; KEY_LEN]>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retiring = if self.retiring.is_some() { "Some(..)" } else { "None" };
        write!(f, "Keys {{ current: .., retiring: {retiring} }}")
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.current.zeroize();
        self.retiring.zeroize();
    }
}

/// Which of the two keys a dial uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyChoice {
    /// The first line of the key file.
    #[default]
    Current,
    /// The second line; without one, the same as `Current`.
    Retiring,
}

impl Keys {
    pub(super) fn get(&self, choice: KeyChoice) -> &[u8; KEY_LEN] {
        match (choice, &self.retiring) {
            (KeyChoice::Retiring, Some(key)) => key,
            _ => &self.current,
        }
    }

    /// The key to try after `refused` was refused.
    pub(super) fn after(&self, refused: KeyChoice) -> KeyChoice {
        match refused {
            KeyChoice::Current if self.retiring.is_some() => KeyChoice::Retiring,
            _ => KeyChoice::Current,
        }
    }
}

/// Why a key file is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Cannot be opened or read.
    #[error("cannot read the key file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
    /// Not a plain file.
    #[error("the key file {path} is not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others could read it, or the owner cannot.
    #[error("the key file {path} has mode {mode:04o}; run: chmod 0640 {path} (0600 is allowed too)")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A fault in a named file.
    #[error("the key file {path}: {source}")]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<KeyError>,
    },
    /// Nothing in it.
    #[error("no key; write one with: mainstay keygen")]
    Empty,
    /// A line that is not base64.
    #[error("line {line} is not base64; write a key with: mainstay keygen")]
    NotBase64 {
        /// From 1.
        line: usize,
    },
    /// A line of the wrong length.
    #[error("line {line} holds {bytes} bytes, a key has {KEY_LEN}; write one with: mainstay keygen")]
    Length {
        /// From 1.
        line: usize,
        /// Decoded length.
        bytes: usize,
    },
    /// 32 times the same byte.
    #[error("line {line} is no random key; write one with: mainstay keygen")]
    Weak {
        /// From 1.
        line: usize,
    },
    /// Both lines are the same.
    #[error("line {line} repeats the current key; the second line is the key being retired")]
    Repeated {
        /// From 1.
        line: usize,
    },
    /// A third key.
    #[error("line {line} is one too many: the first is the key, the second the one being retired")]
    TooMany {
        /// From 1.
        line: usize,
    },
    /// The file is far too long for two keys.
    #[error("over {MAX_FILE} bytes, which is no key file")]
    TooLong,
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Reads the text of a key file: one key, or the key and the one being retired; blank lines do not count.
pub fn parse_key_file(text: &str) -> Result<Keys, KeyError> {
    let mut found: Vec<Zeroizing<[u8; KEY_LEN]>> = Vec::with_capacity(2);
    for (i, raw) in text.lines().enumerate() {
        let (line, raw) = (i + 1, raw.trim());
        if raw.is_empty() {
            continue;
        }
        if found.len() == 2 {
            return Err(KeyError::TooMany { line });
        }
        let bytes = Zeroizing::new(BASE64.decode(raw).map_err(|_| KeyError::NotBase64 { line })?);
        let key =
            <[u8; KEY_LEN]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Length { line, bytes: bytes.len() })?;
        if key.iter().all(|b| *b == key[0]) {
            return Err(KeyError::Weak { line });
        }
        if found.first().is_some_and(|first| **first == key) {
            return Err(KeyError::Repeated { line });
        }
        found.push(Zeroizing::new(key));
    }
    let mut found = found.into_iter();
    let current = *found.next().ok_or(KeyError::Empty)?;
    Ok(Keys { current, retiring: found.next().map(|key| *key) })
}

/// Reads a key file and refuses one whose mode is not 0600 or 0640. Blocks on the disk: for start and reload.
pub fn read_key_file(path: impl AsRef<Path>) -> Result<Keys, KeyError> {
    let path = path.as_ref();
    let read = |source| KeyError::Read { path: path.into(), source };
    // O_NONBLOCK: opening a FIFO put in the file's place must not hang the start.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(read)?;
    let meta = file.metadata().map_err(read)?;
    if !meta.is_file() {
        return Err(KeyError::NotAFile { path: path.into() });
    }
    let mode = meta.mode() & 0o7777;
    if mode != 0o600 && mode != 0o640 {
        return Err(KeyError::Mode { path: path.into(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize + 1));
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(read)?;
    let parsed = if text.len() as u64 > MAX_FILE { Err(KeyError::TooLong) } else { parse_key_file(&text) };
    parsed.map_err(|e| KeyError::In { path: path.into(), source: Box::new(e) })
}

/// A new random key, as one line of a key file.
pub fn generate_key() -> Result<String, KeyError> {
    let mut key = Zeroizing::new([0u8; KEY_LEN]);
    getrandom::fill(key.as_mut_slice()).map_err(KeyError::Random)?;
    Ok(BASE64.encode(key.as_slice()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_generated_key_is_read_back_alone_and_as_a_pair() {
        let (a, b) = (generate_key().unwrap(), generate_key().unwrap());
        assert_ne!(a, b);
        let one = parse_key_file(&format!("{a}\n")).unwrap();
        assert!(one.retiring.is_none());
        let two = parse_key_file(&format!("{b}\n\n{a}\n")).unwrap();
        assert_eq!(two.retiring, Some(one.current));
        assert_eq!(two.get(KeyChoice::Retiring), &one.current);
        assert_eq!(one.get(KeyChoice::Retiring), &one.current);
        assert_eq!(two.after(KeyChoice::Current), KeyChoice::Retiring);
        assert_eq!(two.after(KeyChoice::Retiring), KeyChoice::Current);
        assert_eq!(one.after(KeyChoice::Current), KeyChoice::Current);
        assert_eq!(parse_key_file(a.trim_end_matches('=')).unwrap().current, one.current);
    }

    #[test]
    fn faults_name_their_line_and_never_the_key() {
        let (a, b, c) = (generate_key().unwrap(), generate_key().unwrap(), generate_key().unwrap());
        let short = BASE64.encode([7u8; 16]);
        let cases = [
            (String::new(), "no key"),
            ("\n  \n".into(), "no key"),
            (format!("{a}\nnot base64!"), "line 2 is not base64"),
            (format!("\n{short}"), "line 2 holds 16 bytes"),
            (BASE64.encode([0u8; 32]), "line 1 is no random key"),
            (format!("{a}\n{a}"), "line 2 repeats"),
            (format!("{a}\n{b}\n{c}"), "line 3 is one too many"),
        ];
        for (text, want) in cases {
            let said = parse_key_file(&text).unwrap_err().to_string();
            assert!(said.contains(want), "{said}");
            assert!(!said.contains(&a), "{said}");
        }
        let keys = parse_key_file(&format!("{a}\n{b}")).unwrap();
        assert_eq!(format!("{keys:?}"), "Keys { current: .., retiring: Some(..) }");
    }

    #[test]
    fn the_file_mode_decides() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.key");
        std::fs::write(&path, generate_key().unwrap()).unwrap();
        for (mode, good) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false), (0o400, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = read_key_file(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
            if let Err(e) = read {
                assert!(e.to_string().contains("chmod 0640"), "{e}");
            }
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        assert!(matches!(read_key_file(&path), Err(KeyError::In { .. })));
        assert!(matches!(read_key_file(dir.path()), Err(KeyError::NotAFile { .. })));
        assert!(matches!(read_key_file(dir.path().join("none")), Err(KeyError::Read { .. })));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read_key_file(&fifo), Err(KeyError::NotAFile { .. })));
    }
}
