//! Writing the files of a plan, and taking them back.
//!
//! Each is replaced in one rename and was never open wider than meant. The manifest keeps a checksum of what was
//! written: a file that differs from it was edited, and is neither overwritten nor removed without `--force`, which
//! keeps a copy. All files are looked at before the first is touched.

use super::plan::{Content, FileToWrite, Plan, below};
use super::{MANIFEST, SetupError};
use nix::unistd::{Gid, Group};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It was not there, and is now.
    Written(PathBuf),
    /// It was as written before, and is as wanted now.
    Replaced(PathBuf),
    /// It was edited; a copy is in the second place.
    Overwritten(PathBuf, PathBuf),
    /// It was as wanted.
    Unchanged(PathBuf),
    /// It is gone.
    Removed(PathBuf),
    /// It was edited, and is left.
    Left(PathBuf),
    /// There is no such group here; root alone may read the file.
    NoGroup(PathBuf, String),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(path) => write!(f, "wrote {}", path.display()),
            Self::Replaced(path) => write!(f, "replaced {}, which was as written before", path.display()),
            Self::Overwritten(path, copy) => {
                write!(f, "overwrote {}; it was edited, a copy is {}", path.display(), copy.display())
            }
            Self::Unchanged(path) => write!(f, "left {} as it is", path.display()),
            Self::Removed(path) => write!(f, "removed {}", path.display()),
            Self::Left(path) => {
                write!(f, "left {}: it was edited since it was written; --force removes it", path.display())
            }
            Self::NoGroup(path, group) => {
                write!(f, "{}: there is no group {group} here, so root alone may read it", path.display())
            }
        }
    }
}

/// What lies here is mainstay's own.
pub(super) const OWN: &str = "/etc/mainstay";

/// Checksums by path, as on the host.
type Manifest = BTreeMap<PathBuf, u32>;

fn read_manifest(root: &Path) -> Manifest {
    let text = fs::read_to_string(below(root, Path::new(MANIFEST))).unwrap_or_default();
    let line = |line: &str| {
        let (sum, path) = line.split_once(' ')?;
        Some((PathBuf::from(path), u32::from_str_radix(sum, 16).ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn write_manifest(root: &Path, manifest: &Manifest) -> Result<(), SetupError> {
    let path = below(root, Path::new(MANIFEST));
    if manifest.is_empty() {
        return match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SetupError::Io { path, what: "removing it", source })
            }
            _ => Ok(()),
        };
    }
    let text: String = manifest.iter().map(|(path, sum)| format!("{sum:08x} {}\n", path.display())).collect();
    put(&path, text.as_bytes(), 0o600, None)
}

/// How a file on the host stands to what was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Absent,
    /// As written, or never more than an example: no setting in it.
    Ours,
    Wanted,
    Edited,
}

fn standing(root: &Path, file: &FileToWrite, manifest: &Manifest) -> Result<Standing, SetupError> {
    let path = below(root, &file.path);
    let found = match fs::read(&path) {
        Ok(found) => found,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Standing::Absent),
        Err(source) => return Err(SetupError::Io { path, what: "reading it", source }),
    };
    Ok(match &file.content {
        Content::Kept => Standing::Wanted,
        Content::Text(text) if text.as_bytes() == found => Standing::Wanted,
        Content::Text(_) if manifest.get(&file.path) == Some(&crc32fast::hash(&found)) => Standing::Ours,
        Content::Text(_) if says_nothing(&found) => Standing::Ours,
        Content::Text(_) => Standing::Edited,
    })
}

