//! What must hold of any input: no panic, bounded memory, bounded time, and what is understood survives its own encoding.
//!
//! libFuzzer runs these over mutated inputs (`run.sh`), and `tests/corpus.rs` over every file of the corpus. Each
//! function takes bytes and panics where something does not hold.

mod frames;
mod meter;
mod records;
mod sentinel;

pub use frames::{frames, seeds as frame_seeds};
pub use meter::bounded;
pub use records::{records, seeds as record_seeds};
pub use sentinel::{seeds as sentinel_seeds, sentinel};

use mainstay::ctl::protocol::{MAX_REASON, MAX_REQUEST, Request, Response, to_line};

/// Lines on the control socket, as agent and command line read them.
///
/// # Panics
/// A request or answer that was understood is another one after it was written again.
pub fn requests(data: &[u8]) {
    for line in data.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len().min(MAX_REQUEST)]) {
        match serde_json::from_slice::<Request>(line) {
            Ok(request) => {
                let again = to_line(&request).expect("a request can be written");
                assert_eq!(serde_json::from_slice::<Request>(&again).ok(), Some(request.clone()));
                assert!(request.patience().as_secs() <= 15);
                if let Request::Pause { reason, .. } = &request {
                    assert!(reason.len() <= MAX_REASON, "a reason that is replicated has {} bytes", reason.len());
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if let Ok(response) = serde_json::from_slice::<Response>(line) {
            let again = to_line(&response).expect("an answer can be written");
            assert_eq!(serde_json::from_slice::<Response>(&again).ok(), Some(response));
        }
    }
}

/// A configuration file, as the agent and `mainstay check` read it.
///
/// # Panics
/// A fault without words, or a config whose own parts contradict each other.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match mainstay::config::parse(text, "mainstay.toml") {
        Ok((config, warnings)) => {
            let policy = config.policy();
            assert_eq!(policy.groups.len(), config.groups.len(), "two groups of one name");
            assert!(!policy.lease.is_zero() && policy.hang_after >= policy.lease);
            assert!(warnings.iter().all(|warning| !warning.to_string().is_empty()));
            let _ = mainstay::config::unbuilt(&config);
        }
        Err(faults) => assert!(faults.to_string().contains("mainstay.toml"), "a fault names its file"),
    }
}
