//! What a disk gives back: each kind of record under its checksum, and a whole data file altered where it lies.

use mainstay::cluster::{Command, Incarnation, Local, Node, NodeId, State};
use mainstay::store::{Identity, Store, probe};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;

/// The first byte says which record the rest is; beyond the kinds it is a list of alterations of a data file.
///
/// # Panics
/// See the crate.
pub fn records(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    if *kind < 128 {
        probe::record(*kind, rest);
    } else {
        altered(rest);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn fast() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
}

/// A directory with a small whole store, and the bytes of its data file.
static WHOLE: LazyLock<(tempfile::TempDir, Vec<u8>, Local)> = LazyLock::new(|| {
    let dir = fast();
    let local = Local {
        longest_lease: std::time::Duration::from_millis(800),
        groups: [("g".into(), Default::default())].into(),
    };
    runtime().block_on(async {
        let store = Store::open(dir.path(), "edge", "n1").expect("a store");
        store.enrol(NodeId(7), 99).await.expect("it is written");
        for _ in 0..3 {
            store.save_local(&local).await.expect("it is written");
        }
        store.close().await;
    });
    let bytes = fs::read(dir.path().join("data.mdb")).expect("it is read");
    (dir, bytes, local)
});

/// Alterations of four bytes each: where (page, and 16 bits within), and the byte that is put there. What the page
/// check lets through is opened, and then holds what it held.
fn altered(rest: &[u8]) {
    let (dir, bytes, local) = &*WHOLE;
    let mut image = bytes.clone();
    for change in rest.chunks_exact(4).take(64) {
        let at = usize::from(change[0]) * 4096 + usize::from(u16::from_be_bytes([change[1], change[2]]));
        let at = at % image.len();
        image[at] = change[3];
    }
    let path = dir.path().join("data.mdb");
    let file = File::options().read(true).write(true).open(&path).expect("it is opened");
    file.write_all_at(&image, 0).expect("it is written");
    if !probe::pages_are_whole(&file) {
        return;
    }
    runtime().block_on(async {
        match Store::open(dir.path(), "edge", "n1") {
            Ok(store) => {
                assert_eq!(store.local(), *local);
                assert_eq!((store.identity().node_id, store.identity().generation), (Some(NodeId(7)), 99));
                store.close().await;
            }
            Err(error) => assert!(error.to_string().contains("data.mdb"), "{error}"),
        }
    });
}

/// Inputs that are understood, to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let (_, bytes, local) = &*WHOLE;
    let record = Node { name: "n1".into(), address: "h:1".into(), incarnation: Incarnation(5), introduced: true };
    let mut state = State::default();
    state.apply(&Command::AddNode { node: NodeId(1), record }).expect("it fits");
    let identity = Identity {
        cluster: "edge".into(),
        node: "n1".into(),
        node_id: Some(NodeId(1)),
        incarnation: Incarnation(5),
        generation: 3,
        superseded: None,
    };
    let mut seeds = vec![
        [vec![0], probe::body(&identity)].concat(),
        [vec![1], probe::body(local)].concat(),
        [vec![2], probe::body(&mainstay::store::Vote::new(3, NodeId(2)))].concat(),
        [vec![3], vec![3, 9]].concat(),
        [vec![5], vec![3, 9, 0]].concat(),
        [vec![6], probe::body(&state)].concat(),
        vec![128],
    ];
    // One alteration in the header of each page.
    for page in 0..bytes.len() / 4096 {
        seeds.push(vec![128, u8::try_from(page).unwrap_or(0), 0, 10, 1]);
    }
    seeds
}
