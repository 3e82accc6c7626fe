//! A Debian to boot, made by mmdebstrap from the mirror that this machine's own apt uses, and beside it the packages of
//! Redis or Valkey and of all they need, as apt fetched them: the containers have no way to the outside.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Locked, run, secs, store};

/// Which Debian, and whose instance is tried on it.
pub struct Release {
    pub codename: &'static str,
    /// The package of the instance; its unit has the same name.
    pub server: &'static str,
}

pub const BOOKWORM: Release = Release { codename: "bookworm", server: "redis-server" };
pub const TRIXIE: Release = Release { codename: "trixie", server: "valkey-server" };

/// What an ordinary host has beside apt. iproute2 is for the tests' own questions.
const INCLUDED: &str = "systemd,systemd-sysv,dbus,iproute2,procps";

/// Whose signature the containers' apt knows.
const SIGNER: &str = "package-test@mainstay.example";

/// What must not happen by itself in the middle of a test, or holds the boot up.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
];

/// The image's folder, and that of the server's packages.
pub struct Image {
    pub root: PathBuf,
    pub archives: PathBuf,
}

/// The image of a release, made if it is not there.
///
/// # Panics
/// When it cannot be made.
pub fn of(release: &Release) -> Image {
    let _one = Locked::take(release.codename);
    let recipe = format!("{INCLUDED} {MASKED:?} {} {}", release.codename, release.server);
    let id = format!("{}-{:08x}", release.codename, crc32fast::hash(recipe.as_bytes()));
    let image = Image { root: store().join(&id), archives: store().join(format!("{id}-archives")) };
    // Its last step; a folder without it was cut short.
    let whole = image.archives.join("whole");
    if !whole.exists() {
        let _ = std::fs::remove_dir_all(&image.root);
        let _ = std::fs::remove_dir_all(&image.archives);
        std::fs::create_dir_all(&image.archives).expect("a folder");
        make(release, &image);
        std::fs::write(whole, "").expect("a file");
    }
    image
}

fn make(release: &Release, image: &Image) {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--mode=root", "--variant=apt", "--format=directory", "--skip=check/qemu"])
        .arg(format!("--include={INCLUDED}"))
        .args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io"])
        .arg(hook("systemctl enable systemd-networkd"))
        .arg(hook(&format!("systemctl mask {}", MASKED.join(" "))))
        .arg(hook(&format!("apt-get -q -y --download-only --no-install-recommends install {}", release.server)))
        .arg(format!(
            "--customize-hook=cp \"$1\"/var/cache/apt/archives/*.deb {}",
            quoted(&image.archives.display().to_string())
        ))
        .arg(release.codename)
        .arg(&image.root)
        .arg(format!("deb {} {} main", mirror(), release.codename));
    run(&mut command, secs(300));
}

fn hook(line: &str) -> String {
    format!("--customize-hook=chroot \"$1\" {line}")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Where this machine's own Debian comes from.
fn mirror() -> String {
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian", "Component: main"]);
    let said = run(&mut ask, secs(20));
    said.lines().next().expect("apt knows no Debian mirror: apt-get update").to_owned()
}

/// A signed repository of `debs` and of the image's packages, made as the documentation says; its key is made for it.
pub fn repository(image: &Image, debs: &[&Path], at: &Path) {
    // Emptied and not removed: containers that run see this very folder.
    for old in std::fs::read_dir(at).into_iter().flatten().flatten() {
        std::fs::remove_file(old.path()).expect("an old package");
    }
    let home = Path::new("/dev/shm").join(format!("mainstay-package-{}-gpg", std::process::id()));
    std::fs::create_dir_all(&home).expect("a folder");
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    let with_key = |command: &mut Command| run(command.env("GNUPGHOME", &home), secs(60));
    let make = ["--batch", "--quiet", "--passphrase", "", "--quick-gen-key", SIGNER, "ed25519", "sign", "1d"];
    with_key(Command::new("gpg").args(make));
    let archives = std::fs::read_dir(&image.archives).expect("the packages").flatten().map(|entry| entry.path());
    let archives = archives.filter(|path| path.extension().is_some_and(|end| end == "deb"));
    let script = crate::lab::root().join("packaging/apt-repository.sh");
    with_key(Command::new("sh").arg(script).args(["--sign", SIGNER]).arg(at).args(debs).args(archives));
    with_key(Command::new("gpgconf").args(["--kill", "all"]));
    std::fs::remove_dir_all(&home).expect("the key is gone");
}
