//! A disk that has no room: refused by name at creation.

use super::{start, told_dir};
use mainstay::store::Store;

#[test]
#[ignore = "what `a_full_disk_is_refused_at_creation` starts on a tiny file system"]
fn creator() {
    match Store::open(&told_dir(), "edge", "n1") {
        Ok(_) => println!("\n#opened"),
        Err(error) => println!("\n#refused {error}"),
    }
}

#[test]
fn a_full_disk_is_refused_at_creation() {
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=256k,mode=700 none \"$MAINSTAY_TEST_STORE\" && exec \"$@\"";
    let child = start("full::creator", dir.path(), &["unshare", "-Urm", "sh", "-c", mount, "sh"], &[]);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("#refused") && text.contains("data.mdb") && text.contains("free space"), "{text}");
}
