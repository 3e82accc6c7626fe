//! Links the program with relative relocations packed: a quarter of a megabyte less on disk and in memory. Needs glibc
//! 2.36, which is Debian 12's.
//!
//! A release has no names left to make a backtrace of, and aborts where it would unwind: the index of its unwinding tables
//! would be a tenth of a megabyte for nobody. The tables themselves stay; a debugger finds its way by them.

fn main() {
    println!("cargo:rerun-if-changed=packaging/link.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
}
