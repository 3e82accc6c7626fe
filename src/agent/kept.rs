//! The config as the agent read it last, kept for its unit's `ExecStopPost`: an edit that went wrong must not take away the
//! brake of an agent that was running well.
//!
//! It lies in the directory that systemd makes for the unit and names in RUNTIME_DIRECTORY; without one nothing is kept.
//! Whoever runs as root does not read it: the agent's own user could have written anything there.

use crate::config::{self, Config, ConfigError};
use std::path::{Path, PathBuf};

/// Its name there.
const NAME: &str = "mainstay.toml.in-force";

fn place() -> Option<PathBuf> {
    let all = std::env::var_os("RUNTIME_DIRECTORY")?;
    // Several are parted by colons; ours is the first.
    let first = all.to_str()?.split(':').next()?;
    let dir = PathBuf::from(first);
    dir.is_absolute().then(|| dir.join(NAME))
}

/// Keeps this file, which has just been read. Blocks on two small files. What cannot be kept is not worth a failure.
pub fn keep(file: &Path) {
    let Some(place) = place() else { return };
    if let Err(error) = keep_at(file, &place) {
        tracing::warn!("{}: not kept, so a fence goes by {} alone: {error}", place.display(), file.display());
    }
}

fn keep_at(file: &Path, place: &Path) -> std::io::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let new = place.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, place)
}

/// The config of this file, or, where that is gone or broken, what the agent had read before.
///
/// # Errors
/// There is neither; what is wrong with the file.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    load_at(file, place().filter(|_| !nix::unistd::geteuid().is_root()).as_deref())
}

fn load_at(file: &Path, place: Option<&Path>) -> Result<Config, ConfigError> {
    config::load(file).map(|(config, _)| config).or_else(|error| {
        let Some(place) = place.filter(|place| place.is_file()) else { return Err(error) };
        let Ok((config, _)) = config::load(place) else { return Err(error) };
        eprintln!("mainstay: {error}\nmainstay: going by {}, which the agent had read before", place.display());
        Ok(config)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_force_stands_in_for_a_file_that_is_broken_or_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, place) = (dir.path().join("mainstay.toml"), dir.path().join(NAME));
        let text = "[node]\nname = \"n1\"\naddress = \"10.0.0.1:7400\"\n[cluster]\nname = \"edge\"\n\
                    members = { n1 = \"10.0.0.1:7400\" }\n";
        std::fs::write(&file, text).expect("written");
        assert_eq!(load_at(&file, Some(&place)).expect("the file itself").node.name, "n1");
        keep_at(&file, &place).expect("kept");
        std::fs::write(&file, "[node\n").expect("written");
        assert!(load_at(&file, None).is_err(), "nothing was kept");
        assert_eq!(load_at(&file, Some(&place)).expect("the kept one").cluster.name, "edge");
        std::fs::remove_file(&file).expect("removed");
        assert!(load_at(&file, Some(&place)).is_ok());
        std::fs::write(&place, "[node\n").expect("written");
        let said = load_at(&file, Some(&place)).expect_err("neither").to_string();
        assert!(said.contains(&file.display().to_string()), "{said}");
    }
}
