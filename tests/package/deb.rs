//! The package, built as a packager would: dpkg-buildpackage on a copy of the tree, with the target folder of the project.
//!
//! Built anew only when what it is made of has changed. A newer version, to upgrade to, is the same with another number:
//! unpacked, renumbered and packed again, with all its maintainer scripts. `PACKAGE_DEB` names a package to try instead.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image;
use crate::lab::{Locked, fingerprint, root, run, secs, store};

/// What the package is made of, and nothing else of the tree.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "src",
    "debian",
    "systemd",
    "packaging",
];
/// The workspace's other member: cargo wants its manifest and its sources' names.
const MEMBER: &str = "tests/fuzz";

/// The longest that a build from nothing may take.
const BUILD: std::time::Duration = secs(900);

/// What was built.
pub struct Built {
    /// The package.
    pub deb: PathBuf,
    /// The same as version [`NEWER`].
    pub newer: PathBuf,
    /// What lintian looks at: package and source.
    pub changes: PathBuf,
}

/// The version to upgrade to.
pub const NEWER: &str = "0.1.0+next1";

/// The version in debian/changelog.
pub fn version() -> String {
    let changelog = std::fs::read_to_string(root().join("debian/changelog")).expect("debian/changelog");
    let version = changelog.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(version, _)| version);
    version.expect("a version").to_owned()
}

/// The package of this tree.
///
/// # Panics
/// When it cannot be built.
pub fn built() -> Built {
    let _one = Locked::take("deb");
    if let Some(deb) = std::env::var_os("PACKAGE_DEB").map(PathBuf::from) {
        return given(deb);
    }
    let folder = store().join("deb");
    let sources: Vec<PathBuf> = SOURCES.iter().map(|name| root().join(name)).collect();
    let mark = format!("{:08x}", fingerprint(&sources));
    let known = folder.join("made-of");
    if std::fs::read_to_string(&known).ok().as_deref() != Some(&mark) {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        build(&folder);
        std::fs::write(&known, mark).expect("a file");
    }
    let found = |end: &str, version: &str| {
        let entries = std::fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.path());
        let start = format!("mainstay_{version}_");
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&start) && name.ends_with(end)
        };
        entries.into_iter().find(named).unwrap_or_else(|| panic!("no {start}*{end}"))
    };
    Built { deb: found(".deb", &version()), newer: found(".deb", NEWER), changes: found(".changes", &version()) }
}

/// What somebody built elsewhere.
fn given(deb: PathBuf) -> Built {
    let folder = store().join("given");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let newer = renumbered(&deb, &folder, NEWER);
    Built { newer, changes: deb.clone(), deb }
}

fn build(folder: &Path) {
    let tree = folder.join(format!("mainstay-{}", version()));
    let fuzz = tree.join(MEMBER);
    std::fs::create_dir_all(&fuzz).expect("a folder");
    for name in SOURCES {
        run(Command::new("cp").arg("-a").arg(root().join(name)).arg(&tree), secs(60));
    }
    for name in ["Cargo.toml", "src", "fuzz_targets"] {
        run(Command::new("cp").arg("-a").arg(root().join(MEMBER).join(name)).arg(&fuzz), secs(60));
    }
    let target = store().parent().expect("target").to_owned();
    let mut command = Command::new("dpkg-buildpackage");
    command.args(["--no-sign", "--build=full"]).env("CARGO_TARGET_DIR", target).current_dir(&tree);
    // The images of the tests to come are fetched and unpacked while one processor links the program.
    let said = std::thread::scope(|scope| {
        for release in [&image::BOOKWORM, &image::TRIXIE] {
            scope.spawn(move || image::of(release));
        }
        run(&mut command, BUILD)
    });
    std::fs::write(folder.join("build.log"), said).expect("a log");
    let deb = folder.join(format!("mainstay_{}_{}.deb", version(), architecture()));
    renumbered(&deb, folder, NEWER);
}

/// Debian's name of this machine's architecture.
pub fn architecture() -> String {
    run(Command::new("dpkg").arg("--print-architecture"), secs(10)).trim().to_owned()
}

/// A copy of a package under another version; its path.
pub fn renumbered(deb: &Path, folder: &Path, version: &str) -> PathBuf {
    let unpacked = folder.join(format!("unpacked-{version}"));
    run(Command::new("dpkg-deb").arg("-R").arg(deb).arg(&unpacked), secs(60));
    let control = unpacked.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("a control file");
    let lines = text.lines().map(|line| match line.starts_with("Version:") {
        true => format!("Version: {version}\n"),
        false => format!("{line}\n"),
    });
    std::fs::write(&control, lines.collect::<String>()).expect("a control file");
    let path = folder.join(format!("mainstay_{version}_{}.deb", architecture()));
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&unpacked).arg(&path), secs(120));
    path
}
