//! That nothing is left: no process, no namespace, no mount, no control group, no disk; after a story that was told to its
//! end, and after one that failed.

use std::path::PathBuf;
use std::sync::Mutex;

use crate::image::BOOKWORM;
use crate::lab::{alone, secs, wait_for};
use crate::machine::Machine;
use crate::story::Story;

/// Ends a story and looks for what is left of it.
///
/// # Panics
/// When something is.
pub fn none(story: Story) {
    let hub = story.trio.hub.ns.name();
    let traces: Vec<PathBuf> = story.trio.machines.values().flat_map(Machine::traces).collect();
    assert!(traces.len() >= 3 * 3, "what is looked for is what can be found: {traces:?}");
    drop(story);
    gone(&traces, &hub);
}

fn gone(traces: &[PathBuf], hub: &str) {
    wait_for("clean machine", secs(5), || {
        let mut left: Vec<String> =
            traces.iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains("mainstay-package-")).map(str::to_owned));
        left.extend(members(hub));
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Processes in the wire's namespace.
fn members(hub: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let inside =
        |path: &PathBuf| std::fs::read_link(path.join("ns/net")).is_ok_and(|link| link.display().to_string() == hub);
    processes.filter(inside).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_story_that_fails_leaves_nothing() {
    let Some(_alone) = alone() else { return };
    let seen = Mutex::new((Vec::new(), String::new()));
    let panicked = std::panic::catch_unwind(|| {
        crate::machine::clear_remains();
        let image = crate::image::of(&BOOKWORM);
        let hub = crate::hub::make().expect("a bridge");
        let mut machine = Machine::new(9, &image.root, &image.archives, &hub).expect("a disk");
        machine.on();
        *seen.lock().expect("lock") = (machine.traces(), hub.ns.name());
        machine.booted();
        panic!("on purpose, to see what a failing test leaves behind");
    });
    assert!(panicked.is_err());
    let (traces, hub) = seen.into_inner().expect("lock");
    assert!(traces.len() >= 4, "{traces:?}");
    gone(&traces, &hub);
}
