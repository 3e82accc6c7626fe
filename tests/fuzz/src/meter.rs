//! Counts what an input makes the process allocate, so that "bounded memory" is a figure and not a hope.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// More than an input of these sizes may take, in bytes: what serde sets aside for a claimed length, and tables.
const FIXED: usize = 8 << 20;
/// And per byte of input.
const PER_BYTE: usize = 1 << 10;
/// No input may take longer, of the processor's time: the machine may be busy with other things.
const TIME: Duration = Duration::from_secs(2);

/// The system's allocator, with a count for each thread.
pub struct Meter;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn add(size: usize) {
    let now = NOW.get().saturating_add(size);
    NOW.set(now);
    MOST.set(MOST.get().max(now));
}

#[allow(unsafe_code)]
// SAFETY: everything is handed to the system's allocator as it came; the counters are plain cells without destructors.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.set(NOW.get().saturating_sub(layout.size()));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        NOW.set(NOW.get().saturating_sub(layout.size()));
        add(size);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static METER: Meter = Meter;

/// Processor time of this thread.
fn used() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Runs `property` on `data` and holds it to its bounds.
///
/// # Panics
/// The property does not hold, or takes too much.
pub fn bounded(property: impl FnOnce(&[u8]), data: &[u8]) {
    let (begun, before) = (used(), NOW.get());
    MOST.set(before);
    property(data);
    let took = MOST.get().saturating_sub(before);
    let allowed = FIXED + PER_BYTE * data.len();
    assert!(took <= allowed, "{} bytes of input took {took} bytes of memory", data.len());
    let time = used().saturating_sub(begun);
    assert!(time <= TIME, "{} bytes of input took {time:?}", data.len());
}
