//! What was done to the cluster and when, in a file of the lab's directory: it is shown and kept when a run fails.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub struct Timeline {
    start: Instant,
    file: Mutex<File>,
    /// How to see it again.
    pub replay: Mutex<String>,
}

impl Timeline {
    pub fn new(dir: &Path) -> Self {
        let file = File::create(dir.join("timeline.log")).expect("the lab's directory");
        Self { start: Instant::now(), file: Mutex::new(file), replay: Mutex::default() }
    }

    pub fn say(&self, what: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let day = wall.as_secs() % 86_400;
        let clock = (day / 3600, day / 60 % 60, day % 60, wall.subsec_millis());
        let line = format!(
            "{:9.3} ({:02}:{:02}:{:02}.{:03}) {what}",
            self.start.elapsed().as_secs_f64(),
            clock.0,
            clock.1,
            clock.2,
            clock.3
        );
        let _ = writeln!(file, "{line}");
        println!("{line}");
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("again: {}", self.replay.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}