fn says_nothing(found: &[u8]) -> bool {
    let text = String::from_utf8_lossy(found);
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

/// Writes all files of the plan.
///
/// # Errors
/// One was edited, then nothing was written; or the system refused.
pub fn write(plan: &Plan, root: &Path, force: bool) -> Result<Vec<Done>, SetupError> {
    let mut manifest = read_manifest(root);
    let mut standings = Vec::new();
    for file in &plan.files {
        let standing = standing(root, file, &manifest)?;
        if standing == Standing::Edited && !force {
            let what = match manifest.contains_key(&file.path) {
                true => "was edited since it was written, and is not overwritten",
                false => "was there before, and is not overwritten",
            };
            return Err(SetupError::Edited { path: below(root, &file.path), what });
        }
        standings.push(standing);
    }
    let mut done = Vec::new();
    for (file, standing) in plan.files.iter().zip(standings) {
        let path = below(root, &file.path);
        let copied = match standing {
            Standing::Edited => Some(keep_copy(&path)?),
            _ => None,
        };
        let gid = file.group.as_deref().and_then(group);
        if let (Some(wanted), None) = (&file.group, gid) {
            done.push(Done::NoGroup(path.clone(), wanted.clone()));
        }
        match &file.content {
            Content::Text(text) if standing != Standing::Wanted => {
                put(&path, text.as_bytes(), file.mode, gid)?;
                manifest.insert(file.path.clone(), crc32fast::hash(text.as_bytes()));
                // With every file, so that a run that is cut short can be taken back.
                write_manifest(root, &manifest)?;
            }
            _ => own(&path, file.mode, gid)?,
        }
        done.push(match (standing, copied) {
            (Standing::Absent, _) => Done::Written(path),
            (Standing::Ours, _) => Done::Replaced(path),
            (Standing::Edited, Some(copy)) => Done::Overwritten(path, copy),
            _ => Done::Unchanged(path),
        });
    }
    Ok(done)
}

/// Removes what an earlier run wrote; `instance_only`: but for what is mainstay's own, config, key and password. The drop-in
/// goes first, and the service manager is to `reload` before the settings go that the drop-in includes: a Redis that dies in
/// between must find what it starts with.
///
/// # Errors
/// The system refused.
pub fn remove(root: &Path, force: bool, instance_only: bool, reload: impl FnOnce()) -> Result<Vec<Done>, SetupError> {
    let mut manifest = read_manifest(root);
    let mut done = Vec::new();
    let drop_in = |file: &Path| file.parent().is_some_and(|dir| dir.extension().is_some_and(|end| end == "d"));
    let wanted = manifest.clone().into_iter().filter(|(file, _)| !instance_only || !file.starts_with(OWN));
    let (first, then): (Vec<_>, Vec<_>) = wanted.partition(|(file, _)| drop_in(file));
    let mut reload = (!first.is_empty()).then_some(reload);
    for (file, sum) in first.into_iter().chain(then) {
        if !drop_in(&file)
            && let Some(reload) = reload.take()
        {
            reload();
        }
        let path = below(root, &file);
        let fault = |what| {
            let path = path.clone();
            move |source| SetupError::Io { path, what, source }
        };
        match fs::read(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(fault("reading it")(source)),
            Ok(found) if crc32fast::hash(&found) != sum && !force => {
                done.push(Done::Left(path));
                continue;
            }
            Ok(found) => {
                if crc32fast::hash(&found) != sum {
                    keep_copy(&path)?;
                }
                fs::remove_file(&path).map_err(fault("removing it"))?;
                done.push(Done::Removed(path.clone()));
                // The drop-in's own directory, where nothing else lies in it.
                if drop_in(&path) {
                    let _ = path.parent().map(fs::remove_dir);
                }
            }
        }
        manifest.remove(&file);
        write_manifest(root, &manifest)?;
    }
    Ok(done)
}

fn group(name: &str) -> Option<Gid> {
    Group::from_name(name).ok().flatten().map(|group| group.gid)
}

fn keep_copy(path: &Path) -> Result<PathBuf, SetupError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".before-init");
    let copy = PathBuf::from(name);
    // Mode and all.
    fs::copy(path, &copy).map_err(|source| SetupError::Io { path: copy.clone(), what: "keeping a copy", source })?;
    Ok(copy)
}

fn put(path: &Path, content: &[u8], mode: u32, gid: Option<Gid>) -> Result<(), SetupError> {
    let fault = |what| move |source| SetupError::Io { path: path.to_owned(), what, source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fault("making its directory"))?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let _ = fs::remove_file(&fresh);
    // Nobody else's until it has its owner.
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(fault("writing it"))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(fault("writing it"))?;
    own(&fresh, mode, gid)?;
    fs::rename(&fresh, path).map_err(fault("putting it in place"))
}

fn own(path: &Path, mode: u32, gid: Option<Gid>) -> Result<(), SetupError> {
    let fault = |what| move |source| SetupError::Io { path: path.to_owned(), what, source };
    if let Some(gid) = gid {
        nix::unistd::chown(path, None, Some(gid)).map_err(|error| fault("giving it to its group")(error.into()))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fault("setting its mode"))
}
